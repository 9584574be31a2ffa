"""A visitor's request, checked on the server whatever the page allowed."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from altdiffusion.errors import InputError
from altdiffusion.generation.schedulers import SCHEDULERS, scheduler_class
from altdiffusion.generation.settings import DEFAULT_GUIDANCE_SCALE, DEFAULT_STEPS, Settings
from altdiffusion.images import MAX_SIDE
from altdiffusion.web.limits import Limits
from altdiffusion.web.translations import Refused

# LMS needs scipy
OFFERED_SCHEDULERS = [name for name in SCHEDULERS if name != "lms" or importlib.util.find_spec("scipy")]
MAX_SEED = 2**63 - 10_001  # `generate` leaves room for its images' numbers


# Names of shapes, and width through height; the area stays the model's own.
SHAPES = {"1:1": 1.0, "4:3": 4 / 3, "3:4": 3 / 4, "3:2": 3 / 2, "2:3": 2 / 3, "16:9": 16 / 9, "9:16": 9 / 16}


@dataclass(frozen=True)
class GenerateRequest:
    """What a visitor asks to have drawn, as it came; `checked` makes it sound. width, height 0: the model's own size,
    in one of SHAPES."""

    prompt: str
    negative_prompt: str = ""
    model: str = ""
    seed: int | None = None
    steps: int = DEFAULT_STEPS
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE
    width: int = 0
    height: int = 0
    shape: str = ""
    scheduler: str = ""
    images: int = 1
    best_of: int = 0
    strength: float | None = None
    image: Image.Image | None = None
    mask: Image.Image | None = None


def checked(wish: GenerateRequest, limits: Limits) -> GenerateRequest:
    """The same wish with values of the right types. Raises Refused. Sizes of 0 are checked once the model is known."""
    drawn = whole("images", wish.images, 1, limits.images)
    best_of = whole("best_of", wish.best_of or 0, 0, limits.images)
    if 1 < best_of < drawn:
        raise Refused("best_of_few", images=drawn, best_of=best_of)
    width, height = (whole(name, getattr(wish, name) or 0, 0, MAX_SIDE) for name in ("width", "height"))
    if bool(width) != bool(height):
        raise Refused("bad_number", name="width" if not width else "height", least=8, most=MAX_SIDE)
    sound = replace(
        wish,
        prompt=text(wish.prompt, limits),
        negative_prompt=text(wish.negative_prompt or "", limits),
        seed=None if wish.seed is None else whole("seed", wish.seed, 0, MAX_SEED),
        steps=whole("steps", wish.steps, 1, limits.steps),
        guidance_scale=number("guidance_scale", wish.guidance_scale, 0, limits.guidance_scale),
        width=width,
        height=height,
        scheduler=_scheduler(wish.scheduler),
        images=drawn,
        best_of=best_of if best_of > 1 else 0,
        strength=None if wish.image is None else number("strength", wish.strength, 0.01, 1),
    )
    if not sound.prompt.strip():
        raise Refused("no_prompt")
    if sound.shape not in ("", *SHAPES):
        raise Refused("bad_input")
    if sound.strength is not None and int(sound.steps * sound.strength) < 1:
        raise Refused("few_steps")
    if width:
        check_size(sound, limits)
    return sound


def check_size(wish: GenerateRequest, limits: Limits) -> None:
    """Raises Refused for a size that can't be drawn, or that is too much with its steps and images."""
    for name in ("width", "height"):
        if getattr(wish, name) % 8 or not getattr(wish, name):
            raise Refused("bad_multiple", name=name)
    pixels = wish.width * wish.height
    if pixels > limits.pixels:
        side = math.isqrt(limits.pixels) // 8 * 8
        raise Refused("many_pixels", width=wish.width, height=wish.height, most=f"{limits.pixels:,}", side=side)
    if pixels * wish.steps * max(wish.images, wish.best_of) > limits.work:
        raise Refused("much_work")


def text(value: Any, limits: Limits) -> str:
    """A text that is short enough, without the characters that no text has. Raises Refused."""
    if not isinstance(value, str):
        raise Refused("bad_input")
    if len(value) > limits.text:
        raise Refused("long_text", got=len(value), most=limits.text)
    return "".join(
        letter for letter in value if letter in "\n\t" or (letter >= " " and not "\ud800" <= letter <= "\udfff")
    )


def lines(value: Any, limits: Limits) -> list[str]:
    """The texts of a list, or of a text with one a line. Raises Refused for none, too many, too long ones."""
    given = value.splitlines() if isinstance(value, str) else value
    if not isinstance(given, list):
        raise Refused("bad_input")
    found = [text(each, limits).strip() for each in given[: limits.texts + 1]]
    found = [each for each in found if each]
    if len(given) > 10 * limits.texts or len(found) > limits.texts:
        raise Refused("many_texts", got=len(given), most=limits.texts)
    if not found:
        raise Refused("no_texts")
    return found


def number(name: str, value: Any, least: float, most: float) -> float:
    """A number within bounds. Raises Refused."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:  # NaN is not within
        raise Refused("bad_number", name=name, least=least, most=most)
    return float(value)


def whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number within bounds; JSON's 25.0 is one. Raises Refused."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Refused("bad_number", name=name, least=least, most=most)
    return value


def seed_of(value: Any) -> int | None:
    """The seed in a text field: digits, which may be more than JSON's numbers hold; empty: none. Raises Refused."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        if not value.strip().isascii() or not value.strip().isdigit() or len(value) > 25:
            raise Refused("bad_number", name="seed", least=0, most=MAX_SEED)
        value = int(value)
    return whole("seed", value, 0, MAX_SEED)


def clamped(settings: Settings, limits: Limits) -> tuple[Settings, list[str]]:
    """Settings read from an image, brought within the limits, and the names of those that were not. Nothing is trusted:
    names of files and models in them are dropped."""
    kept = Settings(
        prompt=text(settings.prompt[: limits.text], limits),
        negative_prompt=text(settings.negative_prompt[: limits.text], limits),
        steps=None if settings.steps is None else min(max(settings.steps, 1), limits.steps),
        guidance_scale=_finite(settings.guidance_scale, limits.guidance_scale),
        seed=None if settings.seed is None else min(max(settings.seed, 0), MAX_SEED),
        scheduler=_known_scheduler(settings.scheduler),
    )
    width, height = settings.width, settings.height
    if width and height and 0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE:
        scale = min(1.0, math.sqrt(limits.pixels / (width * height)))
        kept = replace(kept, width=max(8, int(width * scale) // 8 * 8), height=max(8, int(height * scale) // 8 * 8))
    names = ("prompt", "negative_prompt", "steps", "guidance_scale", "seed", "width", "height")
    changed = [name for name in names if getattr(kept, name) != getattr(settings, name)]
    if settings.scheduler is not None and kept.scheduler is None:
        changed.append("scheduler")
    return kept, changed


def _finite(value: float | None, most: float) -> float | None:
    return None if value is None or not math.isfinite(value) else min(max(value, 0.0), most)


def _scheduler(name: Any) -> str:
    """One of OFFERED_SCHEDULERS, or "" for the model's own."""
    if name in (None, ""):
        return ""
    if not isinstance(name, str) or name not in OFFERED_SCHEDULERS:
        raise Refused("unknown_scheduler")
    return name


def _known_scheduler(name: str | None) -> str | None:
    """The short name of a scheduler that an image was drawn with, where the page offers it."""
    if name is None:
        return None
    try:
        found = scheduler_class(name)
    except InputError:
        return None
    return next((short for short in OFFERED_SCHEDULERS if SCHEDULERS[short] == found), None)
