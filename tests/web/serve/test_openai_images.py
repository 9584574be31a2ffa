"""OpenAI's images API: its fields, its answers, its errors."""

import io

import numpy as np
import pytest
from fastapi.testclient import TestClient
from helpers.base64_images import decoded
from PIL import Image

from altdiffusion.generation.infotext import image_settings, open_info
from altdiffusion.web.serve.app import build_app

SMALL = {"prompt": "一只猫", "size": "32x32", "steps": 2, "seed": 5}


def generated(client, status=200, **body):
    answer = client.post("/v1/images/generations", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def edited(client, status=200, files=(), **fields):
    files = [(name, (f"{name}.png", png(image))) for name, image in files]
    answer = client.post("/v1/images/edits", data={name: str(value) for name, value in fields.items()}, files=files)
    assert answer.status_code == status, answer.text
    return answer.json()


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_images_of_a_prompt(client):
    answer = generated(client, **SMALL, n=2, user="someone", quality="auto", background="opaque", moderation="low")
    assert (len(answer["data"]), answer["size"], answer["output_format"]) == (2, "32x32", "png")
    assert [each["seed"] for each in answer["data"]] == ["5", "6"]
    assert image_settings(decoded(answer["data"][0]["b64_json"])).prompt == "一只猫"


@pytest.mark.parametrize(("form", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_formats_carry_the_settings(client, service, form, kind):
    (data,) = generated(client, **SMALL, output_format=form)["data"]
    image = decoded(data["b64_json"])
    assert image.format == kind
    assert image_settings(image).seed == 5
    assert not list(service.folder.rglob(f"*.{form[:3]}*"))


def test_an_address_gives_the_image(client, tmp_path):
    (data,) = generated(client, **SMALL, response_format="url")["data"]
    (tmp_path / "x.png").write_bytes(client.get(data["url"]).content)
    assert open_info(tmp_path / "x.png").seed == 5


@pytest.mark.parametrize(
    "path", ["x/y.png", "../generated", "..%2f..%2fx/y", "tmp/%00", "%2e%2e/alt-small", "x" * 300 + "/y"]
)
def test_no_other_file_has_an_address(client, path):
    assert client.get(f"/v1/images/files/{path}").status_code == 404


@pytest.mark.parametrize(("quality", "steps"), [("low", 15), (None, 25), ("medium", 25), ("high", 50)])
def test_quality_is_the_number_of_steps(client, quality, steps):
    (data,) = generated(client, prompt="猫", size="8x8", quality=quality)["data"]
    assert image_settings(decoded(data["b64_json"])).steps == steps


REFUSED = {
    "no prompt": ({"prompt": None}, 400, "prompt"),
    "empty": ({"prompt": ""}, 400, None),
    "long": ({"prompt": "a" * 3000}, 400, None),
    "model": ({"model": "gpt-image-2"}, 404, None),
    "model path": ({"model": "/etc/passwd"}, 404, None),
    "size": ({"size": "1024x1024"}, 400, None),
    "no size": ({"size": "large"}, 400, None),
    "long size": ({"size": "1" * 5000 + "x1"}, 400, None),
    "many": ({"n": 11}, 400, "images"),
    "none": ({"n": 0}, 400, "images"),
    "unknown": ({"negative": "x"}, 400, "negative"),
    "stream": ({"stream": True}, 400, "stream"),
    "transparent": ({"background": "transparent"}, 400, "background"),
    "style": ({"style": "vivid"}, 400, "style"),
    "gif": ({"output_format": "gif"}, 400, "output_format"),
    "scheduler": ({"scheduler": "x"}, 400, None),
}


@pytest.mark.parametrize(("sent", "status", "param"), REFUSED.values(), ids=REFUSED)
def test_what_can_not_be_done_is_refused_in_openais_form(client, sent, status, param):
    error = generated(client, status, **SMALL | sent)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert "\n" not in error["message"]


def test_any_model_stands_for_the_first_where_the_owner_says_so(service):
    client = TestClient(build_app(service, any_model=True))
    (data,) = generated(client, **SMALL, model="gpt-image-2")["data"]
    assert image_settings(decoded(data["b64_json"])).model == "alt-small"
    (data,) = generated(client, **SMALL | {"prompt": "a cat"}, model="english-small")["data"]
    assert image_settings(decoded(data["b64_json"])).model == "english-small"


@pytest.mark.parametrize("name", ["image", "image[]"])
def test_an_image_is_changed(client, stripes, name):
    (data,) = edited(client, files=[(name, stripes)], **SMALL, strength=0.5)["data"]
    settings = image_settings(decoded(data["b64_json"]))
    assert (settings.strength, settings.seed) == (0.5, 5)


@pytest.mark.parametrize("own", [True, False], ids=["the image's own", "a mask"])
def test_what_is_transparent_is_generated_anew(client, stripes, own):
    mask = stripes.convert("RGBA")
    mask.paste((0, 0, 0, 0), (0, 0, 16, 32))
    files = [("image", mask)] if own else [("image", stripes), ("mask", mask)]
    (data,) = edited(client, files=files, **SMALL)["data"]
    changed = np.asarray(decoded(data["b64_json"])) != np.asarray(stripes)
    assert changed[:, :16].any()
    assert not changed[:, 16:].any()


def test_edits_that_are_refused(client, stripes):
    assert edited(client, 400, prompt="猫")["error"]["message"] == "0 images: expected one"
    assert "2 images" in edited(client, 400, files=[("image[]", stripes)] * 2, prompt="猫")["error"]["message"]
    assert (
        "transparent"
        in edited(client, 400, files=[("image", stripes), ("mask", stripes)], prompt="猫")["error"]["message"]
    )
    assert edited(client, 400, files=[("image", stripes)], prompt="猫", n="many")["error"]["param"] == "n"
    assert edited(client, 400, files=[("image", stripes)], prompt="猫", negative="x")["error"]["param"] == "negative"
    answer = client.post("/v1/images/edits", data={"prompt": "猫"}, files={"image": ("x.png", b"no image")})
    assert (answer.status_code, "no whole image" in answer.text) == (400, True)
    small = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (
        "differ in size"
        in edited(client, 400, files=[("image", stripes), ("mask", small)], prompt="猫")["error"]["message"]
    )


def test_the_models(client):
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["alt-small", "english-small"]
    assert client.get("/v1/models/alt-small").json()["id"] == "alt-small"
    assert client.get("/v1/models/BAAI/AltDiffusion").json()["error"]["code"] == "model_not_found"
    assert client.get("/v1/nothing").json()["error"]["code"] == "not_found"
