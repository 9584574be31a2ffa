"""A pipeline made as fast as its device allows, in one call.

    pipe = optimize(AltDiffusionPipeline.from_pretrained("BAAI/AltDiffusion-m9").to("cuda"))      # or pipe.optimize()

By default, images change only by the rounding of the dtype. Options that change them more need `exact=False`. What can't
be done here is skipped with a warning: the pipeline stays exact, and slower.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path
from types import MethodType
from typing import Any, Literal, TypeVar

import torch
from diffusers import AutoencoderTiny, DiffusionPipeline, LCMScheduler
from torch import Tensor

from altdiffusion.errors import InputError, first_line
from altdiffusion.forward_override import ForwardOverride, install, remove
from altdiffusion.speed.cpu_timesteps import keep_on_cpu
from altdiffusion.speed.openvino_models import use_openvino, use_pytorch
from altdiffusion.speed.packed_linear import pack

logger = logging.getLogger(__name__)

Compile = bool | Literal["graphs"]


P = TypeVar("P", bound=DiffusionPipeline)


def optimize(
    pipe: P,
    *,
    exact: bool = True,
    dtype: torch.dtype | None = None,
    compile: Compile | None = None,
    fuse_qkv: bool = False,
    openvino: bool = False,
    int8: bool = False,
    tiny_vae: str | Path | None = None,
    lcm: str | Path | None = None,
) -> P:
    """Make a Stable Diffusion pipeline fast where it stands, in place. Load LoRAs before.

    dtype: by default `fast_dtype` of the device. UNet and VAE compute in channels_last. On a CPU the text encoder's
        weights are packed (`packed_linear.py`), which takes as much memory again: 1.2 GB for AltCLIP's in float32. No
        step waits for a GPU (`cpu_timesteps.py`), unless another scheduler is put into the pipeline later; those that
        `generate` puts in don't wait either.
    compile: the UNet's repeated blocks, once, for all of its shapes; "graphs": the whole UNet with CUDA graphs, for one
        shape and the least overhead at batch 1. By default the blocks on a GPU, nothing on a CPU, where it needs a C++
        compiler. The compiled code is kept between runs in $TORCHINDUCTOR_CACHE_DIR, by default ~/.cache/altdiffusion.
    fuse_qkv: one matrix for query, key and value. It is a copy: what is saved afterwards holds both.
    openvino: on a CPU, UNet and VAE decoder by the package openvino, with as much memory again as their weights take: 1.2
        times as fast in float32, after up to a minute of compiling for each image size: for many images of one size.
    Approximate, so only with exact=False: int8: the UNet's weights by torchao. tiny_vae: a TAESD's folder or id on the hub,
        in place of the VAE. lcm: a LoRA file, folder or id on the hub; then 4 to 8 steps are enough, with a
        guidance_scale of 1 to 2.
    Returns the same pipeline. Raises InputError, before anything changes, for an option that can't be met.
    """
    unet: Any = getattr(pipe, "unet", None)
    vae: Any = getattr(pipe, "vae", None)
    if unet is None or vae is None:
        raise InputError(f"{type(pipe).__name__} has no UNet and VAE: expected a Stable Diffusion pipeline")
    approximate = {"int8": int8, "tiny_vae": tiny_vae, "lcm": lcm}
    named = [name for name, value in approximate.items() if value]
    if exact and named:
        raise InputError(f"{named[0]} changes the images: pass exact=False with it, or leave it out")
    if int8 and importlib.util.find_spec("torchao") is None:
        raise InputError("int8 needs the package torchao (pip install torchao)")
    if compile not in (None, True, False, "graphs"):
        raise InputError(f"compile={compile!r}: expected True, False or 'graphs'")
    device = unet.device
    if compile == "graphs" and device.type != "cuda":
        raise InputError(
            f"compile='graphs' needs a CUDA GPU, this pipeline is on {device}: pass True, or move it first"
        )
    if openvino and (device.type != "cpu" or compile):
        raise InputError("openvino is for a pipeline on a CPU, in place of compile: leave one of them out")
    if openvino and importlib.util.find_spec("openvino") is None:
        raise InputError("openvino needs the package openvino (pip install openvino)")
    replacement = None if tiny_vae is None else _load_tiny_vae(tiny_vae)
    dtype = fast_dtype(device, unet.dtype) if dtype is None else dtype
    if dtype == torch.float16 and device.type == "cpu":
        raise InputError("float16 is slow on a CPU: pass float32 or bfloat16, or leave dtype out")

    if lcm is not None:
        _load_lcm(pipe, lcm)
    if replacement is not None:
        vae = pipe.vae = replacement.to(device)
    openvino_dtype = dtype
    if openvino:  # which converts for itself
        dtype = torch.float32
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    if any(part.dtype != dtype for part in parts):
        pipe.to(dtype=dtype)
    if fuse_qkv:
        unet.fuse_qkv_projections()
    if not openvino:
        for model in (unet, vae):
            model.to(memory_format=torch.channels_last)
    keep_on_cpu(pipe.scheduler)
    if device.type == "cpu":
        for name, part in pipe.components.items():
            if name.startswith("text_encoder") and isinstance(part, torch.nn.Module):
                pack(part)
    if int8:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(unet, Int8WeightOnlyConfig())
    if openvino:
        _use_openvino(unet, vae, openvino_dtype)
    elif device.type == "cuda" if compile is None else compile:
        _compile(unet, graphs=compile == "graphs")
    return pipe


def fast_dtype(device: torch.device, present: torch.dtype = torch.float32) -> torch.dtype:
    """The dtype that a device computes fastest in: on a GPU `present` if that is a half precision, else float16; on a CPU
    with AMX bfloat16; on other CPUs float32."""
    if device.type != "cpu":
        return present if present in (torch.float16, torch.bfloat16) else torch.float16
    if has_amx():
        return torch.bfloat16
    if present != torch.float32:
        logger.warning("this CPU has no AMX: computing in float32, as %s would be slower", present)
    return torch.float32


def has_amx() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 in hardware, 4 to 5 times as fast as float32.

    AVX512-BF16 alone does not count: on a Xeon whose AMX is hidden, large products took 1.8 times as long as in float32.
    """
    return bool(torch.cpu._is_amx_tile_supported())


def _compile(unet: Any, graphs: bool) -> None:
    """Compile, and run once at the model's own size, so that it fails here if it fails; then the UNet is as before."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "altdiffusion" / "inductor"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    try:
        if graphs:
            install(CudaGraphForward(unet))
        else:
            unet.compile_repeated_blocks(fullgraph=True)
        _run_once(unet)
    except Exception as error:  # whatever the compilers, the driver or the processors of an adapter raise
        if graphs:
            remove(unet)
        for module in unet.modules():
            module._compiled_call_impl = None
        torch._dynamo.reset()
        logger.warning(
            "the UNet can't be compiled here, it stays exact and slower: %s",
            first_line(getattr(error, "inner_exception", error)),
        )


class CudaGraphForward(ForwardOverride):
    """A UNet's forward as a CUDA graph, which takes tensors of its GPU alone: the timestep is brought there before."""

    def __init__(self, unet: Any) -> None:
        super().__init__(unet)
        self._graph = torch.compile(MethodType(type(unet).forward, unet), mode="reduce-overhead", fullgraph=True)

    def __call__(self, sample: Tensor, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        """As in diffusers."""
        timestep = torch.as_tensor(timestep).to(sample.device, non_blocking=True)
        return self._graph(sample, timestep, *args, **kwargs)


def _use_openvino(unet: Any, vae: Any, dtype: torch.dtype) -> None:
    """Compile for the model's own size, so that it fails here if it fails; then both are as before."""
    use_openvino(unet, vae, dtype)
    try:
        _run_once(unet)
    except Exception as error:  # whatever tracing and OpenVINO raise
        use_pytorch(unet, vae)
        logger.warning("OpenVINO can't compile this UNet, it stays exact and slower: %s", first_line(error))


@torch.no_grad()
def _run_once(unet: Any) -> None:
    """At the model's own size, with guidance: a batch of 2."""
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    options = {"device": unet.device, "dtype": unet.dtype}
    latents = torch.zeros(2, unet.config.in_channels, side, side, **options)
    extra: dict[str, Any] = {}
    if unet.config.addition_embed_type == "text_time":  # XL: six numbers and the pooled vector
        total = unet.config.projection_class_embeddings_input_dim
        pooled = torch.zeros(2, total - 6 * unet.config.addition_time_embed_dim, **options)
        extra = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": torch.zeros(2, 6, **options)}}
    timestep = torch.tensor(1, device=unet.device)
    unet(latents, timestep, encoder_hidden_states=torch.zeros(2, 77, width, **options), **extra)


def _load_tiny_vae(source: str | Path) -> AutoencoderTiny:
    try:
        return AutoencoderTiny.from_pretrained(str(source))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"tiny_vae {source} can't be loaded: {first_line(error)}; expected a TAESD's folder or id"
        ) from None


def _load_lcm(pipe: Any, source: str | Path) -> None:
    try:
        pipe.load_lora_weights(str(source), adapter_name="lcm")
    except (ImportError, OSError, ValueError, LookupError, RuntimeError) as error:
        raise InputError(f"lcm {source} can't be loaded as a LoRA: {first_line(error)}") from None
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
