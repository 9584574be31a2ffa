"""What AUTOMATIC1111's clients ask for, in our settings. What its web UI can do and we can't is refused, never left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from PIL import Image, ImageChops, ImageOps
from pydantic import BaseModel, ConfigDict, Field

from altdiffusion.generation.result import GeneratedImage
from altdiffusion.generation.settings import MAX_SIDE, ImageSettings
from altdiffusion.web.request import VisitorRequest, check_whole, offered_scheduler
from altdiffusion.web.translations import Refused

MASK_BLUR = 4  # pixels, in the web UIs, where a request has none
STRENGTH = 0.75  # likewise

# What would change the image and isn't done here: a request may have it with one of these values alone.
_NOT_DONE: dict[str, tuple[Any, ...]] = {
    "restore_faces": (False,),
    "tiling": (False,),
    "subseed_strength": (0,),
    "seed_resize_from_w": (0, -1),
    "seed_resize_from_h": (0, -1),
    "firstphase_width": (0,),
    "firstphase_height": (0,),
    "hr_checkpoint_name": ("", "Use same checkpoint"),
    "hr_sampler_name": ("", "Use same sampler"),
    "hr_scheduler": ("", "Use same scheduler"),
    "hr_prompt": ("",),
    "hr_negative_prompt": ("",),
    "refiner_checkpoint": ("", "None"),
    "script_name": ("", "None"),
    "script_args": ([],),
    "infotext": ("",),
    "comments": ({},),
    "latent_mask": ("",),
    "initial_noise_multiplier": (1,),
}
# Of `override_settings`, beside those that are used.
_NO_OVERRIDES: dict[str, tuple[Any, ...]] = {
    "sd_vae": ("Automatic", "None", ""),
    "samples_format": ("png",),
    "forge_additional_modules": ([],),
    "sd_model_refiner": ("", "None"),
}
_USED_OVERRIDES = ("sd_model_checkpoint", "CLIP_stop_at_last_layers")
# What asks for nothing that an image could lack: folders, names of tasks, settings of other kinds of models.
_USUAL = {"s_churn": (0,), "s_tmin": (0,), "s_tmax": (0,), "s_noise": (1,)}  # which is what happens here, too
_IDLE = {
    "do_not_save_samples", "do_not_save_grid", "save_images", "override_settings_restore_afterwards", "force_task_id",
    "subseed", "script_args", "alwayson_scripts", "include_init_images", "refiner_switch_at", "sampler_index",
    "image_cfg_scale",
}  # fmt: skip


class _Body(BaseModel):
    """More fields may be there, see `refuse_what_is_not_done`."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, protected_namespaces=())

    prompt: str = Field("", description="weights, choices and <lora:NAME:0.8> as the web UI reads them")
    negative_prompt: str | None = None
    styles: list[str] | None = Field(None, description="names that /sdapi/v1/prompt-styles gives")
    seed: int | None = Field(-1, description="of the first image, image i has seed + i; -1 for random")
    batch_size: int | None = 1
    n_iter: int | None = Field(1, description="batches: n_iter times batch_size images are generated")
    steps: int | None = Field(None, description="25 where none is said")
    cfg_scale: float | None = Field(None, description="the model's own where none is said")
    width: int | None = Field(None, description="pixels, a multiple of 8; the model's own where none is said")
    height: int | None = None
    sampler_name: str | None = Field(
        None, description="one that /sdapi/v1/samplers gives, the model's own where none is said"
    )
    scheduler: str | None = Field(None, description="one that /sdapi/v1/schedulers gives")
    denoising_strength: float | None = None
    override_settings: dict[str, Any] | None = Field(
        None, description="sd_model_checkpoint: one that /sdapi/v1/sd-models gives; CLIP_stop_at_last_layers: 1 to 24"
    )
    send_images: bool | None = True


class Text2Image(_Body):
    """An image from a prompt."""

    enable_hr: bool | None = Field(False, description="a second pass, hr_scale times as large")
    hr_scale: float | None = 2.0
    hr_resize_x: int | None = Field(0, description="the size of the second pass in the place of hr_scale")
    hr_resize_y: int | None = 0
    hr_second_pass_steps: int | None = Field(0, description="0: those of the first")


class Image2Image(_Body):
    """An image changed by a prompt."""

    init_images: list[str] = Field(description="one, in base64; an address is not fetched")
    mask: str | None = Field(None, description="in base64, as large; white is generated anew")
    mask_blur: int | None = Field(None, description="pixels: 4 where none is said")
    inpainting_mask_invert: Literal[0, 1] | None = 0
    inpaint_full_res: bool | None = Field(True, description="with a mask: the masked part alone, in the whole size")
    inpaint_full_res_padding: int | None = Field(0, description="pixels around that part")
    resize_mode: Literal[0, 1] | None = Field(0, description="0 stretches, 1 crops")
    include_init_images: bool | None = False


def not_used(body: _Body) -> list[str]:
    """The names of what was sent and changes nothing here. Raises Refused for what would have to change the image."""
    more = body.model_extra or {}
    for name, value in more.items():
        if name in _NOT_DONE and value is not None and value not in _NOT_DONE[name]:
            raise Refused("not_done", name=name)
    for name, value in (body.override_settings or {}).items():
        if name in _NO_OVERRIDES and (value is None or value in _NO_OVERRIDES[name]):
            continue
        if name not in _USED_OVERRIDES:
            raise Refused("not_done", name=shown(name))
    scripts = more.get("alwayson_scripts")
    for name, script in scripts.items() if isinstance(scripts, dict) else ():
        arguments = script.get("args") if isinstance(script, dict) else script
        if arguments not in (None, [], [False], {}):
            raise Refused("not_done", name=shown(name))
    usual = {**_NOT_DONE, **_USUAL}
    idle = {name for name, value in more.items() if value in (None, "", *usual.get(name, ()))}
    if not getattr(body, "enable_hr", False):
        idle.add("hr_upscaler")
    if getattr(body, "mask", None) is None:
        idle.add("inpainting_fill")
    return sorted(shown(name) for name in more.keys() - _IDLE - idle)


def shown(name: str) -> str:
    """A name that a client sent, as an answer can hold it."""
    return name.encode("utf-8", "replace").decode()[:100]


def said_of(body: _Body, model: str) -> dict[str, Any]:
    """The request for `read_request`. model: the one that is taken where none is named. Raises Refused."""
    override = body.override_settings or {}
    counts = [1 if count is None else count for count in (body.batch_size, body.n_iter)]
    for count in counts:
        check_whole("images", count, 1, 10**6)
    said = {
        "prompt": body.prompt,
        "negative_prompt": body.negative_prompt,
        "styles": body.styles,
        "model": override.get("sd_model_checkpoint") or model,
        "images": counts[0] * counts[1],
        "seed": None if body.seed is None or body.seed < 0 else body.seed,
        "steps": body.steps,
        "guidance_scale": body.cfg_scale,
        "width": body.width,
        "height": body.height,
        "scheduler": _scheduler(body),
        "clip_skip": override.get("CLIP_stop_at_last_layers"),
    }
    if isinstance(body, Text2Image) and body.enable_hr:
        said |= {
            "hires": _hires_scale(body),
            "hires_strength": body.denoising_strength,
            "hires_steps": body.hr_second_pass_steps or None,
        }
    if isinstance(body, Image2Image):
        said["strength"] = STRENGTH if body.denoising_strength is None else body.denoising_strength
        if body.mask is not None:
            said["mask_blur"] = MASK_BLUR if body.mask_blur is None else body.mask_blur
            said["only_masked"] = (body.inpaint_full_res_padding or 0) if body.inpaint_full_res is not False else None
    return said


def _scheduler(body: _Body) -> str | None:
    sampler = body.sampler_name
    if sampler is None and isinstance(older := (body.model_extra or {}).get("sampler_index"), str):
        sampler = older
    schedule = "" if (body.scheduler or "").lower() == "automatic" else body.scheduler or ""
    if not sampler:
        if schedule:
            raise Refused("unknown_scheduler")
        return None
    if len(sampler) + len(schedule) > 100:
        raise Refused("unknown_scheduler")
    return offered_scheduler(f"{sampler} {schedule}".strip())


def _hires_scale(body: Text2Image) -> float | None:
    """How many times as large, on both sides. Raises Refused where they differ."""
    if not (body.hr_resize_x or body.hr_resize_y):
        return 2.0 if body.hr_scale is None else body.hr_scale
    if not (body.width and body.height):
        raise Refused("hires_size")
    for name in ("hr_resize_x", "hr_resize_y", "width", "height"):  # integers of JSON have no end
        check_whole(name, getattr(body, name) or 0, 0, MAX_SIDE)
    scales = [
        asked / side for asked, side in ((body.hr_resize_x, body.width), (body.hr_resize_y, body.height)) if asked
    ]
    if max(scales) - min(scales) > 8 / min(body.width, body.height):  # more than rounding to multiples of 8
        raise Refused("hires_size")
    return scales[0]


def fitted(body: Image2Image, image: Image.Image, mask: Image.Image | None) -> tuple[Image.Image, Image.Image | None]:
    """The image and its mask, cropped where that is asked for; the mask inverted likewise."""
    if mask is not None and body.inpainting_mask_invert:
        mask = ImageOps.invert(mask)
    if body.resize_mode == 1 and body.width and body.height and 0 < body.width <= 4096 and 0 < body.height <= 4096:
        proportions = body.width / body.height
        width, height = image.size
        wide = min(width, max(1, round(height * proportions)))
        size = (wide, min(height, max(1, round(wide / proportions))))
        if mask is not None and mask.size == image.size:
            mask = ImageOps.fit(mask, size)
        image = ImageOps.fit(image, size)
    return image, mask


def as_mask(image: Image.Image) -> Image.Image:
    """The mask in an RGBA image, L: its transparency where it has any, as in the web UI; else how light it is."""
    alpha = image.getchannel("A")
    is_opaque = ImageChops.invert(alpha).getbbox() is None
    return image.convert("L") if is_opaque else alpha.point(lambda value: 255 * (value > 127))


def info_of(wanted: VisitorRequest, images: list[GeneratedImage], infotexts: list[str], unused: list[str]) -> str:
    """What the web UI tells of a result: JSON, in a text. not_used: what was sent and changes nothing here."""
    settings: ImageSettings = images[0].settings if images else wanted.settings
    extra: Mapping[str, Any] = {"Hires upscaler": "Lanczos", "Hires upscale": settings.hires} if settings.hires else {}
    count = len(images)
    return json.dumps(
        {
            "prompt": settings.prompt,
            "all_prompts": [settings.prompt] * count,
            "negative_prompt": settings.negative_prompt,
            "all_negative_prompts": [settings.negative_prompt] * count,
            "seed": settings.seed,
            "all_seeds": [image.settings.seed for image in images],
            "subseed": settings.seed,
            "all_subseeds": [image.settings.seed for image in images],
            "subseed_strength": 0,
            "width": settings.width,
            "height": settings.height,
            "sampler_name": settings.scheduler,
            "cfg_scale": settings.guidance_scale,
            "steps": settings.steps,
            "batch_size": count,
            "restore_faces": False,
            "face_restoration_model": None,
            "sd_model_name": settings.model,
            "sd_model_hash": None,
            "denoising_strength": settings.strength if settings.hires is None else settings.hires_strength,
            "extra_generation_params": dict(extra),
            "index_of_first_image": 0,
            "infotexts": infotexts,
            "styles": [],
            "clip_skip": settings.clip_skip or 1,
            "is_using_inpainting_conditioning": False,
            "not_used": unused,
        },
        ensure_ascii=False,
    )
