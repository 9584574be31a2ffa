"""What a model generates from prompts in each language: how well images fit their prompts, and a sheet to look at.

for result in evaluate_generation("BAAI/AltDiffusion-m9", "prompts.tsv", Path("out"), scorer="BAAI/AltCLIP-m9"):
    print(result.language, result.similarity, result.r_precision)
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from altdiffusion import files
from altdiffusion.altclip.best_of import load_scorer
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.data.open_tables import open_tables
from altdiffusion.data.table import SkipLog
from altdiffusion.errors import InputError
from altdiffusion.files import local_path
from altdiffusion.generation.generate import generate
from altdiffusion.generation.infotext import open_info
from altdiffusion.generation.load import load_pipeline
from altdiffusion.generation.result import save_image, save_png
from altdiffusion.images import grid, image_files, open_image
from altdiffusion.metrics import Estimate, own_prompt_first, parity

CELL = 128  # pixels of an image on the sheet
RIGHT, WRONG = (39, 160, 84), (214, 48, 49)


@dataclass(frozen=True)
class GenerationResult:
    """One language's metrics.

    similarity: mean cosine of each image and its prompt, -1 to 1.
    r_precision: the fraction of images, 0 to 1, that their own prompt fits better than every other of the file; a tie is
        lost; None where all prompts are the same.
    frechet: the distance of the features of all images to those of reference images, at least 0; None without these.
    sheet: the file of the contact sheet.
    """

    model: str
    language: str
    prompts: int
    similarity: float
    r_precision: float | None
    sheet: str
    frechet: float | None = None


def evaluate_generation(
    model: str | Path | None,
    prompts: str | Path,
    out: Path,
    *,
    languages: Sequence[str] = (),
    scorer: str | Path | PromptScorer | None = None,
    reference: str | Path | None = None,
    inception: str | Path | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    size: tuple[int, int] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    allow_pickle: bool = False,
    max_skipped: float = 0.01,
) -> Iterator[GenerationResult]:
    """Generate an image of each prompt, from the same noise in every language, and compare each with all prompts.

    prompts: a table with a column for each language (.tsv, .jsonl, .parquet), or a pattern of some, as in training.
    out: gets LANGUAGE/0000.png ..., LANGUAGE.png (the sheet: framed in green where the own prompt fits best, else in red)
        and results.json. Images with the same settings are kept: an interrupted run goes on.
    languages: columns to read, by default as in training. scorer: as in `generate`.
    reference: a folder of images to compare with as a whole, by the Fréchet distance of AltCLIP's features; with
        inception, torch-fidelity's file of InceptionV3's weights, by FID. Needs torchmetrics.
    max_skipped: the fraction of lines, 0 to 1, that may be bad and are left out; more stop the run.
    seed: of prompt i it is seed + i. The others: as in `generate`. Raises InputError.
    """
    tables = open_tables([prompts], list(languages), images=False, skipped=SkipLog(max_skipped))
    columns = languages or dict.fromkeys(name for table in tables for name in table.columns)
    texts = {name: [record[name] for table in tables if name in table.columns for record in table] for name in columns}
    reference_images = None if reference is None else read_reference(reference)
    pipe = load_pipeline(model, device=device, dtype=dtype, allow_pickle=allow_pickle)
    judge = load_scorer(scorer, str(model or pipe.name_or_path), pipe.device)
    options: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "size": size}
    asked = {"seed": seed, "steps": steps, "guidance_scale": guidance_scale, "scorer": scorer and str(scorer)}
    results: list[dict[str, Any]] = []
    for language, lines in texts.items():
        paths = [out / language / f"{index:04d}.png" for index in range(len(lines))]
        images = [
            _generate_or_reuse(pipe, path, prompt, seed=seed + index, **options)
            for index, (path, prompt) in enumerate(zip(paths, lines, strict=True))
        ]
        scores = judge.score(images, lines)
        own = scores.diagonal()
        right = own_prompt_first(scores, lines)
        sheet = out / f"{language}.png"
        _save_sheet(images, right, sheet)
        result = GenerationResult(
            model=str(pipe.name_or_path),
            language=language,
            prompts=len(lines),
            similarity=own.mean().item(),
            r_precision=sum(right) / len(right) if len(set(lines)) > 1 else None,
            sheet=str(sheet),
            frechet=None if reference_images is None else frechet_distance(images, reference_images, judge, inception),
        )
        per_image = [
            {"path": str(path), "prompt": prompt, "score": round(score, 4), "own_prompt_first": first}
            for path, prompt, score, first in zip(paths, lines, own.tolist(), right, strict=True)
        ]
        results.append({**asdict(result), **asked, "pictures": per_image})
        files.write_text(out / "results.json", json.dumps(results, ensure_ascii=False, indent=2) + "\n")
        yield result


def read_parity(out: Path) -> dict[str, Estimate]:
    """The parity of languages in a finished `evaluate_generation`: each one's R-precision as a fraction of English's.

    For the languages with as many prompts as English, line by line the same ones; {} where there is no English, or where
    no image of it fits its own prompt best.
    """
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    right = {result["language"]: [image["own_prompt_first"] for image in result["pictures"]] for result in results}
    english = right.pop("en", [])
    return {
        language: parity(reached, english)
        for language, reached in right.items()
        if any(english) and len(reached) == len(english)
    }


def frechet_distance(
    images: Sequence[Image.Image],
    reference: Sequence[Image.Image],
    scorer: PromptScorer,
    inception: str | Path | None = None,
) -> float:
    """The Fréchet distance of two sets of images, of AltCLIP's image features, or FID where Inception's weights are given.

    Raises InputError without torchmetrics (and, for FID, torch-fidelity), or with fewer than two images in a set.
    """
    if min(len(images), len(reference)) < 2:
        raise InputError(f"{len(images)} and {len(reference)} images: a Fréchet distance needs at least 2 of each")
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        if inception is None:
            metric = FrechetInceptionDistance(_Features(scorer))
        else:
            metric = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(inception))
    except ImportError as error:
        raise InputError(f"a Fréchet distance needs torchmetrics, and FID torch-fidelity too ({error})") from None
    metric.set_dtype(torch.float64)
    for group, real in ((images, False), (reference, True)):
        for image in group:
            metric.update(_tensor(image)[None], real=real)
    return float(metric.compute())


def read_reference(folder: str | Path) -> list[Image.Image]:
    """All images in a folder and below it. Raises InputError where there are none, or one can't be read."""
    root = local_path(folder)
    paths = image_files(root, deep=True)
    if not paths:
        raise InputError(f"no images in {root}: expected a folder of them to compare with")
    return [open_image(path) for path in paths]


class _Features(nn.Module):
    """AltCLIP's image features in the form that torchmetrics asks for: uint8 (images, 3, height, width) in."""

    def __init__(self, scorer: PromptScorer) -> None:
        super().__init__()
        self._scorer = scorer
        self.num_features = int(scorer.model.config.projection_dim)

    def forward(self, images: Tensor) -> Tensor:
        return self._scorer.image_features(images)


def _tensor(image: Image.Image) -> Tensor:
    """uint8 (3, height, width)."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _generate_or_reuse(
    pipe: Any, path: Path, prompt: str, size: tuple[int, int] | None, **settings: Any
) -> Image.Image:
    """The image of an earlier run, if it was generated with these settings, of which None stands for any; else a new one."""
    if path.is_file():
        with contextlib.suppress(InputError):  # not ours, or cut off
            earlier = open_info(path)
            wanted = settings | {"prompt": prompt, "model": str(pipe.name_or_path)}
            same = all(value is None or getattr(earlier, name) == value for name, value in wanted.items())
            if same and size in (None, (earlier.width, earlier.height)):
                return open_image(path)
    generated = next(generate(prompt, model=pipe, size=size, **settings))
    save_image(generated, path)
    return generated.image


def _save_sheet(images: Sequence[Image.Image], right: Sequence[bool], path: Path) -> None:
    """All images in one, at most 16 in a row, each in a frame that says whether its own prompt fits it best."""
    cells = []
    for image, good in zip(images, right, strict=True):
        small = ImageOps.contain(image.convert("RGB"), (CELL - 12, CELL - 12))
        cells.append(Image.new("RGB", (CELL, CELL), "white"))
        cells[-1].paste(ImageOps.expand(small, 4, RIGHT if good else WRONG), (2, 2))
    save_png(grid(cells, columns=min(16, max(1, round(len(images) ** 0.5)))), path)
