"""Many images by mini: one after the other, and together, as many as `generate` finds to pay off."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from altdiffusion.benchmark.models import Sizes
from altdiffusion.benchmark.timing import Comparison, in_turns
from altdiffusion.generation.auto_batch import Size
from altdiffusion.generation.generate import generate
from altdiffusion.generation.load import load_pipeline

STEPS = 15


def measure(sizes: Sizes, device: torch.device) -> Iterator[Comparison]:
    pipe = load_pipeline(device=str(device))
    pipe.set_progress_bar_config(disable=True)

    def run(batch_size: Size) -> None:
        list(generate("一只猫", model=pipe, batch_size=batch_size, steps=STEPS, seed=1, num_images=sizes.pictures))

    ways = {f"batch_size={size!r}": lambda size=size: run(size) for size in ("auto", 1)}
    yield Comparison(
        f"{sizes.pictures} pictures by mini, {STEPS} steps",
        in_turns(ways, sizes.rounds, device),
        sizes.pictures,
        "pictures",
    )
