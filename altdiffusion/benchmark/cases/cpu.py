"""How PyTorch uses a CPU, on an idle machine and beside a busy program, each way in a process of its own: whether threads sleep
while they wait for each other, and whether memory that is freed is kept (cpu.py).

A small model's images, scores and training steps, and a step of the full-size UNet.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from PIL import Image

from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.benchmark import models
from altdiffusion.benchmark.models import Sizes
from altdiffusion.benchmark.timing import Comparison, in_turns
from altdiffusion.cpu import ALLOCATOR, WAITING, keep_memory, thread_variables
from altdiffusion.generation.generate import generate
from altdiffusion.generation.load import load_pipeline

# What is set before torch is imported, and whether memory is kept, by the name of the way.
WAYS: dict[str, tuple[dict[str, str], bool]] = {
    "as the commands choose": (thread_variables({}, 1, None), True),
    "memory given back": (thread_variables({}, 1, None), False),
    "PyTorch's own": ({}, False),
    "one thread": ({"OMP_NUM_THREADS": "1"}, True),
}
LOADS = ("an idle machine", "beside a busy program")


def measure(sizes: Sizes, device: torch.device) -> Iterator[Comparison]:
    """On the CPU, whatever the device. sizes: rounds, and side and channels of the full-size UNet."""
    with contextlib.ExitStack() as stack:
        workers = {way: stack.enter_context(_worker(*choice, sizes)) for way, choice in WAYS.items()}
        for load in LOADS:
            if load == LOADS[1]:
                stack.enter_context(_running([sys.executable, "-c", "while True: pass"]))
            for work in WORKS:
                ways = {way: functools.partial(_ask, worker, work) for way, worker in workers.items()}
                yield Comparison(f"{work}, {load}", in_turns(ways, sizes.rounds, torch.device("cpu")))


def _worker(
    variables: dict[str, str], keeps: bool, sizes: Sizes
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """A process that does a work when it is asked to."""
    said = (*WAITING, *ALLOCATOR, "OMP_NUM_THREADS", "LD_PRELOAD")
    environ = {name: value for name, value in os.environ.items() if name not in said}
    return _running([sys.executable, "-m", __name__, json.dumps([asdict(sizes), keeps])], environ | variables)


@contextlib.contextmanager
def _running(command: list[str], environ: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _ask(worker: subprocess.Popen[str], work: str) -> None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    print(work, file=worker.stdin, flush=True)
    if worker.stdout.readline().strip() != work:
        raise RuntimeError(f"the process for {work!r} ended with status {worker.wait()}")


def _generating(sizes: Sizes) -> Callable[[], object]:
    pipe = load_pipeline(device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return lambda: list(generate("一只猫", model=pipe, steps=15, seed=1, num_images=4))


def _scoring(sizes: Sizes) -> Callable[[], object]:
    scorer = PromptScorer.from_pretrained(device="cpu", cache_size=0)
    images = [Image.effect_noise((64, 64), 80).convert("RGB") for _ in range(1000)]
    return lambda: scorer.score(images, ["猫", "a dog"])


def _training(sizes: Sizes) -> Callable[[], object]:
    unet: Any = load_pipeline(device="cpu").unet.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(unet.parameters(), 1e-5)
    inputs = _inputs(unet, 8)

    def run() -> None:
        for _ in range(10):
            torch.autograd.backward(unet(*inputs).sample.square().mean())
            optimizer.step()
            optimizer.zero_grad()

    return run


def _large_step(sizes: Sizes) -> Callable[[], object]:
    with torch.device("meta"):  # random weights would take longer to draw than all steps
        unet: Any = models.unet(sizes).eval().requires_grad_(False)
    unet.to_empty(device="cpu")
    for tensor in unet.parameters():
        tensor.fill_(0.01)
    inputs = _inputs(unet, 2)  # with guidance
    return lambda: unet(*inputs)


def _inputs(unet: Any, batch: int) -> tuple[torch.Tensor, int, torch.Tensor]:
    config = unet.config
    latents = torch.randn(batch, config.in_channels, config.sample_size, config.sample_size)
    return latents, 1, torch.randn(batch, 77, config.cross_attention_dim)


WORKS: dict[str, Callable[[Sizes], Callable[[], object]]] = {  # made where they are first asked for
    "4 images by mini": _generating,
    "1,000 images scored by mini": _scoring,
    "10 training steps of mini's UNet": _training,
    "a step of the large UNet": _large_step,
}


if __name__ == "__main__":
    the_sizes, does_keep = json.loads(sys.argv[1])
    if does_keep:
        keep_memory()
    make = functools.cache(lambda work: WORKS[work](Sizes(**the_sizes)))
    for line in sys.stdin:
        make(line.strip())()
        print(line, end="", flush=True)
