"""Images at full size: ours after `optimize`, beside stock diffusers as it is and with what else makes it fast."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch.nn.attention import SDPBackend, sdpa_kernel

from altdiffusion.benchmark import models
from altdiffusion.benchmark.models import Sizes
from altdiffusion.benchmark.timing import Comparison, Contender, in_turns
from altdiffusion.speed.optimize import optimize

Way = Callable[[], Any]


def measure(sizes: Sizes, device: torch.device) -> Iterator[Comparison]:
    on_gpu = device.type == "cuda"
    dtype = torch.float16 if on_gpu else torch.float32
    tower = models.text_tower(replace(sizes, vocabulary=None), device)
    stock = models.diffusion(sizes, tower, device, dtype)
    pipe = optimize(copy_with_our_encoder(stock))
    ours, peers, absent = gpu_contenders(stock) if on_gpu else cpu_contenders(stock)
    for batch in (1, 8) if on_gpu else (1,):
        pipes = {"altdiffusion, optimize()": pipe, **(ours if batch == 1 else {})}
        pipes |= {f"stock StableDiffusionPipeline, {_name(dtype)}": stock, **peers}
        ways = {name: make_generate(pipeline, sizes, batch) for name, pipeline in pipes.items()}
        yield Comparison(
            f"drawing {sizes.side}², {sizes.steps} steps, batch {batch}, ours in {_name(pipe.unet.dtype)}",
            [*in_turns(ways, sizes.rounds, device), *absent],
            batch * sizes.steps,
            "steps",
            limits=[f"one forward of the UNet alone: {forward(pipe, sizes, batch, device):.3f} s"],
        )


def copy_with_our_encoder(stock: Any) -> Any:
    """A copy of the pipeline with our text encoder."""
    parts = {name: part for name, part in stock.components.items() if name not in ("text_encoder", "unet", "vae")}
    encoder = models.our_text_encoder(stock.text_encoder)
    return type(stock)(
        **parts,
        text_encoder=encoder,
        unet=copy.deepcopy(stock.unet),
        vae=copy.deepcopy(stock.vae),
        requires_safety_checker=False,
    )


Contenders = tuple[dict[str, Any], dict[str, Any], list[Contender]]


def cpu_contenders(stock: Any) -> Contenders:
    """More of ours by name, peers by name, and those that can't be measured here."""
    if importlib.util.find_spec("openvino") is None:
        return {}, {}, [Contender("by OpenVINO", note="not installed")]
    parts = stock.components | {name: _sharing(stock.components[name]) for name in ("unet", "vae")}
    peer = type(stock)(**parts, requires_safety_checker=False)
    ours = type(stock)(
        **parts | {"text_encoder": models.our_text_encoder(stock.text_encoder)}, requires_safety_checker=False
    )
    optimize(ours, openvino=True)  # and with it the peer's UNet and VAE, which are the same
    return {"altdiffusion, optimize(openvino=True)": ours}, {"stock by OpenVINO": peer}, []


def gpu_contenders(stock: Any) -> Contenders:
    """The same for a GPU: ours with CUDA graphs, and `gpu_peers`."""
    ours = {"altdiffusion, optimize(compile='graphs')": optimize(copy_with_our_encoder(stock), compile="graphs")}
    return ours, *gpu_peers(stock)


def gpu_peers(stock: Any) -> tuple[dict[str, Any], list[Contender]]:
    """Stock with each kernel of PyTorch's attention, with its UNet compiled, with xformers; and what can't be measured here."""
    kernels = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cuDNN": SDPBackend.CUDNN_ATTENTION,
    }
    peers: dict[str, Any] = {f"stock, SDPA's {name} kernel": Within(stock, kernel) for name, kernel in kernels.items()}
    compiled = type(stock)(**stock.components, requires_safety_checker=False)
    compiled.unet = torch.compile(stock.unet)
    peers["stock, torch.compile(unet)"] = compiled
    if importlib.util.find_spec("xformers") is None:
        return peers, [Contender("stock with xformers", note="not installed")]
    return peers | {"stock with xformers": Xformers(stock)}, []


class Within:
    """A pipeline whose attention uses one kernel of PyTorch alone; where that can't, PyTorch's plain one."""

    def __init__(self, pipe: Any, kernel: SDPBackend) -> None:
        self.pipe, self.kernel = pipe, kernel

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with sdpa_kernel([self.kernel, SDPBackend.MATH], set_priority=True):
            return self.pipe(*args, **kwargs)


class Xformers:
    """A pipeline that generates with xformers' attention, and has its own again afterwards."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.pipe.enable_xformers_memory_efficient_attention()
        try:
            return self.pipe(*args, **kwargs)
        finally:
            for model in (self.pipe.unet, self.pipe.vae):
                model.set_attn_processor(AttnProcessor2_0())


def make_generate(pipe: Any, sizes: Sizes, batch: int) -> Way:
    """A function that generates the same images at each call: float (batch, height, width, 3), 0 to 1."""
    getattr(pipe, "pipe", pipe).set_progress_bar_config(disable=True)

    def run() -> Any:
        generator = torch.Generator().manual_seed(1)
        size = {"width": sizes.side, "height": sizes.side, "num_inference_steps": sizes.steps}
        return pipe(["一只猫"] * batch, generator=generator, output_type="np", **size).images

    return run


def forward(pipe: Any, sizes: Sizes, batch: int, device: torch.device) -> float:
    """Seconds of one step of our pipeline's UNet alone, with guidance."""
    like = {"device": device, "dtype": pipe.unet.dtype}
    latents = torch.randn(2 * batch, 4, sizes.side // 8, sizes.side // 8, **like)
    states, moment = torch.randn(2 * batch, 77, models.PROJECTED, **like), torch.tensor(1, device=device)

    @torch.no_grad()
    def run() -> None:
        pipe.unet(latents, moment, encoder_hidden_states=states)

    return in_turns({"unet": run}, 2, device)[0].median or 0.0


def _sharing(model: Any) -> Any:
    """A copy with the same weights, which may be given another `forward`."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
