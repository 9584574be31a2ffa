"""Everything that one image is generated from: what it is called, its range and its help, a line each.

The command line's flags, the web API's arguments, the page's components, the text inside PNGs and diffusers' arguments are
read off `ImageSettings`: to add a setting is to add a line here. Light on purpose: no torch, no diffusers, no Pillow.
"""

from __future__ import annotations

import contextlib
import functools
import re
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from altdiffusion.checkpoints import hub
from altdiffusion.checkpoints.bridge_folder import stands_at_exit
from altdiffusion.errors import InputError
from altdiffusion.prompt_syntax import PromptSyntax, check, lora_names, plain_text
from altdiffusion.prompt_syntax.route import Route, stretches
from altdiffusion.settings import Settings, about_of, setting

DEFAULT_STEPS = 25
DEFAULT_GUIDANCE_SCALE = 7.5
MINI_GUIDANCE_SCALE = 4.0  # more makes its images grainy
DEFAULT_STRENGTH = 0.8
DEFAULT_HIRES_STRENGTH = 0.7  # the web UIs'
MAX_SIDE = 4096  # pixels
MAX_SEED = 2**63 - 1
SIZE = re.compile(r"(\d{1,9})[xX×](\d{1,9})")
SIZE_FORM = "WIDTHxHEIGHT, such as 512x512"
IN_MEMORY = "(in memory)"  # an init image or mask that comes from no file


_NEEDED = {  # by other settings, and what an error calls it
    "init_image": "an init image",
    "mask": "a mask",
    "control_image": "a control image",
    "ip_image": "an image, ip image",
    "ip_adapter": "an IP-Adapter",
    "hires": "a second pass, hires",
}


def _without_x(factor: Any) -> Any:
    """1.5 of 1.5x, as a person writes it."""
    return factor.strip().removesuffix("x").removesuffix("X") if isinstance(factor, str) else factor


class ImageSettings(Settings):
    """Everything one image is generated from. None: not said, so the model's own, or not known (other programs' images).

    What `setting` is told of a field besides default, help and range:
    metavar: the command line has it as a flag, with this placeholder ("" for a switch).
    infotext: its name in the text inside a PNG. argument: the pipeline's argument that it becomes.
    per_image: it may differ between images that are generated together.
    needs: the other setting, such as init_image, without which it makes no sense.
    repeat: of a list, whose flag takes one value each time it is given.
    loading: of the pipeline, so it can't be said of one that is loaded already.
    web: visitors of the page and of the API may set it. slider: the step of a number's slider on the page (default: 1).
    """

    # fmt: off
    prompt: str = setting(..., "what to generate, in any of the model's languages",
        per_image=True, web=True)
    negative_prompt: str = setting("", "what not to generate",
        metavar="T", per_image=True, web=True)
    steps: int | None = setting(None, "denoising steps (default: 25)", minimum=1, maximum=999,
        metavar="N", infotext="Steps", argument="num_inference_steps", web=True)
    scheduler: str | None = setting(None, "ddim, euler, dpm++, DPM++ 2M Karras, ... (default: the model's own)",
        metavar="NAME", source="scheduler", infotext="Sampler", web=True)
    guidance_scale: float | None = setting(None, "how closely to follow the prompt (default: 7.5, mini: 4)", minimum=0,
        metavar="X", infotext="CFG scale", argument="guidance_scale", web=True, slider=0.5)
    seed: int | None = setting(None, "of each prompt's first image; image i has N+i (default: random)", minimum=0,
        maximum=MAX_SEED, metavar="N", infotext="Seed", per_image=True, web=True)
    width: int | None = setting(None, "pixels (default: the model's own)", minimum=8, maximum=MAX_SIDE, multiple_of=8,
        flag="size", argument="width", web=True)
    height: int | None = setting(None, "pixels (default: the model's own)", minimum=8, maximum=MAX_SIDE, multiple_of=8,
        flag="size", argument="height", web=True)
    model: str | None = setting(None, "id on the hub, folder or single file (default: mini)",
        metavar="M", source="model", infotext="Model")
    strength: float | None = setting(None, "how much to change --init-image (default: 0.8; with a mask 1)", above=0,
        maximum=1, metavar="X", infotext="Denoising strength", argument="strength", needs="init_image", web=True, slider=0.05)
    init_image: str | None = setting(None, "image to start from",
        metavar="F", source="image", infotext="Init image")
    mask: str | None = setting(None, "white where --init-image is generated anew",
        metavar="F", source="image", infotext="Mask", needs="init_image")
    mask_blur: int | None = setting(None, "pixels by which the mask's edge is softened (default: 0; in the web UIs 4)",
        minimum=0, maximum=64, metavar="N", infotext="Mask blur", needs="mask", web=True)
    only_masked: int | None = setting(None, "generate the masked part alone, with N pixels around it, in the model's full size",
        minimum=0, maximum=256, metavar="N", infotext="Masked area padding", needs="mask", web=True)
    lora: list[str] | None = setting(None, "LoRA file, folder or id on the hub, and its weight (default: 1); may be repeated",
        metavar="F[:W]", source="lora", infotext="Lora", loading=True, repeat=True)
    lora_dir: str | None = setting(None, "folder of the LoRAs that prompts name as <lora:NAME:0.8>",
        metavar="DIR", source="path", infotext="Lora folder", loading=True)
    textual_inversion: list[str] | None = setting(None, "words trained for its text encoder: file, folder or id; may be repeated",
        metavar="F", source="model", infotext="Textual inversions", loading=True, repeat=True)
    vae: str | None = setting(None, "in place of the model's own: folder, single file or id on the hub",
        metavar="F", source="model", infotext="VAE", loading=True)
    controlnet: str | None = setting(None, "ControlNet: folder or id on the hub",
        metavar="M", source="model", infotext="ControlNet", loading=True, needs="control_image")
    control_image: str | None = setting(None, "what the ControlNet reads: edges, a pose, ... stretched to the image's size",
        metavar="F", source="image", infotext="Control image")
    control_scale: float | None = setting(None, "how closely to follow --control-image (default: 1)", minimum=0, maximum=2,
        metavar="X", infotext="Control scale", argument="controlnet_conditioning_scale", needs="control_image")
    ip_adapter: str | None = setting(None, "IP-Adapter: file or folder with its image_encoder, or id on the hub",
        metavar="M", source="model", infotext="IP-Adapter", loading=True, needs="ip_image")
    ip_image: str | None = setting(None, "image that the IP-Adapter shows to the model beside the prompt",
        metavar="F", source="image", infotext="IP-Adapter image")
    ip_scale: float | None = setting(None, "how much the IP-Adapter counts (default: 1)", minimum=0, maximum=2,
        metavar="X", infotext="IP-Adapter scale", loading=True, needs="ip_adapter")
    clip_skip: int | None = setting(None, "take the text encoder's Nth last layer, as the web UIs count (default: 1, the last)",
        minimum=1, maximum=24, metavar="N", infotext="Clip skip")
    hires: Annotated[float | None, BeforeValidator(_without_x)] = setting(None, "then generate it again so many times as "
        "large, such as 1.5x", above=1, maximum=4, metavar="Fx", infotext="Hires upscale")
    hires_strength: float | None = setting(None, "how much that may change (default: 0.7)", above=0, maximum=1,
        metavar="X", infotext="Hires strength", needs="hires")
    hires_steps: int | None = setting(None, "steps of that (default: those of --steps that its strength leaves)", minimum=1,
        maximum=999, metavar="N", infotext="Hires steps", needs="hires")
    tokenizer: str | None = setting(None, "of a single file, which carries none: folder or id (default: the bridge's, the hub's)",
        metavar="T", source="model", infotext="Tokenizer", loading=True)
    settings_from: str | None = setting(None, "of a single file of unusual sizes: folder or id that has its model's settings",
        metavar="M", source="model", infotext="Model settings", loading=True)
    text_encoder: str | None = setting(None, "AltCLIP, in place of the model's own encoder or before a bridge (with --bridge: "
        "the one it names, else mini's)",
        metavar="M", source="model", infotext="Text encoder", loading=True)
    bridge: str | None = setting(None, "from AltCLIP to a model trained with CLIP: folder, id on the hub, mini",
        metavar="B", source="model", infotext="Bridge", loading=True)
    dtype: Literal["float32", "float16", "bfloat16"] | None = setting(None, "(default: float16 on a GPU, else float32)",
        metavar="T", infotext="Precision", loading=True)
    allow_pickle: bool | None = setting(None, "read .bin and .ckpt files, which can carry code",
        metavar="", infotext="Pickle allowed", loading=True)
    prompt_syntax: PromptSyntax = setting("webui", "(word:1.2), BREAK, [from:to:0.5] ... as the web UIs read them; lenient: "
        "malformed ones too; none: brackets are text", metavar="S", infotext="Prompt syntax", web=True)
    route: Route | None = setting(None, "what of a prompt goes through the bridge: auto, all or none (default: auto, what isn't "
        "English)", metavar="R", infotext="Route", web=True)
    literal: list[str] | None = setting(None, "keep a word or phrase from the bridge, as `backquotes` do; may be repeated",
        metavar="WORD", infotext="Literal words", repeat=True)
    weighting: Literal["masked", "a1111", "no-norm", "comfyui"] | None = setting(None, "what a weight does: masked, a1111, "
        "no-norm or comfyui (default: masked, for a model's own CLIP a1111)", metavar="W", infotext="Weighting")
    long_prompts: Literal["chunks", "whole"] = setting("chunks", "over 75 tokens: in chunks, or all at once",
        metavar="L", infotext="Long prompts")
    score: float | None = setting(None, "AltCLIP's, where the best of several was asked for",
        infotext="AltCLIP score", per_image=True)
    # fmt: on

    def problems(self) -> list[str]:
        problems = []
        if not self.prompt.strip():
            problems.append('no prompt: expected at least one, none of them empty, such as "一只猫"')
        problems += self.syntax_problems
        for needed, called in _NEEDED.items():
            if getattr(self, needed) is None:
                problems += [
                    f"{_words(name)} needs {called}: give one, or leave {_words(name)} out"
                    for name in settings_that_need(needed)
                    if getattr(self, name) is not None
                ]
        if self.leaves_no_step:
            problems.append(
                f"strength {self.strength_or_default} of {self.steps_or_default} steps leaves no step: raise either"
            )
        if self.hires is not None:
            problems += self._hires_problems
        if (self.width is None) != (self.height is None):
            problems.append("one of width and height: expected both or neither")
        return problems

    @property
    def loading_problems(self) -> list[str]:
        """What is missing where a model is to be loaded, or doesn't fit; one that is loaded already may have it."""
        parts = {"control_image": "controlnet", "ip_image": "ip_adapter", "route": "bridge", "literal": "bridge"}
        problems = [
            f"{_words(name)} needs {_words(part)}: name one, or leave {_words(name)} out"
            for name, part in parts.items()
            if getattr(self, name) not in (None, []) and getattr(self, part) is None
        ]
        if self.bridge is not None and stands_at_exit(self.bridge):
            if (self.clip_skip or 1) > 1:
                problems.append(
                    f"clip skip {self.clip_skip}: a bridge has learnt one layer of CLIP's where it stands "
                    f"at its exit, as {self.bridge} does: leave either out"
                )
            problems += [
                f"{name}: the bridge {self.bridge} stands at CLIP's exit and reads whole prompts, leave {name} out"
                for name in ("route", "literal")
                if getattr(self, name) is not None
            ]
        elif self.bridge is not None:
            problems += self._route_problems
        return problems

    @property
    def _route_problems(self) -> list[str]:
        """Backquotes that are open in the prompts."""
        problems = []
        for prompt in (self.prompt, self.negative_prompt):
            try:
                stretches(plain_text(prompt, self.prompt_syntax), self.route or "auto")
            except InputError as error:
                problems.append(str(error))
        return problems

    @property
    def _hires_problems(self) -> list[str]:
        problems = []
        if self.init_image is not None:
            problems.append("hires is of images from text alone: leave the init image out, or hires")
        if self.hires_size is not None and max(self.hires_size) > MAX_SIDE:
            width, height = self.hires_size
            problems.append(
                f"hires {self.hires:g} of {self.width}x{self.height} is {width}x{height}: at most {MAX_SIDE}"
            )
        return problems

    @property
    def hires_size(self) -> tuple[int, int] | None:
        """Width and height of the second pass; None where there is none, or the size isn't known yet."""
        if not (self.hires and self.width and self.height):
            return None
        return round(self.width * self.hires / 8) * 8, round(self.height * self.hires / 8) * 8

    @property
    def hires_strength_or_default(self) -> float:
        return DEFAULT_HIRES_STRENGTH if self.hires_strength is None else self.hires_strength

    @property
    def steps_or_default(self) -> int:
        return DEFAULT_STEPS if self.steps is None else self.steps

    @property
    def strength_or_default(self) -> float:
        """Where there is an init image: 0.8, or 1 with a mask."""
        return self.strength if self.strength is not None else DEFAULT_STRENGTH if self.mask is None else 1.0

    @property
    def leaves_no_step(self) -> bool:
        """Whether an init image would stay as it is: the first steps are skipped, the more the lower the strength."""
        return self.init_image is not None and int(self.steps_or_default * self.strength_or_default) < 1

    @property
    def syntax_problems(self) -> list[str]:
        """What is malformed in the prompts, a line each."""
        problems = []
        for prompt in (self.prompt, self.negative_prompt) if self.prompt_syntax == "webui" else ():
            try:
                check(prompt, self.steps_run)
            except InputError as error:
                problems.append(str(error))
        with contextlib.suppress(InputError):  # malformed, as above
            if names := list(lora_names([self.negative_prompt], self.prompt_syntax)):
                problems.append(
                    f"the negative prompt names the LoRA {names[0]}, which acts on the whole image: put it into the prompt"
                )
        return problems

    @property
    def steps_run(self) -> int:
        """The steps that an image takes: an init image skips the first ones. At least 1."""
        skipping = self.strength_or_default if self.init_image is not None else 1.0
        return max(1, int(self.steps_or_default * skipping))

    def resolved(self, model: Any) -> ImageSettings:
        """The same with a seed and with defaults for what isn't said, but for the size, which only the model's files know.

        With a mask, a size that isn't said stays so: the result is as large as the init image, in whatever size it is generated.

        model: as in `default_guidance_scale`.
        """
        return self.replace(
            steps=self.steps_or_default,
            guidance_scale=default_guidance_scale(model) if self.guidance_scale is None else self.guidance_scale,
            seed=secrets.randbelow(2**32) if self.seed is None else self.seed,
            strength=None if self.init_image is None else self.strength_or_default,
            hires_strength=None if self.hires is None else self.hires_strength_or_default,
            mask_blur=None if self.mask is None else self.mask_blur or 0,
        )


@functools.cache
def settings_with(about: str) -> tuple[str, ...]:
    """The fields that `setting` was told this of, such as "web" or "metavar"."""
    return tuple(name for name, field in ImageSettings.model_fields.items() if about in about_of(field))


@functools.cache
def settings_that_need(image: str) -> tuple[str, ...]:
    """The fields that make no sense without this one, such as mask."""
    fields = ImageSettings.model_fields
    return tuple(name for name in settings_with("needs") if about_of(fields[name])["needs"] == image)


# What a person asks for, by name: a size stands for width and height, and a score is found out.
ASKED = (*(name for name in ImageSettings.model_fields if name != "score"), "size")


def with_size(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with width and height in the place of a size, such as 512x512. Raises InputError for what is none."""
    rest = {name: value for name, value in values.items() if name != "size"}
    if values.get("size") is None:
        return rest
    if rest.keys() & {"width", "height"}:
        raise InputError("size: not beside width or height, which it stands for")
    numbers = SIZE.fullmatch(str(values["size"]))
    if numbers is None:
        raise InputError(f"size: expected {SIZE_FORM}, got {str(values['size'])!r}")
    return rest | {"width": int(numbers[1]), "height": int(numbers[2])}


def _words(name: str) -> str:
    return name.replace("_", " ")


def default_guidance_scale(model: Any) -> float:
    """7.5; 4 for the embedded models. model: a name, a path, a pipeline; None: mini."""
    name = getattr(model, "name_or_path", model or hub.MINI)
    embedded = {hub.MINI, hub.SD_MINI, str(hub.mini_folder()), str(hub.sd_mini_folder())}
    return MINI_GUIDANCE_SCALE if str(name) in embedded else DEFAULT_GUIDANCE_SCALE
