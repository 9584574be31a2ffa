"""Peak memory while an image is generated, weights included, each setting in a process of its own.

On a GPU what PyTorch holds there, on a CPU the process.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from altdiffusion.benchmark import models
from altdiffusion.benchmark.cases import generation
from altdiffusion.benchmark.models import Sizes
from altdiffusion.benchmark.timing import Comparison, Contender
from altdiffusion.generation.auto_batch import Memory
from altdiffusion.speed.low_memory import save_memory
from altdiffusion.speed.optimize import optimize

# What ours is loaded with, and then done to it. "stock" is diffusers' own, as a user gets it.
SETTINGS: dict[str, Callable[[Any, torch.device], Any]] = {
    "low_memory": lambda pipe, device: save_memory(pipe, device),
    "low_memory, stream": lambda pipe, device: save_memory(pipe, device, stream=True),
    "plain": lambda pipe, device: pipe.to(device),
    "optimize()": lambda pipe, device: optimize(pipe.to(device)),
}
STOCK = ("stock", "stock, enable_model_cpu_offload", "stock, enable_sequential_cpu_offload")
ON_A_GPU = ("low_memory, stream", *STOCK[1:])  # what a CPU has no other place for


def measure(sizes: Sizes, device: torch.device) -> Iterator[Comparison]:
    dtype = "float16" if device.type == "cuda" else "float32"
    contenders = []
    with _processes() as pool:
        for setting in (*SETTINGS, *STOCK):
            name = setting if setting in STOCK else f"altdiffusion, {setting}"
            if device.type == "cpu" and setting in ON_A_GPU:
                contenders.append(Contender(name, note="for a GPU"))
                continue
            contenders.append(Contender(name, [pool.apply(peak, (setting, sizes, device)) / 1e9]))
    yield Comparison(f"peak memory of drawing {sizes.side}², batch 1, {dtype}", contenders, measure="GB")


def _processes() -> Any:
    """A pool that has a process for each task. Where it can, they are forked from one that has imported this, and no more."""
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload([__name__])
    return context.Pool(1, maxtasksperchild=1)


def peak(setting: str, sizes: Sizes, device: torch.device) -> int:
    """Bytes at most, of this process or on its GPU, while an image is generated: what was needed to load is not counted."""
    cpu, dtype = torch.device("cpu"), torch.float16 if device.type == "cuda" else torch.float32
    stock = models.diffusion(sizes, models.text_tower(sizes, cpu), cpu, dtype)
    if setting in SETTINGS:
        parts = stock.components | {"text_encoder": models.our_text_encoder(stock.text_encoder)}
        pipe = SETTINGS[setting](type(stock)(**parts, requires_safety_checker=False), device)
    else:
        pipe = stock
        offload = setting.partition(", ")[2]
        getattr(pipe, offload)(device=device) if offload else pipe.to(device)
    run, memory = generation.make_generate(pipe, replace(sizes, steps=2), 1), Memory(device)
    with memory:
        run()
    return memory.first + memory.taken
