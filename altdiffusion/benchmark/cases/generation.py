"""Drawings at full size: ours after `optimize`, beside stock diffusers as it is and with what else makes it fast."""

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
    pipe = optimize(twin(stock))
    ours, peers, absent = on_a_gpu(stock) if on_gpu else on_a_cpu(stock)
    for batch in (1, 8) if on_gpu else (1,):
        drawn = {"altdiffusion, optimize()": pipe, **(ours if batch == 1 else {})}
        drawn |= {f"stock StableDiffusionPipeline, {_name(dtype)}": stock, **peers}
        ways = {name: draws(each, sizes, batch) for name, each in drawn.items()}
        yield Comparison(
            f"drawing {sizes.side}², {sizes.steps} steps, batch {batch}, ours in {_name(pipe.unet.dtype)}",
            [*in_turns(ways, sizes.rounds, device), *absent],
            batch * sizes.steps,
            "steps",
            limits=[f"one forward of the UNet alone: {forward(pipe, sizes, batch, device):.3f} s"],
        )


def twin(stock: Any) -> Any:
    """Ours, with the same weights, and our text encoder."""
    parts = {name: part for name, part in stock.components.items() if name not in ("text_encoder", "unet", "vae")}
    encoder = models.ours(stock.text_encoder)
    return type(stock)(
        **parts,
        text_encoder=encoder,
        unet=copy.deepcopy(stock.unet),
        vae=copy.deepcopy(stock.vae),
        requires_safety_checker=False,
    )


Contenders = tuple[dict[str, Any], dict[str, Any], list[Contender]]


def on_a_cpu(stock: Any) -> Contenders:
    """More of ours by name, peers by name, and those that can't be measured here."""
    if importlib.util.find_spec("openvino") is None:
        return {}, {}, [Contender("by OpenVINO", note="not installed")]
    parts = stock.components | {name: _sharing(stock.components[name]) for name in ("unet", "vae")}
    peer = type(stock)(**parts, requires_safety_checker=False)
    ours = type(stock)(**parts | {"text_encoder": models.ours(stock.text_encoder)}, requires_safety_checker=False)
    optimize(ours, openvino=True)  # and with it the peer's UNet and VAE, which are the same
    return {"altdiffusion, optimize(openvino=True)": ours}, {"stock by OpenVINO": peer}, []


def on_a_gpu(stock: Any) -> Contenders:
    """The same: ours with CUDA graphs; stock with each kernel of PyTorch's attention, xformers, and its UNet compiled."""
    ours = {"altdiffusion, optimize(compile='graphs')": optimize(twin(stock), compile="graphs")}
    return ours, *gpu_peers(stock)


def gpu_peers(stock: Any) -> tuple[dict[str, Any], list[Contender]]:
    """Peers by name, and those that can't be measured here."""
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
    """A pipeline, where one kernel of PyTorch's attention alone may be used; where it can't, PyTorch's own choice."""

    def __init__(self, pipe: Any, kernel: SDPBackend) -> None:
        self.pipe, self.kernel = pipe, kernel

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with sdpa_kernel([self.kernel, SDPBackend.MATH], set_priority=True):
            return self.pipe(*args, **kwargs)


class Xformers:
    """A pipeline, for as long as it draws with xformers' attention."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.pipe.enable_xformers_memory_efficient_attention()
        try:
            return self.pipe(*args, **kwargs)
        finally:
            for model in (self.pipe.unet, self.pipe.vae):
                model.set_attn_processor(AttnProcessor2_0())


def draws(pipe: Any, sizes: Sizes, batch: int) -> Way:
    """The same images at each call; as a numpy array."""
    getattr(pipe, "pipe", pipe).set_progress_bar_config(disable=True)

    def draw() -> Any:
        generator = torch.Generator().manual_seed(1)
        size = {"width": sizes.side, "height": sizes.side, "num_inference_steps": sizes.steps}
        return pipe(["一只猫"] * batch, generator=generator, output_type="np", **size).images

    return draw


def forward(pipe: Any, sizes: Sizes, batch: int, device: torch.device) -> float:
    """Seconds that a step's UNet takes alone, with guidance: as compiled and laid out as in our pipeline."""
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
