"""Chooses memory-efficient attention for UNet and VAE, and reports which attention really runs.

`unet.set_attention_backend` changes nothing on Stable Diffusion's UNets (their processor calls SDPA directly and is
skipped silently), so the processors themselves are set here, and the report reads them back.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)
from torch.nn.attention import SDPBackend

from altdiffusion.errors import InputError

METHODS = ("auto", "xformers", "sdpa", "sliced")
_REPLACEABLE = (AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor, XFormersAttnProcessor)
_NAMES = {AttnProcessor: "math", SlicedAttnProcessor: "sliced", XFormersAttnProcessor: "xformers"}


@dataclass(frozen=True)
class AttentionReport:
    """What computes attention in each part: "xformers", "sliced", or "sdpa/" and PyTorch's kernel, e.g. "sdpa/flash"."""

    unet: str
    vae: str
    text_encoder: str


def choose_attention(pipe: DiffusionPipeline, method: str = "auto") -> AttentionReport:
    """Set the memory-efficient attention of a pipeline, in place. Call it when the pipeline is on its device.

    method: "auto" takes xformers where it is installed and the pipeline is on a GPU, else SDPA, whose flash or
    memory-efficient kernel PyTorch picks; "sliced" computes half of the heads at a time: slower, with the least memory.
    Processors that carry weights or state of their own (IP-Adapter, custom ones) are left as they are.
    The text tower keeps SDPA, whatever the method: its inputs are short, and masked.
    Returns what really runs. Raises InputError where the method can't run here.
    """
    if method not in METHODS:
        raise InputError(f"unknown attention {method!r}: expected one of {', '.join(METHODS)}")
    on_gpu = pipe.unet.device.type == "cuda"
    has_xformers = importlib.util.find_spec("xformers") is not None
    if method == "xformers" and not (on_gpu and has_xformers):
        missing = (
            "a CUDA GPU that the pipeline is on" if has_xformers else "the package xformers (pip install xformers)"
        )
        raise InputError(f"xformers attention needs {missing}: use 'sdpa'")
    if method == "auto":
        method = "xformers" if on_gpu and has_xformers else "sdpa"

    for model in (pipe.unet, pipe.vae):
        if any(type(processor) not in _REPLACEABLE for processor in model.attn_processors.values()):
            continue
        if method == "xformers":
            model.enable_xformers_memory_efficient_attention()
        elif method == "sliced":
            for attention in (module for module in model.modules() if isinstance(module, Attention)):
                attention.set_attention_slice(max(1, attention.heads // 2))
        else:
            model.set_attn_processor(AttnProcessor2_0())
    return report_attention(pipe)


def report_attention(pipe: DiffusionPipeline) -> AttentionReport:
    """What computes attention in this pipeline now."""
    encoder = getattr(pipe, "text_encoder_2", None) or pipe.text_encoder
    encoder = getattr(encoder, "tower", encoder)  # AltCLIP's, where a bridge stands behind it
    implementation = encoder.config._attn_implementation
    if implementation == "sdpa":
        head_dim = encoder.config.hidden_size // encoder.config.num_attention_heads
        implementation = _sdpa_kernel(encoder, head_dim, masked=True)
    return AttentionReport(_processors(pipe.unet), _processors(pipe.vae), implementation)


def _processors(model: Any) -> str:
    """The names of a diffusers model's attention processors, joined by commas where they differ."""
    names = set()
    for name, processor in model.attn_processors.items():
        if type(processor) is AttnProcessor2_0:
            attention = model.get_submodule(name.removesuffix(".processor"))
            names.add(_sdpa_kernel(model, attention.inner_dim // attention.heads, masked=False))
        else:
            names.add(_NAMES.get(type(processor), type(processor).__name__))
    return ", ".join(sorted(names)) or "none"


def _sdpa_kernel(model: Any, head_dim: int, masked: bool) -> str:
    """The kernel that PyTorch says it picks for this head size, on the model's device and in its dtype."""
    query = torch.empty(1, 1, 64, head_dim, device=model.device, dtype=model.dtype)
    mask = torch.ones(1, 1, 64, 64, device=model.device, dtype=torch.bool) if masked else None
    choice = torch._fused_sdp_choice(query, query, query, mask)
    return "sdpa/" + SDPBackend(choice).name.lower().removesuffix("_attention")
