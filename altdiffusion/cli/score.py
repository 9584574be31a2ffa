"""`altdiffusion score`: how well each image fits each prompt, or each caption of a table its image."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import model_validator

from altdiffusion.altclip.score_kinds import DECIMALS, ScoreAs
from altdiffusion.cli.flags import command
from altdiffusion.cli.options import ExactSettings, JsonSettings
from altdiffusion.cli.sources import check_image, check_some
from altdiffusion.cli.terminal import counting, hide_loading, print_json, print_table, say
from altdiffusion.errors import InputError
from altdiffusion.files import local_path
from altdiffusion.images import ENDINGS, image_files
from altdiffusion.settings import setting


class ScoreSettings(ExactSettings, JsonSettings):
    """What is scored, and how the scores are printed."""

    images: list[str] = setting(
        [], "image files, or folders with their subfolders, before --prompt", positional="IMAGE", source="images"
    )
    prompt: list[str] = setting([], "in any of the model's languages", metavar="P")
    pairs: str | None = setting(
        None, "table of images and captions, a score a row: .csv, .tsv, .jsonl, .parquet, or whatever a training reads",
        source="data", metavar="F",
    )  # fmt: skip
    caption: str | None = setting(None, "column of --pairs that is scored (default: caption, text, ...)", metavar="C")
    model: str | None = setting(None, "AltCLIP: id on the hub or folder (default: mini)", source="model", metavar="M")
    score_as: ScoreAs = setting(
        "cosine", "cosine; by the calibration of a text's language: percentile (of 100 wrong texts so many fit less well), "
        "match_percentile (of 100 right pairs so many score lower), probability", flag="as", metavar="KIND",
    )  # fmt: skip
    language: str | None = setting(None, "of all texts, such as zh (default: found, by py3langid)", metavar="L")
    calibration: str | None = setting(None, "folder of one that isn't beside the model", source="path", metavar="DIR")
    sort: bool = setting(False, "best image first, by the first prompt")
    minimum: float | None = setting(None, "leave out what scores less, by the first prompt", flag="min")
    top: int | None = setting(None, "the N best alone, best first, by the first prompt", minimum=1)
    out: Path | None = setting(None, "write the rows of --pairs with their scores: .csv, .tsv, .jsonl or .parquet")
    plot: Path | None = setting(None, "histogram of the scores, a .png; needs matplotlib", metavar="F")
    as_csv: bool = setting(False, "print comma-separated values, a line an image", flag="csv")

    @model_validator(mode="before")
    @classmethod
    def _images_after_prompts(cls, values: Any) -> Any:
        """`--prompt P IMAGE`: --prompt takes all that follows it, so of those behind the first the images are IMAGE.

        Folders as well, where no other image is given.
        """
        images, prompts = values.get("images") or [], values.get("prompt") or []
        if not isinstance(prompts, list):
            return values
        behind = [word for word in prompts[1:] if _is_image(word) or (not images and _is_folder(word))]
        if not behind:
            return values
        left = [word for index, word in enumerate(prompts) if not index or word not in behind]
        return values | {"images": [*images, *behind], "prompt": left}

    def problems(self) -> list[str]:
        """Images and prompts, or a table of both; standard output takes one of its forms."""
        fields, problems = type(self).model_fields, []
        if self.pairs is None:
            if not self.images:
                problems.append(f"IMAGE is missing: {fields['images'].description}; or name a table, --pairs")
            if not self.prompt:
                problems.append(f"--prompt is missing: {fields['prompt'].description}")
            if unused := self.changed("caption", "out"):
                problems.append(f"{unused}: only with --pairs")
        else:
            if self.images or self.prompt:
                problems.append("--pairs: its rows are images and captions, not allowed with IMAGE and --prompt")
            if self.sort:
                problems.append("--sort: not allowed with --pairs, which may be endless; --top N sorts the N best")
            if self.out is not None and (self.as_csv or self.as_json):
                problems.append("--csv, --json: not allowed with --out")
        if self.as_csv and self.as_json:
            problems.append("--csv: not allowed with --json")
        if self.language is not None and self.score_as == "cosine":
            problems.append("--language: says which calibration to go by, name one: --as percentile")
        return problems


@command(ScoreSettings)
def score(settings: ScoreSettings) -> None:
    """How well images fit texts: AltCLIP's cosines, -1 to 1, or percentiles that mean the same in every language.

    altdiffusion score pictures/ --prompt 猫 --prompt "a dog" --sort
    altdiffusion score --pairs captions.csv --as percentile --min 99 --out kept.csv
    """
    if settings.plot is not None:
        from altdiffusion.cli import score_plot

        score_plot.check(settings.plot)
    if settings.pairs is not None:
        from altdiffusion.cli.score_pairs import score_table

        return score_table(settings, lambda: load_scorer(settings))
    for prompt in filter(_is_image, settings.prompt):
        say(f"--prompt {prompt}: read as words, though there is an image of that name")
    images = _with_folders(settings.images)
    check_some(images, check_image)
    scorer = load_scorer(settings)
    bad: dict[int, str] = {}
    from altdiffusion.altclip.calibrated_scores import convert, prompt_languages

    languages = prompt_languages(scorer.calibration, settings.prompt, settings.score_as, settings.language)
    with counting(len(images)) as done:
        cosines = scorer.score(images, settings.prompt, bad, on_done=done)
    table = convert(scorer.calibration, cosines, languages, settings.score_as)
    scores = table.tolist()
    _print(settings, images, scores, _chosen(settings, cosines[:, 0].tolist(), scores, bad), bad)
    if settings.plot is not None:
        histogram = score_plot.Histogram(settings.score_as)
        for number, (prompt, column) in enumerate(zip(settings.prompt, table.T.tolist(), strict=True), 1):
            for value in column:
                histogram.add(value, f"{number}: {prompt[:40]}")
        histogram.save(settings.plot)
    if bad:
        for index, reason in bad.items():
            say(reason if images[index] in reason else f"{images[index]}: {reason}")
        rest = "; the others were scored" if len(bad) < len(images) else ""
        raise InputError(f"{len(bad)} of {len(scores)} images can't be used (above){rest}")


def load_scorer(settings: ScoreSettings) -> Any:
    """The `PromptScorer` that was asked for."""
    say("loading ...")
    from altdiffusion.altclip.calibrated_scores import calibrated_language, check_kind
    from altdiffusion.altclip.scorer import PromptScorer
    from altdiffusion.devices import DTYPES

    hide_loading()
    scorer = PromptScorer.from_pretrained(
        settings.model,
        dtype=None if settings.dtype is None else DTYPES[settings.dtype],
        device=settings.device,
        allow_pickle=settings.allow_pickle,
        calibration=settings.calibration,
    )
    check_kind(scorer.calibration, settings.score_as)
    if settings.language is not None and scorer.calibration is not None:
        calibrated_language("", settings.language, scorer.calibration)
    return scorer


def _chosen(settings: ScoreSettings, cosines: list[float], scores: list[list[float]], bad: dict[int, str]) -> list[int]:
    """The indices of the images to show, in their order. cosines: with the first prompt, as percentiles may be equal."""
    order = [index for index in range(len(scores)) if index not in bad]
    if settings.minimum is not None:
        order = [index for index in order if scores[index][0] >= settings.minimum]
    if settings.sort or settings.top:
        order.sort(key=lambda index: -cosines[index])
    return order[: settings.top]


def _print(
    settings: ScoreSettings, images: list[str], scores: list[list[float]], order: list[int], bad: dict[int, str]
) -> None:
    decimals = DECIMALS[settings.score_as]
    if settings.as_json:
        results = [{"image": images[index], "scores": [rounded(score) for score in scores[index]]} for index in order]
        failed = [{"image": images[index], "reason": reason} for index, reason in bad.items()]
        kind = {} if settings.score_as == "cosine" else {"as": settings.score_as}
        print_json({"prompts": settings.prompt, **kind, "results": results, "failed": failed})
    elif not order:
        pass  # a heading without rows says nothing
    elif settings.as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["image", *settings.prompt])
        writer.writerows([images[index], *(f"{score:.6f}" for score in scores[index])] for index in order)
    else:
        rows = [[images[index], *(f"{score:.{decimals}f}" for score in scores[index])] for index in order]
        print_table([["", *settings.prompt], *rows])


def rounded(score: float) -> float | None:
    """For JSON, which has no NaN: of a prompt in a language without calibration."""
    return None if math.isnan(score) else round(score, 6)


def _with_folders(names: list[str]) -> list[str]:
    """The same with the images of each folder in its place. Raises InputError where one holds none."""
    files: list[str] = []
    for name in names:
        if _is_folder(name):
            inside = image_files(local_path(name), deep=True)
            if not inside:
                raise InputError(f"{local_path(name)} holds no images: expected files that end in {', '.join(ENDINGS)}")
            files += map(str, inside)
        else:
            files.append(name)
    return files


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in ENDINGS and _is(Path.is_file, name)


def _is_folder(name: str) -> bool:
    return _is(Path.is_dir, name)


def _is(kind: Callable[[Path], bool], name: str) -> bool:
    try:
        return kind(local_path(name))
    except InputError:  # what no file system could hold is named with the bad images
        return False
