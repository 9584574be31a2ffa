"""What a model draws from prompts in each language: how well images fit their prompts, and a sheet to look at.

for result in evaluate_generation("BAAI/AltDiffusion-m9", "prompts.tsv", Path("drawn"), scorer="BAAI/AltCLIP-m9"):
    print(result.language, result.similarity, result.r_precision)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
from altdiffusion.generation.result import save_image
from altdiffusion.generation.settings import Settings
from altdiffusion.images import ENDINGS, open_image
from altdiffusion.metrics import own_prompt_first

CELL = 128  # pixels of an image on the sheet
RIGHT, WRONG = (39, 160, 84), (214, 48, 49)


@dataclass(frozen=True)
class GenerationResult:
    """One language's figures.

    similarity: mean cosine of each image and its prompt, -1 to 1. r_precision: the share of images, 0 to 1, that their
    own prompt fits better than every other of the file; a tie is lost; None where all prompts are the same. frechet: the
    distance of the features of all images to those of reference images, at least 0; None without a reference.
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
    """Draw an image of each prompt, from the same noise in every language, and compare each with all prompts.

    prompts: a table with a column for each language (.tsv, .jsonl, .parquet), see training/data.py.
    out: gets LANGUAGE/0000.png ..., LANGUAGE.png (the sheet: framed in green where the own prompt fits best, else in red)
        and results.json. Images that are there with the same settings are kept: what was interrupted goes on.
    languages: columns to draw, by default all. scorer: as in `generate`.
    reference: a folder of images to compare with as a whole, by the Fréchet distance of AltCLIP's features; with
        inception, torch-fidelity's file of InceptionV3's weights, by FID. Needs torchmetrics.
    max_skipped: the share of bad lines, 0 to 1, that are left out; beyond it, they stop the run.
    seed: of prompt i it is seed + i. The others: as in `generate`. Raises InputError.
    """
    tables = open_tables([prompts], list(languages), images=False, skipped=SkipLog(max_skipped))
    texts = {name: [record[name] for record in tables[0]] for name in languages or tables[0].columns}  # type: ignore[attr-defined]
    for name in texts:
        if " " in name.strip() or not name.isascii():
            raise InputError(
                f"{prompts}: its first line {name!r} stands where the languages do: put a line such as en above the prompts"
            )
    pictures_there = None if reference is None else reference_pictures(reference)
    pipe = load_pipeline(model, device=device, dtype=dtype, allow_pickle=allow_pickle)
    judge = load_scorer(scorer, str(model or pipe.name_or_path), pipe.device)
    results: list[dict[str, Any]] = []
    for language, lines in texts.items():
        options: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "size": size}
        pictures, paths = [], []
        for number, prompt in enumerate(lines):
            path = out / language / f"{number:04d}.png"
            picture = _drawn_before(
                path, {"prompt": prompt, "seed": seed + number, "model": str(pipe.name_or_path)} | options
            )
            if picture is None:
                drawn = next(generate(prompt, model=pipe, seed=seed + number, **options))
                save_image(drawn, path)
                picture = drawn.image
            pictures.append(picture)
            paths.append(path)
        scores = judge.score(pictures, lines)
        own = scores.diagonal()
        right = own_prompt_first(scores, lines)
        sheet = out / f"{language}.png"
        _save_sheet(pictures, right, sheet)
        result = GenerationResult(
            model=str(pipe.name_or_path),
            language=language,
            prompts=len(lines),
            similarity=own.mean().item(),
            r_precision=sum(right) / len(right) if len(set(lines)) > 1 else None,
            sheet=str(sheet),
            frechet=None if pictures_there is None else frechet_distance(pictures, pictures_there, judge, inception),
        )
        each = [
            {"path": str(path), "prompt": prompt, "score": round(score, 4), "own_prompt_first": first}
            for path, prompt, score, first in zip(paths, lines, own.tolist(), right, strict=True)
        ]
        drawn_with = {"seed": seed, "steps": steps, "guidance_scale": guidance_scale, "scorer": scorer and str(scorer)}
        results.append({**asdict(result), **drawn_with, "pictures": each})
        files.write_text(out / "results.json", json.dumps(results, ensure_ascii=False, indent=2) + "\n")
        yield result


def frechet_distance(
    pictures: Sequence[Image.Image],
    reference: Sequence[Image.Image],
    scorer: PromptScorer,
    inception: str | Path | None = None,
) -> float:
    """The Fréchet distance of two sets of images, of AltCLIP's image features, or FID where Inception's weights are given.

    Raises InputError without torchmetrics (and, for FID, torch-fidelity), or with fewer than two images in a set.
    """
    if min(len(pictures), len(reference)) < 2:
        raise InputError(f"{len(pictures)} and {len(reference)} pictures: a Fréchet distance wants at least 2 of each")
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        if inception is None:
            metric = FrechetInceptionDistance(_Features(scorer))
        else:
            metric = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(inception))
    except ImportError as error:
        raise InputError(f"a Fréchet distance needs torchmetrics, and FID torch-fidelity too ({error})") from None
    metric.set_dtype(torch.float64)
    for some, real in ((pictures, False), (reference, True)):
        for picture in some:
            metric.update(_tensor(picture)[None], real=real)
    return float(metric.compute())


def reference_pictures(folder: str | Path) -> list[Image.Image]:
    """All images in a folder. Raises InputError where there are none, or one can't be read."""
    root = local_path(folder)
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in ENDINGS)
    if not found:
        raise InputError(f"no pictures in {root}: expected a folder of them to compare with")
    return [open_image(path) for path in found]


class _Features(nn.Module):
    """AltCLIP's image features in the form that torchmetrics asks for: uint8 (images, 3, height, width) in."""

    def __init__(self, scorer: PromptScorer) -> None:
        super().__init__()
        self._scorer = scorer
        self.num_features = int(scorer.model.config.projection_dim)

    def forward(self, pictures: Tensor) -> Tensor:
        return self._scorer.image_features(pictures)


def _tensor(picture: Image.Image) -> Tensor:
    return torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8).reshape(
        picture.height, picture.width, 3
    ).permute(2, 0, 1)  # fmt: skip


def _drawn_before(path: Path, wanted: dict[str, Any]) -> Image.Image | None:
    """The image of an earlier run, if it was drawn with these settings; None stands for any."""
    if not path.is_file():
        return None
    try:
        there: Settings = open_info(path)
    except InputError:  # not ours, or cut off
        return None
    size = wanted.pop("size")
    same = all(value is None or getattr(there, name) == value for name, value in wanted.items())
    return open_image(path) if same and size in (None, (there.width, there.height)) else None


def _save_sheet(pictures: Sequence[Image.Image], right: Sequence[bool], path: Path) -> None:
    """All images in one, at most 16 in a row, each in a frame that says whether its own prompt fits it best."""
    import io

    columns = min(16, max(1, round(len(pictures) ** 0.5)))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * CELL, rows * CELL), "white")
    for number, (picture, good) in enumerate(zip(pictures, right, strict=True)):
        small = ImageOps.contain(picture.convert("RGB"), (CELL - 12, CELL - 12))
        framed = ImageOps.expand(small, 4, RIGHT if good else WRONG)
        sheet.paste(framed, (number % columns * CELL + 2, number // columns * CELL + 2))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    files.write_bytes(path, buffer.getvalue())
