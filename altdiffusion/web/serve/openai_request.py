"""What OpenAI's clients ask for, in our settings. What its models can do and ours can't is refused, never left out."""

from __future__ import annotations

from typing import Any, Literal

from PIL import Image, ImageChops
from pydantic import BaseModel, ConfigDict, Field

from altdiffusion.generation.inpaint import brightest
from altdiffusion.generation.settings import SIZE, SIZE_FORM
from altdiffusion.web.request import check_whole, offered_scheduler
from altdiffusion.web.translations import Refused

STEPS = {"low": 15, "high": 50, "hd": 50}  # of a `quality`; any other has the usual number
OutputFormat = Literal["png", "jpeg", "webp"]

# The fields that OpenAI's API has and this one doesn't, with the values that ask for nothing.
_NOT_DONE: dict[str, tuple[Any, ...]] = {
    "background": (None, "auto", "opaque"),
    "moderation": (None, "auto", "low"),
    "output_compression": (None, 100),
    "partial_images": (None, 0),
    "stream": (None, False),
    "style": (None,),
}


class ImageFields(BaseModel):
    """What generations and edits have in common; from `negative_prompt` on, what OpenAI's API does not have."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())

    prompt: str
    model: str | None = Field(None, description="one that /v1/models gives, the first where none is said")
    n: int | None = Field(None, description="images, 1 where none is said")
    size: str | None = Field(None, description="512x512, or auto: the model's own")
    quality: str | None = Field(None, description="low: 15 steps, high: 50, any other: 25")
    response_format: Literal["b64_json", "url"] | None = None
    output_format: OutputFormat | None = None
    user: str | None = None
    safety_identifier: str | None = None
    background: str | None = None
    moderation: str | None = None
    output_compression: int | None = None
    partial_images: int | None = None
    stream: bool | None = None
    style: str | None = None
    negative_prompt: str | None = None
    seed: int | None = Field(None, description="of the first image, image i has seed + i")
    steps: int | None = Field(None, description="in the place of quality")
    guidance_scale: float | None = None
    scheduler: str | None = None
    styles: list[str] | None = Field(None, description="names of the owner's styles")


class EditFields(ImageFields):
    strength: float | None = Field(None, description="how much to change: 0.8, with a mask 1, where none is said")


def said_of(fields: ImageFields, model: str) -> dict[str, Any]:
    """The request for `read_request`. model: the label of the one that is meant. Raises Refused."""
    for name, idle in _NOT_DONE.items():
        if getattr(fields, name) not in idle:
            raise Refused("not_done", name=name)
    width, height = _size(fields.size)
    return {
        "prompt": fields.prompt,
        "negative_prompt": fields.negative_prompt,
        "styles": fields.styles,
        "model": model,
        "images": check_whole("images", 1 if fields.n is None else fields.n, 1, 10**6),
        "seed": fields.seed,
        "steps": STEPS.get(fields.quality or "") if fields.steps is None else fields.steps,
        "guidance_scale": fields.guidance_scale,
        "width": width,
        "height": height,
        "scheduler": offered_scheduler(fields.scheduler[:100]) if fields.scheduler else None,
        "strength": getattr(fields, "strength", None),
    }


def _size(size: str | None) -> tuple[int | None, int | None]:
    if size in (None, "", "auto"):
        return None, None
    sides = SIZE.fullmatch(size or "")
    if sides is None or len(size or "") > 20:
        raise Refused("bad_size", form=SIZE_FORM)
    return int(sides[1]), int(sides[2])


def mask_of(image: Image.Image, mask: Image.Image | None) -> Image.Image | None:
    """White where the mask, RGBA, is transparent; without a mask, where the image is. None where nothing is.

    Raises Refused for a mask without a transparent part.
    """
    clear = ImageChops.invert((image if mask is None else mask).getchannel("A"))
    if brightest(clear) == 255:
        return clear
    if mask is not None:
        raise Refused("no_alpha")
    return None
