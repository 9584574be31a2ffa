"""Part a: images by stock diffusers and by ours, whether they are equal, and what bounds their speed."""

from __future__ import annotations

import itertools
import statistics
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from gpu.models import Setup, load
from gpu.timing import Row, forward_seconds, in_turns, reason, row, spread, timed

from altdiffusion import AltDiffusionPipeline, optimize

GRAPHS = 'ours, optimize(compile="graphs")'
WAYS: dict[str, dict[str, Any]] = {"ours, optimize()": {}, GRAPHS: {"compile": "graphs"}}


def generation(setup: Setup) -> Iterator[Row]:
    """Each way to compile by itself, beside stock: what one of them costs or breaks, takes no figure from the other."""
    stock = load(StableDiffusionPipeline, setup).to(setup.device)
    expected = generates(stock, setup, 1, **SAME)()
    yield equality("stock, once more", generates(stock, setup, 1, **SAME)(), expected)
    for name, options in WAYS.items():
        try:
            yield from beside_stock(setup, stock, name, options, expected)
        except Exception as error:  # whatever compilers raise
            traceback.print_exc()
            yield reason(COMPILING, name, error)
    stock.to(dtype=torch.float32)
    torch.backends.cudnn.allow_tf32 = False  # convolutions would have 10 bits of mantissa, as in float16
    yield equality("stock in float32: what rounding does by itself", generates(stock, setup, 1, **SAME)(), expected)


COMPILING = "Compiling: seconds, once"
EQUALITY = "Equality: the same seed and prompt, beside stock, in steps of 0 to 255"
SAME = {"prompt": "一只猫"}


def beside_stock(setup: Setup, stock: Any, name: str, options: dict[str, Any], expected: np.ndarray) -> Iterator[Row]:
    """Ours, compiled in one way: the time that takes, its images, and its speed beside stock's in turns."""
    pipe = load(AltDiffusionPipeline, setup).to(setup.device)
    seconds = timed(lambda: optimize(pipe, **options), setup.device)
    first = timed(generates(pipe, setup, 1), setup.device)
    found = {"optimize() (s)": seconds, "first image (s)": first, "compiled": is_compiled(pipe.unet)}
    yield row(COMPILING, name, **found)
    yield equality(name, generates(pipe, setup, 1, **SAME)(), expected)
    for batch in setup.batches:
        if name == GRAPHS and batch != setup.batches[0]:
            why = f"CUDA graphs are for one shape: measured at batch {setup.batches[0]}"
            yield reason(generation_table(setup, batch), name, why)
        else:
            yield from images_a_second(setup, batch, {"stock, eager": stock, name: pipe})


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


def equality(name: str, images: np.ndarray, expected: np.ndarray) -> Row:
    """Of images (batch, height, width, 3) in 0 to 1; NaN, or one colour all over, is no figure."""
    if not (np.isfinite(images).all() and np.isfinite(expected).all()) or images.std() == 0:
        return reason(EQUALITY, name, f"the images show nothing: standard deviation {images.std()}")
    steps = np.abs(images.astype(np.float64) - expected) * 255
    return row(
        EQUALITY,
        name,
        largest=float(steps.max()),
        mean=float(steps.mean()),
        **{"standard deviation of the image": float(images.std()) * 255},
    )
