"""Requests to every endpoint of `altdiffusion serve` that no sane client sends, each a function of a seed and its number."""

from __future__ import annotations

import base64
import functools
import io
import json
import random
from dataclasses import dataclass
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Sent:
    """A request as ASGI has it."""

    method: str
    path: str
    query: bytes
    content_type: str
    body: bytes
    client: str


def request_of(number: int, seed: int, models: list[str]) -> Sent:
    """The request of a number."""
    rng = random.Random(f"{seed}:{number}")
    method, path, body, is_form = rng.choice(_endpoints(models[0])[rng.random() < 0.1])
    query, content_type, content = b"", "application/json", b""
    if rng.random() < 0.05:
        path = _odd_path(rng, path)
    if rng.random() < 0.1:
        query = rng.choice([b"skip_current_image=", b"x=%00&y=%ff", b"=&&=", b"a[b]=1"]) + _text(rng).encode(
            "utf-8", "replace"
        )
    if body is not None:
        for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 3, 5])):
            body = _mutated(rng, body, models)
        if is_form and isinstance(body, dict):
            content_type, content = _form(rng, body)
        else:
            content = json.dumps(body).encode()
        if rng.random() < 0.1:
            content = _damaged(rng, content)
        if rng.random() < 0.03:
            content_type = rng.choice(_CONTENT_TYPES)
    if rng.random() < 0.02:
        method = rng.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "QUERY"])
    return Sent(method, path, query, content_type, content, f"10.0.0.{rng.randrange(4)}")


def _png(mode: str, size: tuple[int, int] = (16, 16), form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, None if mode == "P" else 0).save(buffer, form)
    return buffer.getvalue()


_FILES = [_png("RGB"), _png("RGBA"), _png("L"), _png("P"), _png("1"), _png("I;16"), _png("RGB", (1, 16)), _png("RGB", (200, 1)),
          _png("RGB", form="JPEG"), _png("RGB", form="WEBP"), _png("CMYK", form="JPEG"), _png("RGB", form="GIF"),
          _png("RGB", form="TIFF"), _png("RGB", form="BMP"), _png("RGB")[:60], b"\x89PNG\r\n\x1a\n", b"", b"\0" * 9]  # fmt: skip
_IMAGES = [base64.b64encode(content).decode() for content in _FILES]
_IMAGE = _IMAGES[0]


@functools.cache
def _endpoints(model: str) -> tuple[list[tuple[str, str, Any, bool]], list[tuple[str, str, Any, bool]]]:
    """(method, path, a valid body, whether it is a form) of those with a body, and of those without. What has many fields
    stands there more than once."""
    image = {
        "prompt": "一只猫, (blue:1.2) sky", "negative_prompt": "ugly", "seed": 1, "steps": 2, "cfg_scale": 7, "width": 16,
        "height": 16, "sampler_name": "Euler a", "scheduler": "Karras", "batch_size": 1, "n_iter": 1, "styles": [],
        "override_settings": {"sd_model_checkpoint": model, "CLIP_stop_at_last_layers": 1}, "alwayson_scripts": {},
        "restore_faces": False, "tiling": False, "eta": 0, "s_churn": 0, "send_images": True, "script_args": [],
    }  # fmt: skip
    hires = {"enable_hr": True, "hr_scale": 2, "hr_resize_x": 0, "hr_second_pass_steps": 1, "denoising_strength": 0.7}
    from_image = {
        "init_images": [_IMAGE], "mask": _IMAGES[1], "denoising_strength": 0.75, "mask_blur": 4, "resize_mode": 1,
        "inpainting_mask_invert": 1, "inpaint_full_res": True, "inpaint_full_res_padding": 4, "include_init_images": True,
    }  # fmt: skip
    openai = {
        "prompt": "红苹果", "model": model, "n": 1, "size": "16x16", "quality": "low", "response_format": "b64_json",
        "output_format": "webp", "negative_prompt": "", "seed": 1, "steps": 2, "guidance_scale": 7.5, "scheduler": "ddim",
        "styles": [], "user": "me", "background": "auto", "stream": False, "partial_images": 0,
    }  # fmt: skip
    edit = openai | {"image": _FILES[0], "mask": _FILES[1], "strength": 0.8, "output_format": "png"}
    found = [
        *[("POST", "/sdapi/v1/txt2img", image, False), ("POST", "/sdapi/v1/txt2img", image | hires, False)] * 2,
        *[("POST", "/sdapi/v1/img2img", image | from_image, False)] * 3,
        *[("POST", "/v1/images/generations", openai, False)] * 3,
        *[("POST", "/v1/images/edits", edit, True)] * 3,
        *[("POST", "/v1/scores", {"images": [_IMAGE, _IMAGE], "prompts": ["一只猫", "a"], "model": model}, False)] * 2,
        ("POST", "/sdapi/v1/png-info", {"image": _IMAGE}, False),
        ("POST", "/sdapi/v1/options", {"sd_model_checkpoint": model, "sd_vae": "Automatic"}, False),
    ]
    names = (
        "progress", "options", "sd-models", "samplers", "schedulers", "loras", "prompt-styles", "memory", "upscalers", "scripts",
    )  # fmt: skip
    paths = [*(f"/sdapi/v1/{name}" for name in names), "/v1/models", f"/v1/models/{model}", "/v1/images/files/a/b.png"]
    posts = [f"/sdapi/v1/{name}" for name in ("interrupt", "skip", "refresh-checkpoints")]
    return found, [*(("GET", path, None, False) for path in paths), *(("POST", path, None, False) for path in posts)]


_CONTENT_TYPES = [
    "", "text/plain", "application/json; charset=utf-16", "application/json; charset=nowhere", "multipart/form-data", "\xff",
    "application/x-www-form-urlencoded",
]  # fmt: skip
_NAMES = [
    "prompt", "seed", "steps", "width", "height", "size", "n", "model", "mask", "image", "images", "init_images", "styles",
    "hr_prompt", "hr_upscaler", "refiner_checkpoint", "script_name", "script_args", "subseed", "subseed_strength", "comments",
    "firstphase_width", "infotext", "latent_mask", "sampler_index", "override_settings", "alwayson_scripts", "hires", "lora",
    "__class__", "self", "", "\x00", "\ud800", "猫", "a.b", "a" * 300,
]  # fmt: skip
_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 8, 16, 24, 1000, 2**31, 2**53 + 1, 2**63, -(2**63), 2**64, 10**30, 10**400, 0.5, -0.0,
    1e308, 1e-320, float("nan"), float("inf"), -float("inf"), "", " ", "0", "16", "1e3", "true", "null", "None", [], {}, [[]],
    [None], {"": None}, {"a": {"b": {"c": [1]}}}, list(range(300)), ["a"] * 51, [""] * 600,
    dict.fromkeys(map(str, range(100))),
    {"args": [True]}, ["script"],
]  # fmt: skip
_TEXTS = [
    "\x00", "\ud800", "\udfff\ud800", "\ufeff", "\u202e", "e\u0301", "😀", "👩‍👩‍👧‍👧", "\u2028", "\r\n", "\x7f", "’", "ﷺ",
    "𒐫", "一只猫", "قطة", "แมว", "(", "((((", "(a:", "(a:1e9)", "(a:-1)", "[a:b:0.5]", "[a|b|c]", "[[:::]]",
    "{a|b}", "{2$$a|b}", "BREAK", "AND", "<lora:x:1>", "<lora:../../x:nan>", "<lora::>", "\\", "\\(", "`", "``",
    "%", "{}", "{0}", "{0.__class__}", "../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/x.png",
    "data:image/png;base64,", "data:,", "1x1", "0x0", "16X16",
    "99999999999x16", "-1x16", "Euler a", "DPM++ 2M SDE Karras", "ddim Karras", "Automatic", "<script>", "' OR 1=1", "$(id)",
]  # fmt: skip


def _text(rng: random.Random) -> str:
    parts = [rng.choice(_TEXTS) for _ in range(rng.choice([1, 1, 2, 5]))]
    if rng.random() < 0.1:
        parts.append(chr(rng.randrange(0x110000)) * rng.choice([1, 20]))
    return "".join(parts) * rng.choice([1, 1, 1, 1, 1, 40, 700])


def _value(rng: random.Random, models: list[str]) -> Any:
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(_VALUES)
    if kind < 0.75:
        return _text(rng)
    if kind < 0.85:
        return rng.choice([*_IMAGES, f"data:image/png;base64,{_IMAGE}", [_IMAGE], [_IMAGE] * 31, *models])
    if kind < 0.9:
        nested: Any = rng.choice(_VALUES)
        for _ in range(rng.choice([3, 30, 200])):
            nested = [nested] if rng.random() < 0.5 else {"a": nested}
        return nested
    return rng.choice([-1, 1]) * rng.choice(
        [rng.randrange(200), rng.randrange(10**6), 10 ** rng.uniform(-10, 40), rng.getrandbits(70)]
    )


def _mutated(rng: random.Random, body: Any, models: list[str]) -> Any:
    """A copy with one change somewhere."""
    if isinstance(body, dict) and body and rng.random() < 0.97:
        body = dict(body)
        name, change = rng.choice(list(body)), rng.random()
        if change < 0.15:
            del body[name]
        elif change < 0.3:
            body[rng.choice(_NAMES)] = _value(rng, models)
        elif change < 0.4:
            body[name], other = body[rng.choice(list(body))], body[name]
            body[rng.choice(list(body))] = other
        elif isinstance(body[name], dict | list) and change < 0.7:
            body[name] = _mutated(rng, body[name], models)
        elif isinstance(body[name], str) and change < 0.6:
            place = rng.randrange(len(body[name]) + 1)
            body[name] = body[name][:place] + _text(rng) + body[name][place:]
        else:
            body[name] = _value(rng, models)
        return body
    if isinstance(body, list) and body and rng.random() < 0.9:
        body = list(body)
        body[rng.randrange(len(body))] = _value(rng, models)
        return body * rng.choice([1, 1, 2])
    return _value(rng, models)


def _form(rng: random.Random, body: dict[str, Any]) -> tuple[str, bytes]:
    """Content type and body of multipart/form-data."""
    parts = []
    for name, value in body.items():
        for each in value if isinstance(value, list) and value else [value]:
            is_file = isinstance(each, bytes) or rng.random() < 0.05
            content = (
                each
                if isinstance(each, bytes)
                else (each if isinstance(each, str) else json.dumps(each, default=str)).encode("utf-8", "replace")
            )
            shown = name.encode("utf-8", "replace").replace(b'"', b"%22").replace(b"\n", b"%0A").replace(b"\r", b"%0D")
            file = b'; filename="' + rng.choice([b"a.png", b"", b"../../a", b"\xff"]) + b'"' if is_file else b""
            parts.append(
                b'--limit\r\nContent-Disposition: form-data; name="'
                + shown
                + b'"'
                + file
                + b"\r\n\r\n"
                + content
                + b"\r\n"
            )
    return "multipart/form-data; boundary=limit", b"".join(parts) + b"--limit--\r\n"


_BYTES = [b"\xff", b"\xed\xa0\x80", b"\0", b'"', b"}", b"--limit--", b"\r\n\r\n", b"1e999999"]


def _damaged(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content) + 1)
    return rng.choice([
        lambda: content[:place],
        lambda: content[:place] + bytes(rng.randrange(256) for _ in range(rng.choice([1, 4]))) + content[place + 1 :],
        lambda: content[:place] + rng.choice(_BYTES) + content[place:],
        lambda: b"[" * 100_000,
        lambda: b'{"prompt":' * 5000,
        lambda: b'{"seed": ' + b"9" * 5000 + b"}",
        lambda: content * 2,
        lambda: content.replace(b":", b": NaN,", 1),
        lambda: content.decode("latin-1").encode("utf-16"),
        lambda: b"\xef\xbb\xbf" + content,
        lambda: b"",
    ])()  # fmt: skip


def _odd_path(rng: random.Random, path: str) -> str:
    return rng.choice([
        lambda: path + "/",
        lambda: path.upper(),
        lambda: "/" + path,
        lambda: path + "/" + _text(rng).replace("?", ""),
        lambda: "/v1/models/" + _text(rng),
        lambda: f"/v1/images/files/{_text(rng)}/{_text(rng)}.png",
        lambda: "/v1/images/files/../../etc/passwd",
        lambda: path.replace("/v1/", "/v1/../v1/"),
        lambda: "/" + _text(rng),
    ])()  # fmt: skip
