"""Drawings at full size: ours after `optimize`, beside stock diffusers as a user would call it."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from altdiffusion.benchmark import models
from altdiffusion.benchmark.models import Sizes
from altdiffusion.benchmark.timing import Comparison, Contender, in_turns
from altdiffusion.optimization import optimize


def measure(sizes: Sizes, device: torch.device) -> Iterator[Comparison]:
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    tower = models.text_tower(replace(sizes, vocabulary=None), device)
    stock = models.diffusion(sizes, tower, device, dtype)
    pipe = twin(stock)
    optimize(pipe)
    on_gpu = device.type == "cuda"
    for batch in (1, 8) if on_gpu else (1,):
        ways = {
            "altdiffusion, optimize()": draws(pipe, sizes, batch),
            f"stock StableDiffusionPipeline, {str(dtype).removeprefix('torch.')}": draws(stock, sizes, batch),
        }
        if on_gpu and batch == 1:
            graphs = twin(stock)
            optimize(graphs, compile="graphs")
            ways["altdiffusion, optimize(compile='graphs')"] = draws(graphs, sizes, batch)
        found = in_turns(ways, sizes.rounds, device)
        yield Comparison(
            f"drawing {sizes.side}², {sizes.steps} steps, batch {batch}, {str(pipe.unet.dtype).removeprefix('torch.')}",
            [*found, *_absent(on_gpu)],
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


def draws(pipe: Any, sizes: Sizes, batch: int) -> Callable[[], Any]:
    """The same pictures at each call; as a numpy array."""
    pipe.set_progress_bar_config(disable=True)

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


def _absent(on_gpu: bool) -> list[Contender]:
    """The peers that can't be measured here, said so."""
    if on_gpu:
        there = importlib.util.find_spec("xformers") is not None
        return [] if there else [Contender("stock with xformers", note="not installed")]
    there = importlib.util.find_spec("optimum") is not None and importlib.util.find_spec("openvino") is not None
    return [Contender("OpenVINO by optimum-intel", note="not measured" if there else "not installed")]
