"""What a model generates from prompts in each language: how well images fit their prompts, how alike they are across languages.

for result in evaluate_generation("BAAI/AltDiffusion-m9", "prompts.tsv", Path("out"), scorer="BAAI/AltCLIP-m9"):
    print(result.language, result.similarity, result.r_precision)
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from altdiffusion import files
from altdiffusion.altclip.best_of import load_scorer
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.devices import choose_device
from altdiffusion.errors import InputError
from altdiffusion.evaluation.agreement import read_truth
from altdiffusion.evaluation.cross_lingual import ENGLISH, image_figures
from altdiffusion.evaluation.frechet import frechet_distance, read_reference
from altdiffusion.evaluation.layouts import Layout, PromptSet, read_prompts
from altdiffusion.generation.generate import generate
from altdiffusion.generation.infotext import open_info
from altdiffusion.generation.load import load_pipeline
from altdiffusion.generation.result import save_image, save_png
from altdiffusion.images import grid, open_image
from altdiffusion.metrics import Estimate, bootstrap_mean, own_prompt_first, parity

logger = logging.getLogger(__name__)

CELL = 128  # pixels of an image on the sheet
RIGHT, WRONG = (39, 160, 84), (214, 48, 49)
RESULTS = "results.json"
BIN = 0.01  # width of a bar of the histograms of cosines
# CoCo-CroLa's files, by the figure in them. The last holds cosines: 1 less the distinctiveness.
COCOCROLA_FILES = {
    "correctness": "results_en.csv",
    "self_consistency": "results_self.csv",
    "distinctiveness": "results_specific.csv",
}


@dataclass(frozen=True)
class GenerationResult:
    """One language's metrics.

    similarity: mean cosine of each image and its prompt, -1 to 1.
    r_precision: the fraction of images, 0 to 1, that their own prompt fits better than every other of the file; a tie is
        lost; None where all prompts are the same.
    frechet: the distance of the features of all images to those of reference images, at least 0; None without these.
    sheet: the file of the contact sheet.
    figures: by name, with their intervals: the first two, and percentiles where the scorer is calibrated for the language.
    """

    model: str
    language: str
    prompts: int
    similarity: float
    r_precision: float | None
    sheet: str
    frechet: float | None = None
    figures: dict[str, Estimate] = field(default_factory=dict)


def evaluate_generation(
    model: str | Path | None,
    prompts: str | Path,
    out: Path,
    *,
    languages: Sequence[str] = (),
    scorer: str | Path | PromptScorer | None = None,
    reference: str | Path | None = None,
    inception: str | Path | None = None,
    num_images: int = 1,
    layout: Layout | None = None,
    templates: str | Path | None = None,
    only_score: bool = False,
    truth: Sequence[str | Path] = (),
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    size: tuple[int, int] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    allow_pickle: bool = False,
    max_skipped: float = 0.01,
) -> Iterator[GenerationResult]:
    """Generate images of each prompt, from the same noise in every language, and compare each with all prompts.

    prompts, layout, templates: as in `read_prompts`.
    out: gets the images, by `layout`; LANGUAGE.png (the sheet: framed in green where the own prompt fits best, else in red)
        and results.json. Images with the same settings are kept: an interrupted run goes on. After the last language come the
        figures of `image_figures`, into results.json; with the layout "cococrola", its own CSV files of them, too.
    languages: columns to read, by default as in training. scorer: as in `generate`.
    reference: a folder of images to compare with as a whole, by the Fréchet distance of AltCLIP's features; with
        inception, torch-fidelity's file of InceptionV3's weights, by FID. Needs torchmetrics.
    num_images: of each prompt. only_score: generate nothing, and take the images that are there, whatever made them.
    truth: files that say which images are right, see `read_truth`; read after the last language.
    max_skipped: the fraction of lines, 0 to 1, that may be bad and are left out; more stop the run.
    seed: of image n of prompt i, both from 0, it is seed + i + n times the number of prompts. The others: as in `generate`.
    Raises InputError.
    """
    wanted = read_prompts(prompts, languages, layout, templates, max_skipped)
    reference_images = None if reference is None else read_reference(reference)
    pipe = None if only_score else load_pipeline(model, device=device, dtype=dtype, allow_pickle=allow_pickle)
    name = str(model or "images that were there") if pipe is None else str(pipe.name_or_path)
    judge = load_scorer(scorer, str(model or name), choose_device(device) if pipe is None else pipe.device)
    options: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "size": size}
    asked = {"seed": seed, "steps": steps, "guidance_scale": guidance_scale, "scorer": scorer and _name_of(scorer)}
    asked |= {"num_images": num_images, "layout": wanted.layout, "calibration": _calibrated_from(judge)}
    results: list[dict[str, Any]] = []
    features: dict[str, Tensor] = {}
    for language, lines in wanted.texts.items():
        wanted.write_metadata(out, language)
        places = [(row, number) for row in range(len(lines)) for number in range(num_images)]
        paths = [wanted.path(out, language, *place) for place in places]
        own_prompts = [lines[row] for row, _ in places]
        if pipe is None:
            images = _images_there(paths)
        else:
            images = [
                _generate_or_reuse(pipe, path, lines[row], seed=seed + row + number * len(lines), **options)
                for path, (row, number) in zip(paths, places, strict=True)
            ]
        features[language] = judge.image_features(images).reshape(len(lines), num_images, -1)
        scores = judge.score(images, lines)
        own = scores.reshape(len(lines), num_images, -1).diagonal(dim1=0, dim2=2).T.flatten()
        by_number = [own_prompt_first(scores[number::num_images], lines) for number in range(num_images)]
        right = [by_number[number][row] for row, number in places]
        sheet = out / f"{language}.png"
        _save_sheet(images, right, sheet)
        records = [
            {"path": str(path), "prompt": prompt, "score": round(score, 4), "own_prompt_first": first, "row": row}
            for path, prompt, score, first, (row, _) in zip(
                paths, own_prompts, own.tolist(), right, places, strict=True
            )
        ]
        _add_percentiles(records, own, judge, language)
        precise = len(set(lines)) > 1
        figures = {"similarity": over_prompts(own.tolist(), num_images)}
        figures |= {"r_precision": over_prompts(right, num_images)} if precise else {}
        for kind in ("percentile", "match_percentile"):
            if kind in records[0]:
                figures[kind] = over_prompts([record[kind] for record in records], num_images)
        result = GenerationResult(
            model=name,
            language=language,
            prompts=len(lines),
            similarity=own.mean().item(),
            r_precision=sum(right) / len(right) if precise else None,
            sheet=str(sheet),
            frechet=None if reference_images is None else frechet_distance(images, reference_images, judge, inception),
            figures=figures,
        )
        results.append(
            {**asdict(result), **asked, "pictures": records, "histogram": _histograms(scores, own, own_prompts, lines)}
        )
        _write(out, results)
        yield result
    _add_cross_lingual(results, features, num_images)
    if truth:
        pictures = [record for result in results for record in result["pictures"]]
        names = [Path(record["path"]).relative_to(out).as_posix() for record in pictures]
        for record, is_right in zip(pictures, read_truth(truth, names), strict=True):
            record["right"] = is_right
    _write(out, results)
    if wanted.layout == "cococrola":
        _write_cococrola(out, results, wanted)


def over_prompts(values: Sequence[float], num_images: int) -> Estimate:
    """The mean of a value of each image, prompt by prompt, with the interval of other prompts of the kind.

    Prompts are resampled with all of their images, as these are no independent samples.
    """
    means = torch.tensor([float(value) for value in values]).double().reshape(-1, num_images).mean(1)
    return bootstrap_mean(means.tolist())


def read_results(out: Path) -> list[dict[str, Any]]:
    """results.json of an evaluation: what each language's result was. Raises InputError where there is none."""
    try:
        return json.loads((out / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{out / RESULTS} can't be read ({error}): expected the folder of an evaluation") from None


def read_parity(out: Path, key: str = "own_prompt_first") -> dict[str, Estimate]:
    """The parity of languages in a finished `evaluate_generation`: each one's R-precision as a fraction of English's.

    For the languages with as many prompts as English, line by line the same ones; {} where there is no English, or where
    no image of it fits its own prompt best. key: what of an image is compared instead, such as "right".
    """
    earned: dict[str, list[float]] = {}
    for result in read_results(out):
        per_prompt = [0.0] * result["prompts"]
        for index, image in enumerate(result["pictures"]):
            per_prompt[image.get("row", index)] += image.get(key, 0)
        earned[result["language"]] = per_prompt
    english = earned.pop(ENGLISH, [])
    return {
        language: parity(reached, english)
        for language, reached in earned.items()
        if any(english) and len(reached) == len(english)
    }


def _name_of(scorer: str | Path | PromptScorer) -> str:
    return "a scorer in memory" if isinstance(scorer, PromptScorer) else str(scorer)


def _calibrated_from(judge: PromptScorer) -> str | None:
    return None if judge.calibration is None else judge.calibration.made_from


def _images_there(paths: Sequence[Path]) -> list[Image.Image]:
    if lacking := [path for path in paths if not path.is_file()]:
        raise InputError(
            f"{len(lacking)} of {len(paths)} images are not there, such as {lacking[0]}: see --layout, --num-images"
        )
    return [open_image(path) for path in paths]


def _add_percentiles(records: list[dict[str, Any]], own: Tensor, judge: PromptScorer, language: str) -> None:
    """Beside the cosines what they mean in the language, where the scorer is calibrated for it."""
    name = None if judge.calibration is None else judge.calibration.find(language)
    if judge.calibration is None or name is None:
        return
    paired = judge.calibration.languages[name].right is not None
    for kind in ("percentile", "match_percentile") if paired else ("percentile",):
        values = judge.calibration.convert(own.numpy(), name, kind)
        for record, value in zip(records, values.tolist(), strict=True):
            record[kind] = round(value, 4)


def _histograms(scores: Tensor, own: Tensor, prompts: Sequence[str], lines: Sequence[str]) -> dict[str, Any]:
    """How many cosines lie in each bar, of images with their own prompts and with the other ones."""
    differ = torch.tensor([[line != prompt for line in lines] for prompt in prompts])
    other = scores[differ]
    both = torch.cat([own, other])
    first, last = (int(edge.div(BIN).floor()) for edge in (both.min(), both.max()))
    bars = last - first + 1
    counts = [torch.bincount((each / BIN).floor().long() - first, minlength=bars).tolist() for each in (own, other)]
    return {"start": round(first * BIN, 4), "width": BIN, "own": counts[0], "other": counts[1]}


def _add_cross_lingual(results: list[dict[str, Any]], features: dict[str, Tensor], num_images: int) -> None:
    """The figures of languages with as many prompts as the first one, which are line by line the same."""
    count = results[0]["prompts"] if results else 0
    count = next((result["prompts"] for result in results if result["language"] == ENGLISH), count)
    aligned = {language: each for language, each in features.items() if len(each) == count}
    if left_out := [language for language in features if language not in aligned]:
        logger.warning(
            "%s: not %d prompts, so no figures across languages: expected the same prompts line by line",
            ", ".join(left_out),
            count,
        )
    figures = image_figures(aligned)
    for result in results:
        for name, values in figures.get(result["language"], {}).items():
            result["figures"][name] = asdict(over_prompts(values.flatten().tolist(), num_images))
            for record, value in zip(result["pictures"], values.flatten().tolist(), strict=True):
                record[name] = round(value, 4)


def _write_cococrola(out: Path, results: Sequence[dict[str, Any]], wanted: PromptSet) -> None:
    """The tables that CoCo-CroLa's evaluation writes: languages above, then a concept a line; --- where there is no figure."""
    languages = [result["language"] for result in results]
    for name, file in COCOCROLA_FILES.items():
        lines = [",".join(languages)]
        for row, concept in enumerate(wanted.concepts):
            cells = []
            for result in results:
                values = [image[name] for image in result["pictures"] if image["row"] == row and name in image]
                mean = sum(values) / len(values) if values else None
                mean = 1 - mean if mean is not None and name == "distinctiveness" else mean
                cells.append("---" if mean is None else f"{mean:.4f}")
            lines.append(",".join([concept, *cells]))
        files.write_text(out / file, "\n".join(lines) + "\n")


def _write(out: Path, results: list[dict[str, Any]]) -> None:
    files.write_text(out / RESULTS, json.dumps(results, ensure_ascii=False, indent=2) + "\n")


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
