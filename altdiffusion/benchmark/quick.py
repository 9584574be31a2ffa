"""Every fast path against the plain one, on small models: outputs are compared, not times. For continuous integration."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.benchmark import models
from altdiffusion.benchmark.cases import captions, generation, scoring, text
from altdiffusion.benchmark.models import SMALL
from altdiffusion.generation.draw import GenerateRequest, draw_batch
from altdiffusion.generation.generate import generate
from altdiffusion.generation.settings import ImageSettings
from altdiffusion.speed.low_memory import save_memory
from altdiffusion.speed.optimize import optimize
from altdiffusion.speed.packed_linear import pack

CPU = torch.device("cpu")
EXACT = 1e-5  # float32
PIXELS = 1e-4  # of 0 to 1, after several steps in float32
BFLOAT16 = 1.5  # times as far from float32 as stock diffusers is in bfloat16


@dataclass(frozen=True)
class Check:
    """A fast path: its largest difference from the plain one, and the one that rounding explains."""

    name: str
    difference: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.allowed  # not so for NaN

    def __str__(self) -> str:
        return f"{'same' if self.passed else 'DIFFERS'}  {self.name}: {self.difference:.1e} of {self.allowed:.0e}"


def check_all() -> Iterator[Check]:
    """All checks, each as soon as it is done."""
    yield from check_text_states()
    yield from check_scores()
    yield from check_images()


@torch.no_grad()
def check_text_states() -> Iterator[Check]:
    """Our text encoder, fresh and from its cache, packed, and after its weights changed."""
    stock = models.text_tower(SMALL, CPU)
    encoder = models.our_text_encoder(stock)
    peers = {"AltCLIPTextModel": stock, "diffusers' deprecated class": models.deprecated_text_encoder(stock)}
    for count in (1, 4):
        for ids in next(text.prompts(count, stock.config.vocab_size, CPU)):
            for name, peer in peers.items():
                expected = text.encode(peer, ids)
                got = text.encode(encoder, ids)
                yield Check(f"states of {count}, and {name}'s", _difference(got, expected), EXACT)
    pack(encoder)
    yield Check("states by packed weights", _difference(encoder(ids)[0], stock(ids, ids.ne(1).long())[0]), EXACT)
    stock.transformation.weight.mul_(2)  # the same tensors as our encoder's
    yield Check(
        "states after the weights changed", _difference(encoder(ids)[0], stock(ids, ids.ne(1).long())[0]), EXACT
    )


def check_scores() -> Iterator[Check]:
    """`PromptScorer`'s features of captions and images."""
    model, processor = models.altclip(SMALL, CPU)
    texts, scorer = captions.captions(SMALL.captions), PromptScorer(model, processor)
    expected = captions.encode(model, processor, texts, "max_length")
    yield Check("captions by length, and padded", _difference(scorer.text_features(texts), expected), EXACT)
    with tempfile.TemporaryDirectory() as folder:
        paths = scoring.save_images(Path(folder), SMALL.pictures)
        pixels = processor.image_processor([Image.open(path) for path in paths], return_tensors="pt")["pixel_values"]
        features = scorer.image_features(paths)
    yield Check(
        "pictures read ahead, and the bare tower", _difference(features, scoring.bare_features(model, pixels)), EXACT
    )


def check_images() -> Iterator[Check]:
    """Images by every way to make a pipeline faster or smaller, alone and in a batch."""
    stock = models.diffusion(SMALL, models.text_tower(SMALL, CPU), CPU, torch.float32)
    expected = generation.make_generate(stock, SMALL, 1)()
    rough = generation.make_generate(_in_bfloat16(stock), SMALL, 1)()
    ways: dict[str, Callable[[Any], Any]] = {
        "our text encoder": lambda pipe: pipe,
        "optimize(), float32": lambda pipe: optimize(pipe, dtype=torch.float32),
        "optimize(fuse_qkv=True)": lambda pipe: optimize(pipe, dtype=torch.float32, fuse_qkv=True),
        "optimize(), bfloat16": lambda pipe: optimize(pipe, dtype=torch.bfloat16),
        "save_memory()": lambda pipe: save_memory(pipe, "cpu"),
        "save_memory(stream=True)": lambda pipe: save_memory(pipe, "cpu", stream=True),
    }
    if importlib.util.find_spec("openvino") is not None:
        ways["optimize(openvino=True)"] = lambda pipe: optimize(pipe, dtype=torch.float32, openvino=True)
    for name, way in ways.items():
        got = generation.make_generate(way(generation.copy_with_our_encoder(stock)), SMALL, 1)()
        allowed = BFLOAT16 * _difference(rough, expected) if "bfloat16" in name else PIXELS
        yield Check(f"picture, {name}", _difference(got, expected), allowed)
    pipe: Any = generation.copy_with_our_encoder(stock)
    pipe.set_progress_bar_config(disable=True)
    size: dict[str, Any] = {"width": SMALL.side, "height": SMALL.side, "steps": SMALL.steps}
    both = [ImageSettings(prompt=prompt, seed=seed, **size) for seed, prompt in enumerate(("一只猫", "a dog"), 1)]
    images = [each.image for each in draw_batch(pipe, list(map(GenerateRequest, both)))[:1] if each is not None]
    together: dict[str, Any] = {"steps": SMALL.steps, "size": (SMALL.side, SMALL.side), "seed": 1, "batch_size": 2}
    images.append(next(generate(["一只猫", "a dog"], model=pipe, **together)).image)
    for name, image in zip(("drawn with others", "batch_size=2"), images, strict=True):
        levels = np.asarray(image, dtype=np.float32)[None] / 255
        yield Check(f"picture, {name}", _difference(levels, expected), PIXELS + 0.5 / 255)


def _in_bfloat16(stock: Any) -> Any:
    parts = {name: copy.deepcopy(part) for name, part in stock.components.items()}
    return type(stock)(**parts, requires_safety_checker=False).to(dtype=torch.bfloat16)


def _difference(one: Any, other: Any) -> float:
    """The largest absolute one."""
    return float((torch.as_tensor(one).float() - torch.as_tensor(other).float()).abs().max())
