"""Images in files against prompts: `PromptScorer` beside the loop of transformers' documentation and torchmetrics."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.benchmark import models
from altdiffusion.benchmark.cases.captions import captions
from altdiffusion.benchmark.models import Sizes
from altdiffusion.benchmark.timing import Comparison, Contender, in_turns

PROMPTS = 10


def measure(sizes: Sizes, device: torch.device) -> Iterator[Comparison]:
    model, processor = models.altclip(sizes, device)
    prompts = captions(PROMPTS)
    scorer = PromptScorer(model, processor)
    with tempfile.TemporaryDirectory() as folder:
        paths = save_images(Path(folder), sizes.pictures)
        images = [Image.open(path) for path in paths]
        batches = processor.image_processor(images, return_tensors="pt")["pixel_values"].split(scorer.batch_size)

        def score() -> Tensor:
            scorer.forget()
            return scorer.score(paths, prompts)

        def image_features() -> Tensor:
            scorer.forget()
            return scorer.image_features(paths)

        ways: dict[str, Callable[[], Any]] = {
            "PromptScorer.score, files": score,
            "PromptScorer.image_features, files": image_features,
            "loop of transformers' documentation": lambda: documented_loop(model, processor, paths, prompts),
            "bare vision tower, pixels at hand": lambda: [bare_features(model, pixels) for pixels in batches],
        }
        absent = []
        if importlib.util.find_spec("torchmetrics") is None:
            absent.append(Contender("torchmetrics' CLIPScore", note="not installed"))
        else:
            metric = clip_score(model, processor)
            ways["torchmetrics' CLIPScore, one prompt each"] = lambda: metric(paths, prompts)
        measured = in_turns(ways, sizes.rounds, device)
    yield Comparison(f"{len(paths)} pictures, {PROMPTS} prompts", [*measured, *absent], len(paths), "pictures")


def save_images(folder: Path, count: int) -> list[Path]:
    """JPEG files of noise, 640 x 480."""
    paths = [folder / f"{index}.jpg" for index in range(count)]
    for path in paths:
        Image.effect_noise((640, 480), 60).convert("RGB").save(path)
    return paths


@torch.inference_mode()
def bare_features(model: Any, pixels: Tensor) -> Tensor:
    """The vision tower alone: float (images, width), unit vectors on the CPU."""
    return F.normalize(model.get_image_features(pixels.to(model.device)).pooler_output, dim=-1).cpu()


@torch.inference_mode()
def documented_loop(model: Any, processor: Any, paths: Sequence[Path], prompts: list[str]) -> list[Tensor]:
    """The example of AltCLIP's page, for each image."""
    logits = []
    for path in paths:
        inputs = processor(text=prompts, images=Image.open(path), return_tensors="pt", padding=True)
        logits.append(model(**inputs.to(model.device)).logits_per_image.cpu())
    return logits


def clip_score(model: Any, processor: Any) -> Callable[[Sequence[Path], Sequence[str]], float]:
    """torchmetrics' CLIPScore on this model, fed with an image and a prompt at a time, as its example is."""
    from torchmetrics.multimodal import CLIPScore

    metric = CLIPScore(model_name_or_path=lambda: (_Features(model), processor))

    def run(paths: Sequence[Path], prompts: Sequence[str]) -> float:
        metric.reset()
        for index, path in enumerate(paths):
            image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
            metric.update(image.to(model.device), prompts[index % len(prompts)])
        return float(metric.compute())

    return run


class _Features(torch.nn.Module):
    """What torchmetrics calls: features as tensors, as transformers gave them once."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def get_text_features(self, *args: Any, **kwargs: Any) -> Tensor:
        features: Tensor = self.model.get_text_features(*args, **kwargs).pooler_output
        return features

    def get_image_features(self, *args: Any, **kwargs: Any) -> Tensor:
        features: Tensor = self.model.get_image_features(*args, **kwargs).pooler_output
        return features
