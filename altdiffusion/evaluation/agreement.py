"""Which metrics agree with the truth, where somebody knows which images are right: a judge, people, GenEval's detector."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from altdiffusion.errors import InputError, first_line
from altdiffusion.files import local_path
from altdiffusion.metrics import Estimate

Array = npt.NDArray[Any]
RESAMPLES = 500


@dataclass(frozen=True)
class Agreement:
    """How well a metric tells right images from wrong ones.

    images: how often a right image has more than a wrong one, of whatever languages, 0.5 (by chance) to 1 (always).
    within: the same among images of one language, the mean over those with both. low, high: of `images`.
    languages: rank correlation of the languages' means with how many of their images are right, -1 to 1. None: can't be told.
    """

    metric: str
    images: Estimate
    within: float | None
    languages: float | None


def read_truth(paths: Sequence[str | Path], names: Sequence[str]) -> list[bool]:
    """Which images are right, of GenEval's results.jsonl: a line {"filename": ..., "correct": true} for each image.

    names: of the images, below the folder that they lie in, such as "en/00000/samples/0000.png"; a filename is one that ends so.
    Raises InputError: no such file, other lines, an image that is in none.
    """
    known: dict[str, bool] = {}
    number = 0
    for path in map(local_path, paths):
        try:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):  # noqa: B007
                if line.strip():
                    record = json.loads(line)
                    known[str(record["filename"]).replace("\\", "/")] = bool(record["correct"])
        except OSError as error:
            raise InputError(f"{path} can't be read: {first_line(error)}") from None
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f'{path}:{number}: expected a line like {{"filename": "en/00000/samples/0000.png", "correct": true}}'
            ) from None
    depth = {name: name.count("/") + 1 for name in names}
    by_end: dict[str, bool] = {}
    for length in set(depth.values()):
        by_end |= {"/".join(filename.split("/")[-length:]): right for filename, right in known.items()}
    if lacking := [name for name in names if name not in by_end]:
        raise InputError(
            f"of {len(names)} images {len(lacking)} are in none of {', '.join(map(str, paths))}: {lacking[0]}, ...; "
            f"their files are named {next(iter(known), 'not at all')}"
        )
    return [by_end[name] for name in names]


def agreement(
    metrics: Mapping[str, Sequence[float | None]],
    right: Sequence[bool],
    languages: Sequence[str],
    prompts: Sequence[int],
) -> list[Agreement]:
    """How each metric agrees with the truth; [] where all images are right, or none.

    metrics: by name, a value for each image, None where it has none. right, languages, prompts: of each image; prompts, with all
    of their images, are what the bootstrap resamples.
    """
    found = []
    for name, values in metrics.items():
        there = np.array([value is not None for value in values])
        scores = np.array([value for value in values if value is not None], np.float64)
        truth, codes, rows = (np.array(each)[there] for each in (right, languages, prompts))
        if (value := told_apart(scores, truth)) is None:
            continue
        groups = [codes == code for code in dict.fromkeys(codes.tolist())]
        each = [apart for group in groups if (apart := told_apart(scores[group], truth[group])) is not None]
        means = [(scores[group].mean(), truth[group].mean()) for group in groups]
        low, high = _interval(scores, truth, rows, value)
        found.append(
            Agreement(
                metric=name,
                images=Estimate(value, low, high),
                within=float(np.mean(each)) if each else None,
                languages=rank_correlation(*map(np.array, zip(*means, strict=True))) if len(means) > 2 else None,
            )
        )
    return found


def told_apart(scores: Array, right: Array) -> float | None:
    """How often a right one scores above a wrong one, a tie counting half; None where all are right, or none.

    It is the area under the ROC curve, by Mann and Whitney's ranks.
    """
    ours = int(right.sum())
    if not 0 < ours < len(right):
        return None
    return float((_ranks(scores)[right].sum() - ours * (ours + 1) / 2) / (ours * (len(right) - ours)))


def rank_correlation(one: Array, other: Array) -> float | None:
    """Spearman's; None where all of one side are equal."""
    a, b = (ranks - ranks.mean() for ranks in (_ranks(one), _ranks(other)))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else None


def _ranks(values: Array) -> Array:
    """From 1, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _interval(scores: Array, right: Array, prompts: Array, value: float) -> tuple[float, float]:
    """The ends of the 95 % bootstrap interval."""
    random = np.random.default_rng(0)
    members = [np.flatnonzero(prompts == prompt) for prompt in np.unique(prompts)]
    resampled = []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([members[index] for index in random.integers(len(members), size=len(members))])
        resampled.append(told_apart(scores[chosen], right[chosen]))
    ends = np.quantile([each for each in resampled if each is not None] or [value], [0.025, 0.975])
    return float(ends[0]), float(ends[1])
