"""Stable Diffusion in Chinese, English and sixteen more languages: AltCLIP's text encoder on today's diffusers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from altdiffusion.pipelines import legacy_import

__version__ = "0.3.0"

# Where each public name lives. They are imported when first used: torch and diffusers take seconds.
_HOMES = {
    "AltDiffusionPipeline": "pipelines.alt_diffusion",
    "AltDiffusionImg2ImgPipeline": "pipelines.alt_diffusion",
    "AltDiffusionInpaintPipeline": "pipelines.alt_diffusion",
    "swap_text_encoder": "pipelines.swap",
    "load_text_encoder": "text_encoder.encoder",
    "AltCLIP": "altclip.model",
    "AltCLIPProcessor": "altclip.model",
    "PromptScorer": "altclip.scorer",
    "AltCLIPScore": "altclip.torchmetric",
    "Bridge": "text_encoder.bridge",
    "BridgedTextEncoder": "text_encoder.bridge",
    "choose_attention": "speed.attention",
    "optimize": "speed.optimize",
    "save_memory": "speed.low_memory",
    "generate": "generation.generate",
    "convert": "pipelines.convert",
    "InputError": "errors",
}
_NEEDS_EXTRA = {"AltCLIPScore"}  # `import *` asks for nothing that a plain installation lacks
__all__ = [*sorted(set(_HOMES) - _NEEDS_EXTRA), "__version__"]  # noqa: PLE0604

if TYPE_CHECKING:
    from altdiffusion.altclip.model import AltCLIP as AltCLIP
    from altdiffusion.altclip.model import AltCLIPProcessor as AltCLIPProcessor
    from altdiffusion.altclip.scorer import PromptScorer as PromptScorer
    from altdiffusion.altclip.torchmetric import AltCLIPScore as AltCLIPScore
    from altdiffusion.errors import InputError as InputError
    from altdiffusion.generation.generate import generate as generate
    from altdiffusion.pipelines.alt_diffusion import AltDiffusionImg2ImgPipeline as AltDiffusionImg2ImgPipeline
    from altdiffusion.pipelines.alt_diffusion import AltDiffusionInpaintPipeline as AltDiffusionInpaintPipeline
    from altdiffusion.pipelines.alt_diffusion import AltDiffusionPipeline as AltDiffusionPipeline
    from altdiffusion.pipelines.convert import convert as convert
    from altdiffusion.pipelines.swap import swap_text_encoder as swap_text_encoder
    from altdiffusion.speed.attention import choose_attention as choose_attention
    from altdiffusion.speed.low_memory import save_memory as save_memory
    from altdiffusion.speed.optimize import optimize as optimize
    from altdiffusion.text_encoder.bridge import Bridge as Bridge
    from altdiffusion.text_encoder.bridge import BridgedTextEncoder as BridgedTextEncoder
    from altdiffusion.text_encoder.encoder import load_text_encoder as load_text_encoder


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"altdiffusion.{_HOMES[name]}"), name)
    if name == "PreTrainedModel":  # diffusers looks for it here, to know how a saved BridgedTextEncoder is loaded
        return importlib.import_module("altdiffusion.text_encoder.bridge").PreTrainedModel
    raise AttributeError(f"module 'altdiffusion' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


legacy_import.install()
