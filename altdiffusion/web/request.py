"""A visitor's request, checked on the server whatever the page allowed. Names, types and ranges are those of `ImageSettings`."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from altdiffusion.errors import InputError
from altdiffusion.generation import settings as generation_settings
from altdiffusion.generation.draw import GenerateRequest
from altdiffusion.generation.inpaint import WHITE, brightest
from altdiffusion.generation.schedulers import SAMPLERS, SchedulerChoice, find_scheduler, schedules_of
from altdiffusion.generation.settings import IN_MEMORY, ImageSettings, settings_that_need, settings_with
from altdiffusion.generation.styles import Style, apply_styles, find_styles
from altdiffusion.settings import about_of, bounds_of, choices_of, type_of
from altdiffusion.web.limits import Limits
from altdiffusion.web.translations import Refused

MAX_SEED = generation_settings.MAX_SEED - 10_000  # the images of one request have the seeds after it
WEB_SETTINGS = settings_with("web")
TEXT_TO_IMAGE = [name for name in WEB_SETTINGS if name not in settings_with("needs")]
# That other programs' APIs have and the page doesn't.
PROGRAM_SETTINGS = ["hires", "hires_strength", "hires_steps", "clip_skip"]

# Names of shapes, and width through height; the area stays the model's own.
SHAPES = {"1:1": 1.0, "4:3": 4 / 3, "3:4": 3 / 4, "3:2": 3 / 2, "2:3": 2 / 3, "16:9": 16 / 9, "9:16": 9 / 16}


def _offered_schedulers() -> dict[SchedulerChoice, str]:
    """What the page calls them: our short name, with an algorithm or a schedule the web UIs'."""
    offered = {}
    for sampler in SAMPLERS:
        for schedule in ("", *schedules_of(sampler.class_name)):
            choice = SchedulerChoice(sampler.class_name, sampler.algorithm, schedule)
            if importlib.util.find_spec("scipy") or not (sampler.name == "lms" or schedule == "Beta"):
                offered[choice] = choice.written if sampler.algorithm or schedule else sampler.name
    return offered


_SCHEDULER_NAMES = _offered_schedulers()
OFFERED_SCHEDULERS = list(_SCHEDULER_NAMES.values())


def offered_scheduler(name: str) -> str:
    """What the page calls the scheduler of any program's name. Raises Refused for one that isn't offered."""
    try:
        return _SCHEDULER_NAMES[find_scheduler(name)]
    except (InputError, KeyError):
        raise Refused("unknown_scheduler") from None


@dataclass(frozen=True)
class VisitorRequest:
    """What a visitor asks for, checked by `read_request`. model: a label, "" for the first. best_of: 0 for no choosing.

    shape: one of SHAPES, or "" for the size that is said, the model's own or the init image's.
    """

    request: GenerateRequest
    model: str = ""
    num_images: int = 1
    best_of: int = 0
    shape: str = ""

    @property
    def settings(self) -> ImageSettings:
        return self.request.settings

    @property
    def num_generated(self) -> int:
        return self.best_of or self.num_images


def read_request(
    said: Mapping[str, Any], limits: Limits, image: Image.Image | None = None, mask: Image.Image | None = None
) -> VisitorRequest:
    """The request in what the page or a program sent. Raises Refused. Sizes are checked once the model is known, too.

    said: values by the names of `WEB_SETTINGS` and `PROGRAM_SETTINGS`, and model, images, best_of, shape; a setting that is
        missing or None isn't said.
    """
    num_images = check_whole("images", said.get("images", 1), 1, limits.images)
    best_of = check_whole("best_of", said.get("best_of") or 0, 0, limits.images)
    if 1 < best_of < num_images:
        raise Refused("best_of_few", images=num_images, best_of=best_of)
    if (shape := said.get("shape") or "") not in ("", *SHAPES):
        raise Refused("bad_input")
    values = {name: check_setting(name, said.get(name), limits) for name in (*WEB_SETTINGS, *PROGRAM_SETTINGS)}
    if image is None:
        values |= dict.fromkeys(settings_that_need("init_image"))
    if mask is None and (idle := [name for name in settings_that_need("mask") if values[name] is not None]):
        raise Refused("no_mask", name=idle[0])
    if not (values["prompt"] or "").strip():
        raise Refused("no_prompt")
    if (values["width"] is None) != (values["height"] is None):
        missing = "width" if values["width"] is None else "height"
        raise Refused("bad_number", name=missing, least=8, most=_range(missing, limits)[1])
    values |= {"init_image": image and IN_MEMORY, "mask": mask and IN_MEMORY}
    values = {name: value for name, value in values.items() if value is not None}
    said_settings = ImageSettings.model_construct(**values)
    if said_settings.leaves_no_step:
        raise Refused("few_steps")
    for problem in said_settings.syntax_problems:
        raise Refused("bad_prompt", problem=problem)
    try:
        settings = ImageSettings(**values)
    except InputError:  # all that visitors are told of is checked above
        raise Refused("bad_input") from None
    if mask is not None and image is not None and mask.size != image.size:
        raise Refused("mask_size")
    if mask is not None and brightest(mask) < WHITE:
        raise Refused("black_mask")
    request = VisitorRequest(
        GenerateRequest(settings, image, mask), said.get("model", ""), num_images, best_of if best_of > 1 else 0, shape
    )
    check_work(request, limits)
    return request


def with_styles(said: Mapping[str, Any], styles: Mapping[str, Style], limits: Limits) -> dict[str, Any]:
    """The same, with prompt and negative prompt in the styles that it names; `limits` hold before and after. Raises Refused."""
    names = said.get("styles") or []
    if not isinstance(names, list) or len(names) > len(styles):
        raise Refused("unknown_style")
    prompts = [clean_text(said.get(name) or "", limits) for name in ("prompt", "negative_prompt")]
    if not names or not prompts[0].strip():
        return dict(said)
    try:
        found = find_styles(styles, names)
    except (InputError, TypeError):
        raise Refused("unknown_style") from None
    return {**said, **dict(zip(("prompt", "negative_prompt"), apply_styles(found, *prompts), strict=True))}


def check_work(request: VisitorRequest, limits: Limits) -> None:
    """Raises Refused for a size, where it is known, that is too large alone or with its steps and images."""
    width, height = request.settings.hires_size or request.request.known_size
    if width * height > limits.pixels:
        side = math.isqrt(limits.pixels) // 8 * 8
        raise Refused("many_pixels", width=width, height=height, most=f"{limits.pixels:,}", side=side)
    if work_of(request) > limits.work:
        raise Refused("much_work")


def work_of(request: VisitorRequest) -> int:
    """Pixels times steps times images, both passes of hires; 0 where the size isn't known yet."""
    settings = request.settings
    work = (settings.width or 0) * (settings.height or 0) * settings.steps_or_default
    if settings.hires_size is not None:
        width, height = settings.hires_size
        work += width * height * (settings.hires_steps or settings.steps_or_default)
    return work * request.num_generated


def check_setting(name: str, value: Any, limits: Limits) -> Any:
    """A value within the setting's range and the owner's limits; None where it isn't said. Raises Refused."""
    field = ImageSettings.model_fields[name]
    kind, choices = type_of(field), choices_of(field)
    if value is None or (kind is str and value == ""):
        return None
    if name == "seed":
        return read_seed(value)
    if name == "scheduler":
        choices = tuple(OFFERED_SCHEDULERS)
    if choices:
        if not isinstance(value, str) or value not in choices:
            raise Refused("unknown_scheduler" if name == "scheduler" else "bad_input")
        return value
    if kind is str:
        return clean_text(value, limits)
    if kind is bool:
        if not isinstance(value, bool):
            raise Refused("bad_input")
        return value
    if name in ("width", "height") and value == 0:  # what the page and the API call the model's own
        return None
    bounds, (least, most) = bounds_of(field), _range(name, limits)
    number = check_whole(name, value, least, most) if kind is int else check_number(name, value, least, most)
    if "gt" in bounds and number <= bounds["gt"]:
        raise Refused("bad_number_above", name=name, least=least, most=most)
    if number % bounds.get("multiple_of", 1) and kind is int:
        raise Refused("bad_multiple", name=name)
    return number


def _range(name: str, limits: Limits) -> tuple[Any, Any]:
    """Least and most of a number on this page; infinite where neither the setting nor the owner says one."""
    bounds = bounds_of(ImageSettings.model_fields[name])
    most = MAX_SEED if name == "seed" else getattr(limits, name.removeprefix("hires_"), math.inf)
    return bounds.get("ge", bounds.get("gt", -math.inf)), min(bounds.get("le", math.inf), most)


def slider_range(name: str, limits: Limits) -> tuple[float, float, float] | None:
    """Least, most and step of a number's slider; None where it has none, as there is no end to it."""
    about, (least, most) = about_of(ImageSettings.model_fields[name]), _range(name, limits)
    step = about.get("slider", 1)
    if "gt" in bounds_of(ImageSettings.model_fields[name]):
        least += step
    return None if math.isinf(least) or math.isinf(most) else (least, most, step)


def clean_text(value: Any, limits: Limits) -> str:
    """A text that is short enough, without the characters that no text has. Raises Refused."""
    if not isinstance(value, str):
        raise Refused("bad_input")
    if len(value) > limits.text:
        raise Refused("long_text", got=len(value), most=limits.text)
    return "".join(
        letter for letter in value if letter in "\n\t" or (letter >= " " and not "\ud800" <= letter <= "\udfff")
    )


def read_lines(value: Any, limits: Limits) -> list[str]:
    """The texts of a list, or of a text with one a line. Raises Refused for none, too many, too long ones."""
    given = value.splitlines() if isinstance(value, str) else value
    if not isinstance(given, list):
        raise Refused("bad_input")
    texts = [clean_text(text, limits).strip() for text in given[: limits.texts + 1]]
    texts = [text for text in texts if text]
    if len(given) > 10 * limits.texts or len(texts) > limits.texts:
        raise Refused("many_texts", got=len(given), most=limits.texts)
    if not texts:
        raise Refused("no_texts")
    return texts


def check_number(name: str, value: Any, least: float, most: float) -> float:
    """A number within bounds. Raises Refused."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:  # NaN is not within
        raise Refused("bad_number", name=name, least=least, most=most)
    return float(value)


def check_whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number within bounds; JSON's 25.0 is one. Raises Refused."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Refused("bad_number", name=name, least=least, most=most)
    return value


def read_seed(value: Any) -> int | None:
    """The seed in a text field: digits, which may be more than JSON's numbers hold; empty: none. Raises Refused."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        if not value.strip().isascii() or not value.strip().isdigit() or len(value) > 25:
            raise Refused("bad_number", name="seed", least=0, most=MAX_SEED)
        value = int(value)
    return check_whole("seed", value, 0, MAX_SEED)


def within_limits(settings: ImageSettings, limits: Limits) -> tuple[ImageSettings, list[str]]:
    """Settings read from an image, brought within the limits, and the names of those that were not. Nothing is trusted:
    names of files and models in them are dropped."""
    kept = {name: _nearest(name, getattr(settings, name), limits) for name in TEXT_TO_IMAGE}
    kept |= dict(zip(("width", "height"), _nearest_size(settings.width, settings.height, limits), strict=True))
    changed = [name for name in TEXT_TO_IMAGE if kept[name] != getattr(settings, name)]
    if kept["scheduler"] is not None and "scheduler" in changed:  # the same by another name
        changed.remove("scheduler")
    return ImageSettings.model_construct(**kept), changed


def _nearest(name: str, value: Any, limits: Limits) -> Any:
    """The value of a setting that is within the limits and nearest to this one; None where there is none."""
    field = ImageSettings.model_fields[name]
    kind, choices = type_of(field), choices_of(field)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if name == "scheduler":
        try:
            return _SCHEDULER_NAMES.get(find_scheduler(value))
        except InputError:
            return None
    if choices or kind is bool:
        return value if not choices or value in choices else None
    if kind is str:
        return clean_text(value[: limits.text], limits)
    least, most = _range(name, limits)
    return kind(min(max(value, least), most))


def _nearest_size(width: int | None, height: int | None, limits: Limits) -> tuple[int | None, int | None]:
    """Multiples of 8 in the same proportion; None for a size that makes no sense."""
    if not (width and height) or not all(0 < side <= _range("width", limits)[1] for side in (width, height)):
        return None, None
    scale = min(1.0, math.sqrt(limits.pixels / (width * height)))
    return max(8, int(width * scale) // 8 * 8), max(8, int(height * scale) // 8 * 8)
