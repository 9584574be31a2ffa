"""Part a: images by stock diffusers and by ours, whether they are equal, and what bounds their speed."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from gpu.models import Setup, load
from gpu.timing import Row, forward_seconds, in_turns, reason, row, spread, timed

from altdiffusion import AltDiffusionPipeline, optimize


def generation(setup: Setup) -> Iterator[Row]:
    """Images by stock diffusers and by ours, equality, and the compiled UNet's forward, which bounds both."""
    pipes = {"stock, eager": load(StableDiffusionPipeline, setup).to(setup.device)}
    yield from compiled(setup, pipes)
    for batch in setup.batches:
        ways = {name: pipe for name, pipe in pipes.items() if batch == setup.batches[0] or "graphs" not in name}
        yield from images_a_second(setup, batch, ways)
        if len(ways) < len(pipes):
            table = generation_table(setup, batch)
            yield reason(table, GRAPHS, f"CUDA graphs are for one shape: measured at batch {setup.batches[0]}")
    yield from equality(setup, pipes)


GRAPHS = 'ours, optimize(compile="graphs")'


def compiled(setup: Setup, pipes: dict[str, Any]) -> Iterator[Row]:
    """Ours, by each way to compile, put into `pipes`; the time that compiling takes, first image included."""
    table = "Compiling: seconds, once"
    for name, options in {"ours, optimize()": {}, GRAPHS: {"compile": "graphs"}}.items():
        try:
            pipe = load(AltDiffusionPipeline, setup).to(setup.device)
            seconds = timed(lambda pipe=pipe, options=options: optimize(pipe, **options), setup.device)
            first = timed(generates(pipe, setup, 1), setup.device)
        except Exception as error:  # whatever compilers raise: the others are measured all the same
            yield reason(table, name, error)
            continue
        pipes[name] = pipe
        found = {"optimize() (s)": seconds, "first image (s)": first, "compiled": is_compiled(pipe.unet)}
        yield row(table, name, **found)


def is_compiled(unet: Any) -> str:
    """Whether it is, or went the slower way: `optimize` says why in a warning, which becomes a note of the part."""
    compiled = "forward" in vars(unet) or any(each._compiled_call_impl is not None for each in unet.modules())
    return "yes" if compiled else "no"


def generation_table(setup: Setup, batch: int) -> str:
    dtype = str(setup.dtype).removeprefix("torch.")
    return f"Generation: {setup.side} x {setup.side}, {setup.steps} steps, {dtype}, batch {batch}"


def images_a_second(setup: Setup, batch: int, pipes: Mapping[str, Any]) -> Iterator[Row]:
    found = in_turns({name: generates(pipe, setup, batch) for name, pipe in pipes.items()}, setup)
    stock = statistics.median(next(iter(found.values())))
    bounds = {name: forward_seconds(pipe.unet, setup, batch) * setup.steps for name, pipe in pipes.items()}
    for name, seconds in found.items():
        median = statistics.median(seconds)
        figures = {"call (s)": median, "fastest to slowest (s)": spread(seconds), "images a second": batch / median}
        figures |= {"times stock": stock / median, f"{setup.steps} bare forwards (s)": bounds[name]}
        yield row(
            generation_table(setup, batch), name, **figures, **{"fraction of the limit": min(bounds.values()) / median}
        )


_NUMBERS = itertools.count()


def generates(pipe: Any, setup: Setup, batch: int, **options: Any) -> Callable[[], np.ndarray]:
    """A call of the pipeline: (batch, height, width, 3), floats in 0 to 1. New prompts each time: ours remembers the old."""

    def generate() -> np.ndarray:
        given = {"num_inference_steps": setup.steps, "height": setup.side, "width": setup.side, "output_type": "np"}
        given |= {
            "prompt": [f"一只猫, {next(_NUMBERS)}" for _ in range(batch)],
            "generator": torch.Generator().manual_seed(1),
        }
        return pipe(**(given | options)).images

    return generate


def equality(setup: Setup, pipes: dict[str, Any]) -> Iterator[Row]:
    """Images of the same seed and prompt beside stock's, in steps of 0 to 255; and stock's own beside float32's."""
    table = "Equality: the same seed and prompt, beside stock, in steps of 0 to 255"
    same = {"prompt": "一只猫"}
    stock = pipes.pop("stock, eager")
    expected = generates(stock, setup, 1, **same)()
    again = generates(stock, setup, 1, **same)()
    yield row(table, "stock, once more", **differences(again, expected))
    for name in list(pipes):
        yield row(table, name, **differences(generates(pipes.pop(name), setup, 1, **same)(), expected))
    stock.to(dtype=torch.float32)
    torch.backends.cudnn.allow_tf32 = False  # convolutions would have 10 bits of mantissa, as in float16
    exact = generates(stock, setup, 1, **same)()
    yield row(table, "stock in float32: what rounding does by itself", **differences(exact, expected))


def differences(images: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Of images (batch, height, width, 3) in 0 to 1. Raises ValueError for what is not a number, or all one colour."""
    if not np.isfinite(images).all() or images.std() == 0:
        raise ValueError(f"the images show nothing: standard deviation {images.std()}")
    steps = np.abs(images.astype(np.float64) - expected) * 255
    return {
        "largest": float(steps.max()),
        "mean": float(steps.mean()),
        "standard deviation of the image": float(images.std()) * 255,
    }
