"""Part b: peak memory of generating an image, and the kernels that computed attention; xformers."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from gpu.generation import generates, generation_table, images_a_second
from gpu.models import Setup, forward, load, prompt_ids, release, save_pipeline, saved
from gpu.timing import Row, reason, row, timed, wait

from altdiffusion import AltDiffusionPipeline, choose_attention, optimize


def memory(setup: Setup) -> Iterator[Row]:
    """Peak memory of generating an image, weights included, and the kernels that computed attention."""
    stock, ours, gpu = StableDiffusionPipeline, AltDiffusionPipeline, setup.device
    settings: dict[str, Callable[[], Any]] = {
        "ours, low_memory=True": lambda: load(ours, setup, low_memory=True),
        'ours, low_memory="stream"': lambda: load(ours, setup, low_memory="stream"),
        "stock": lambda: load(stock, setup).to(gpu),
        "stock, enable_model_cpu_offload()": lambda: offloaded(setup, "enable_model_cpu_offload"),
        "stock, enable_sequential_cpu_offload()": lambda: offloaded(setup, "enable_sequential_cpu_offload"),
        "ours": lambda: load(ours, setup).to(gpu),
        "ours, optimize()": lambda: optimize(load(ours, setup).to(gpu)),
    }
    saved(setup, "pipeline", save_pipeline)
    for name, make in settings.items():
        if not setup.on_gpu and ("offload" in name or "stream" in name):
            yield reason(MEMORY, name, "for a GPU")
            continue
        try:
            yield peak(setup, name, make)
        except Exception as error:  # the other settings are measured all the same
            traceback.print_exc()
            yield reason(MEMORY, name, error)
    yield from attention(setup)


MEMORY = "Peak memory of generating one image, weights included"
KERNELS = "Attention: the kernels that ran, by the profiler"
STEPS = 4  # more of them take no more memory


def offloaded(setup: Setup, how: str) -> Any:
    pipe = load(StableDiffusionPipeline, setup)
    getattr(pipe, how)(device=setup.device)
    return pipe


def peak(setup: Setup, name: str, make: Callable[[], Any]) -> Row:
    """Of the second image: the first one may compile. What loading took for a moment is not counted."""
    release()
    before = torch.cuda.memory_allocated() if setup.on_gpu else 0
    generate = generates(make(), setup, 1, num_inference_steps=STEPS)
    generate()
    if not setup.on_gpu:
        import psutil

        return row(
            MEMORY,
            name,
            **{"process (GB)": psutil.Process().memory_info().rss / 1e9, f"image of {STEPS} steps (s)": None},
        )
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    seconds = timed(generate, setup.device)
    figures = {"allocated (GB)": torch.cuda.max_memory_allocated(), "reserved (GB)": torch.cuda.max_memory_reserved()}
    figures |= {"held before loading (GB)": before}
    return row(
        MEMORY, name, **{key: value / 1e9 for key, value in figures.items()}, **{f"image of {STEPS} steps (s)": seconds}
    )


def attention(setup: Setup) -> Iterator[Row]:
    """Which kernel computed attention in each part, by the profiler, beside what `choose_attention` reports."""
    release()
    pipe = load(AltDiffusionPipeline, setup).to(setup.device)
    said = choose_attention(pipe)
    side = setup.side // 8
    latents = torch.randn(1, 4, side, side, device=setup.device, dtype=setup.dtype)
    ids = prompt_ids(setup, 1, pipe.text_encoder.config)
    ways = {
        "UNet": (forward(pipe.unet, setup, 1), said.unet),
        "VAE decoder": (lambda: pipe.vae.decode(latents), said.vae),
        "text tower": (lambda: pipe.text_encoder(**next(ids)), said.text_encoder),
    }
    for part, (way, reported) in ways.items():
        try:
            yield row(KERNELS, part, **{"choose_attention says": reported, **profiled(way, setup)})
        except Exception as error:  # a machine may forbid profiling
            traceback.print_exc()
            yield reason(KERNELS, part, error)


NAMES = ("attention", "attn", "fmha", "flash", "sdpa")


@torch.no_grad()
def profiled(way: Callable[[], Any], setup: Setup) -> dict[str, str | float]:
    """Kernels by name: those of attention, the longest others, and the fraction of the time that each took."""
    from torch.profiler import ProfilerActivity, profile

    kind = "CUDA" if setup.on_gpu else "CPU"
    way()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setup.on_gpu else [])]) as found:
        way()
        wait(setup.device)
    times: dict[str, float] = {}
    for event in found.key_averages():  # on a GPU the kernels alone, not the operators that launched them
        if event.device_type.name == kind:
            spent = event.self_device_time_total if setup.on_gpu else event.self_cpu_time_total
            times[event.key] = times.get(event.key, 0.0) + spent
    total = sum(times.values())
    if not total:
        raise RuntimeError("the profiler saw no kernel")
    order = sorted(times, key=lambda name: -times[name])
    known = [name for name in order if any(part in name.lower() for part in NAMES)]
    if not setup.on_gpu:  # the operators that call each other would fill the list
        known = [name for name in known if times[name] / total > 0.001]
    others = [name for name in order if name not in known][:3]

    def described(names: list[str]) -> str:
        return "; ".join(f"{name[:90]} {times[name] / total:.1%}" for name in names) or "none"

    return {
        "kernels of attention": described(known),
        "fraction of the time": sum(times[name] for name in known) / total,
        "longest others": described(others),
    }


def xformers(setup: Setup) -> Iterator[Row]:
    """Stock with xformers beside stock without, in a process of its own: a broken build spoils no other figure."""
    if not setup.on_gpu:
        yield reason(generation_table(setup, setup.batches[0]), "stock with xformers", "xformers: for a GPU")
        return
    pipes = {"stock, eager (beside xformers)": load(StableDiffusionPipeline, setup).to(setup.device)}
    faster = pipes["stock with xformers"] = load(StableDiffusionPipeline, setup).to(setup.device)
    faster.enable_xformers_memory_efficient_attention()
    for batch in setup.batches:
        yield from images_a_second(setup, batch, pipes)
    yield row(KERNELS, "UNet with xformers", **profiled(forward(faster.unet, setup, 1), setup))
