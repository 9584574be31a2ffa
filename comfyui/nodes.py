"""The nodes: what each is called, takes and gives. What they do is in the library, and in the modules beside this one."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, get_args

import comfy.model_management as management
from torch import Tensor

from altdiffusion import InputError, encode_prompts
from altdiffusion.altclip.score_kinds import DECIMALS, ScoreAs
from altdiffusion.prompt_syntax import plain_text
from altdiffusion.prompt_syntax.route import Route
from altdiffusion.prompts.weighting import Weighting

from . import soft_conditioning
from .models import ALTCLIP_FOLDER, BRIDGE_FOLDER, AltCLIP, LoadedBridge, find, on_device

_ALTCLIP, _BRIDGE = "ALTCLIP", "ALTCLIP_BRIDGE"  # types of links
_PROMPT = ("STRING", {"multiline": True, "tooltip": "In any of AltCLIP's languages. 支持中文。"})
_SCORED_ALTCLIP = (_ALTCLIP, {"tooltip": "A full AltCLIP, with both towers."})
_IMAGES = ("IMAGE", {"tooltip": "A batch of images."})
_SCORE_AS = (
    list(get_args(ScoreAs)),
    {
        "default": "cosine",
        "tooltip": "cosine: -1 to 1. percentile, match_percentile (0 to 100) and probability (0 to 1) mean the same in every "
        "language, and need an AltCLIP with a calibration.",
    },
)


class AltCLIPLoader:
    """Loads AltCLIP, which reads prompts in its languages and scores images."""

    DISPLAY_NAME = "Load AltCLIP"
    CATEGORY = "AltDiffusion/loaders"
    DESCRIPTION = "Loads AltCLIP, which reads prompts in up to eighteen languages and scores images."
    RETURN_TYPES = (_ALTCLIP,)
    RETURN_NAMES = ("altclip",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (
                    "STRING",
                    {
                        "default": "BAAI/AltCLIP-m9",
                        "tooltip": f"A folder in models/{ALTCLIP_FOLDER}, a path, an id on the Hugging Face hub, or 'mini', the "
                        "small model inside the library.",
                    },
                ),
                "dtype": (["float32", "float16", "bfloat16"], {"default": "float32", "tooltip": "Of its weights."}),
                "allow_pickle": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Read .bin files, as BAAI published AltCLIP, without running code in them.",
                    },
                ),
            }
        }

    def load(self, model: str, dtype: str, allow_pickle: bool) -> tuple[AltCLIP]:
        return (AltCLIP(find(ALTCLIP_FOLDER, model), dtype, allow_pickle),)


class AltCLIPBridgeLoader:
    """Loads a bridge from AltCLIP to a Stable Diffusion's own CLIP."""

    DISPLAY_NAME = "Load AltCLIP Bridge"
    CATEGORY = "AltDiffusion/loaders"
    DESCRIPTION = "Loads a bridge, by which a Stable Diffusion's own CLIP reads prompts in AltCLIP's languages."
    RETURN_TYPES = (_BRIDGE,)
    RETURN_NAMES = ("bridge",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        where = f"A folder in models/{BRIDGE_FOLDER}, a path, an id on the Hugging Face hub, or 'mini'."
        return {
            "required": {"bridge": ("STRING", {"default": "", "tooltip": where})},
            "optional": {
                "altclip": (
                    _ALTCLIP,
                    {"tooltip": "The AltCLIP that it was trained with; by default the one that the bridge names."},
                )
            },
        }

    def load(self, bridge: str, altclip: AltCLIP | None = None) -> tuple[LoadedBridge]:
        return (LoadedBridge(find(BRIDGE_FOLDER, bridge), altclip),)


class AltCLIPBridgeTextEncode:
    """Encodes a prompt by any checkpoint's own CLIP, through a bridge."""

    DISPLAY_NAME = "CLIP Text Encode (AltCLIP Bridge)"
    CATEGORY = "AltDiffusion/conditioning"
    DESCRIPTION = (
        "Encodes a prompt in any of AltCLIP's languages by the checkpoint's own CLIP. What isn't English goes through the "
        "bridge; an English prompt is encoded as CLIP Text Encode does it. Weights (word:1.2), embedding:name, LoRAs and clip "
        "skip act as usual. `Words in backquotes` stay as they are."
    )
    RETURN_TYPES = ("CONDITIONING", "STRING")
    RETURN_NAMES = ("conditioning", "english")
    OUTPUT_TOOLTIPS = ("What KSampler takes.", "The English that the bridge understood.")
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "clip": ("CLIP", {"tooltip": "The checkpoint's CLIP: of a Stable Diffusion 1.x, 2.x or XL."}),
                "bridge": (_BRIDGE, {"tooltip": "A bridge that was trained for this CLIP."}),
                "text": (
                    "STRING",
                    {"multiline": True, "dynamicPrompts": True, "tooltip": "The prompt. 提示词，支持中文。"},
                ),
            },
            "optional": {
                "route": (
                    list(get_args(Route)),
                    {
                        "default": "auto",
                        "tooltip": "What goes through the bridge. auto: what isn't English; all; none.",
                    },
                ),
                "literal": (
                    "STRING",
                    {"default": "", "tooltip": "Words that never do, such as a LoRA's triggers; commas between them."},
                ),
            },
        }

    def encode(
        self, clip: Any, bridge: LoadedBridge, text: str, route: Route = "auto", literal: str = ""
    ) -> tuple[Any, str]:
        if clip is None:
            raise InputError("the checkpoint has no CLIP: connect one, as of Load CLIP")
        words = [word for part in re.split("[,，\n]", literal) if (word := part.strip())]
        return soft_conditioning.encode(clip, bridge, text, route, words)


class AltCLIPTextEncode:
    """Encodes a prompt by AltCLIP alone, for a UNet that was trained with it."""

    DISPLAY_NAME = "AltCLIP Text Encode (AltDiffusion)"
    CATEGORY = "AltDiffusion/conditioning"
    DESCRIPTION = (
        "Encodes a prompt by AltCLIP's text tower, for the UNet of an AltDiffusion. Weights (word:1.2), [word], BREAK as in "
        "AUTOMATIC1111's web UI."
    )
    RETURN_TYPES = ("CONDITIONING",)
    OUTPUT_TOOLTIPS = ("What KSampler takes, with an AltDiffusion as its model.",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "altclip": (_ALTCLIP, {"tooltip": "The AltCLIP or AltDiffusion that belongs to the UNet."}),
                "text": (
                    "STRING",
                    {"multiline": True, "dynamicPrompts": True, "tooltip": "The prompt. 提示词，支持中文。"},
                ),
            },
            "optional": {
                "weighting": (
                    list(get_args(Weighting)),
                    {"default": "masked", "tooltip": "What a weight does to the states of the prompt."},
                ),
            },
        }

    def encode(self, altclip: AltCLIP, text: str, weighting: Weighting = "masked") -> tuple[Any]:
        tower, tokenizer = altclip.text_encoder
        with on_device(tower) as device:
            # all of a pipeline that prompts are encoded with
            pipe = SimpleNamespace(text_encoder=tower, tokenizer=tokenizer, _execution_device=device, config={})
            states = encode_prompts(pipe, text, weighting=weighting)["prompt_embeds"]
        return ([[states.float().to(management.intermediate_device()), {}]],)


class AltCLIPScore:
    """Scores images against a prompt."""

    DISPLAY_NAME = "AltCLIP Score"
    CATEGORY = "AltDiffusion/scores"
    DESCRIPTION = "How well each image fits a prompt in any of AltCLIP's languages."
    RETURN_TYPES = ("FLOAT", "STRING")
    RETURN_NAMES = ("scores", "text")
    OUTPUT_IS_LIST = (True, False)
    OUTPUT_TOOLTIPS = ("A number for each image.", "The same as text, a line each.")
    OUTPUT_NODE = True
    FUNCTION = "score"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"altclip": _SCORED_ALTCLIP, "images": _IMAGES, "prompt": _PROMPT},
            "optional": {"score_as": _SCORE_AS},
        }

    def score(self, altclip: AltCLIP, images: Tensor, prompt: str, score_as: ScoreAs = "cosine") -> dict[str, Any]:
        scorer = altclip.scorer
        with on_device(scorer.model):
            scores = scorer.score(_arrays(images), _words(prompt), as_=score_as)[:, 0].tolist()
        text = _lines(list(range(len(images))), scores, score_as)
        return {"ui": {"text": [text]}, "result": (scores, text)}


class AltCLIPBestOf:
    """Keeps the images of a batch that fit a prompt best."""

    DISPLAY_NAME = "AltCLIP Best of N"
    CATEGORY = "AltDiffusion/scores"
    DESCRIPTION = "The images of a batch that fit a prompt best, best first, with their scores."
    RETURN_TYPES = ("IMAGE", "FLOAT", "STRING")
    RETURN_NAMES = ("images", "scores", "text")
    OUTPUT_IS_LIST = (False, True, False)
    OUTPUT_TOOLTIPS = (
        "The best, best first.",
        "A number for each of them.",
        "The same as text, with each one's place in the batch, counted from 1.",
    )
    FUNCTION = "choose"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        keep = ("INT", {"default": 1, "min": 1, "max": 4096, "tooltip": "How many images to keep."})
        return {
            "required": {"altclip": _SCORED_ALTCLIP, "images": _IMAGES, "prompt": _PROMPT, "keep": keep},
            "optional": {"score_as": _SCORE_AS},
        }

    def choose(
        self, altclip: AltCLIP, images: Tensor, prompt: str, keep: int, score_as: ScoreAs = "cosine"
    ) -> dict[str, Any]:
        if not 1 <= keep <= len(images):
            raise InputError(f"keep is {keep}, the batch has {len(images)} images: expected 1 to {len(images)}")
        scorer = altclip.scorer
        with on_device(scorer.model):
            ranked = scorer.rank(_arrays(images), _words(prompt), as_=score_as)[:keep]
        order, best = [index for index, _ in ranked], [score for _, score in ranked]
        text = _lines(order, best, score_as)
        return {"ui": {"text": [text]}, "result": (images[order], best, text)}


def _arrays(images: Tensor) -> Any:
    """(images, height, width, channels) in 0 to 1: some of ComfyUI's nodes give values a little outside, which saving cuts."""
    return images.detach().float().clamp(0, 1).cpu().numpy()


def _words(prompt: str) -> str:
    """Without weights and the like, so that what is encoded can be scored by, too."""
    return plain_text(prompt, "lenient")


def _lines(order: list[int], scores: list[float], score_as: ScoreAs) -> str:
    return "\n".join(f"{index + 1}: {score:.{DECIMALS[score_as]}f}" for index, score in zip(order, scores, strict=True))


NODES = (
    AltCLIPLoader, AltCLIPBridgeLoader, AltCLIPBridgeTextEncode, AltCLIPTextEncode, AltCLIPScore, AltCLIPBestOf
)  # fmt: skip
