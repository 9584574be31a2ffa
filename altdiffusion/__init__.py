"""Stable Diffusion in Chinese, English and sixteen more languages: AltCLIP's text encoder on today's diffusers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from altdiffusion import diffusers_alias

__version__ = "0.3.0"

# Where each public name lives. They are imported when first used: torch and diffusers take seconds.
_HOMES = {
    "AltDiffusionPipeline": "pipelines",
    "AltDiffusionImg2ImgPipeline": "pipelines",
    "AltDiffusionInpaintPipeline": "pipelines",
    "swap_text_encoder": "pipelines",
    "load_text_encoder": "text_encoder",
    "AltCLIP": "similarity",
    "AltCLIPProcessor": "similarity",
    "PromptScorer": "scoring",
    "AltCLIPScore": "clip_score",
    "Bridge": "bridge",
    "BridgedTextEncoder": "bridge",
    "choose_attention": "attention",
    "optimize": "optimization",
    "save_memory": "memory",
    "generate": "generation",
    "convert": "conversion",
    "InputError": "errors",
}
_NEEDS_EXTRA = {"AltCLIPScore"}  # `import *` asks for nothing that a plain installation lacks
__all__ = [*sorted(set(_HOMES) - _NEEDS_EXTRA), "__version__"]  # noqa: PLE0604

if TYPE_CHECKING:
    from altdiffusion.attention import choose_attention as choose_attention
    from altdiffusion.bridge import Bridge as Bridge
    from altdiffusion.bridge import BridgedTextEncoder as BridgedTextEncoder
    from altdiffusion.clip_score import AltCLIPScore as AltCLIPScore
    from altdiffusion.conversion import convert as convert
    from altdiffusion.errors import InputError as InputError
    from altdiffusion.generation import generate as generate
    from altdiffusion.memory import save_memory as save_memory
    from altdiffusion.optimization import optimize as optimize
    from altdiffusion.pipelines import AltDiffusionImg2ImgPipeline as AltDiffusionImg2ImgPipeline
    from altdiffusion.pipelines import AltDiffusionInpaintPipeline as AltDiffusionInpaintPipeline
    from altdiffusion.pipelines import AltDiffusionPipeline as AltDiffusionPipeline
    from altdiffusion.pipelines import swap_text_encoder as swap_text_encoder
    from altdiffusion.scoring import PromptScorer as PromptScorer
    from altdiffusion.similarity import AltCLIP as AltCLIP
    from altdiffusion.similarity import AltCLIPProcessor as AltCLIPProcessor
    from altdiffusion.text_encoder import load_text_encoder as load_text_encoder


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"altdiffusion.{_HOMES[name]}"), name)
    if name == "PreTrainedModel":  # diffusers looks for it here, to know how a saved BridgedTextEncoder is loaded
        return importlib.import_module("altdiffusion.bridge").PreTrainedModel
    raise AttributeError(f"module 'altdiffusion' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


diffusers_alias.install()
