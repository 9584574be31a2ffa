"""What a cosine means in each language: where it stands among pairs that belong together, and among those that don't.

    scorer.calibrate(images, {"en": captions, "zh": chinese})   # caption i describes image i
    scorer.calibration.save("my-altclip")                       # beside the weights: loaded with them from then on
    scorer.score("cat.png", "一只猫", as_="percentile")

percentile        of 100 texts in this language that don't belong to the image, so many fit it less well: 99 lets through
                  one wrong pair in a hundred, in every language
match_percentile  of 100 pairs that belong together, so many score lower: 50 is as good as the middle one, 5 is a poor match
probability       that the two belong together, where as many pairs do as don't

A percentile is read off quantiles that were measured; between two of them it is interpolated, beyond the ends it is 0 or 100.
The probability is a logistic function of the cosine, fitted to both kinds of pairs (Platt 1999), so that it never falls
while the cosine rises, as a quotient of two densities would.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from altdiffusion import files
from altdiffusion.altclip.score_kinds import ScoreAs
from altdiffusion.errors import InputError, first_line

Array = npt.NDArray[Any]

TENSORS, ABOUT = "calibration.safetensors", "calibration.json"  # beside the model's weights
FORMAT = 1
MIN_TEXTS = 100  # different ones in a language: a percentile is one in a hundred
MAX_PAIRS = 2_000_000  # of wrong pairs that are measured in a language
WEAK = 0.8  # `told_apart` below which a warning says that the model hardly knows a language
# Where quantiles are measured, in per cent: densest at both ends, where wrong and right pairs are told apart.
LEVELS = np.array([0, 0.1, 0.5, 1, *range(2, 99, 2), 99, 99.5, 99.9, 99.99, 100])


@dataclass(frozen=True)
class LanguageScores:
    """The cosines of one language.

    wrong, right: float (levels,), the quantiles at LEVELS of pairs that don't belong together, and of those that do, where
        they are known. logistic: probability = 1 / (1 + exp(-(slope * cosine + offset))).
    texts: different ones. told_apart: how often a right pair scores above a wrong one, 0.5 (by chance) to 1 (always).
    """

    wrong: Array
    right: Array | None
    logistic: tuple[float, float] | None
    texts: int
    told_apart: float | None


class Calibration:
    """The cosines of each language, for one model.

    weights: some of the model's, by which `fits` knows it again. made_from: what was scored, in words.
    """

    def __init__(self, languages: dict[str, LanguageScores], weights: Sequence[float], made_from: str = "") -> None:
        self.languages, self.weights, self.made_from = languages, list(weights), made_from

    def find(self, language: str) -> str | None:
        """The calibrated language that is meant, such as "zh" by "zh-CN"; None where there is none."""
        name = language.strip().lower().replace("_", "-")
        return next((each for each in (name, name.partition("-")[0]) if each in self.languages), None)

    def convert(self, cosines: Array, language: str, as_: ScoreAs) -> Array:
        """Cosines of one of `languages` as something else, in any shape; NaN stays NaN.

        Raises InputError for what needs pairs that belong together, where none were given.
        """
        scores = self.languages[language]
        if as_ == "cosine":
            return cosines
        if as_ == "percentile":
            return np.interp(cosines, scores.wrong, LEVELS)
        if scores.right is None or scores.logistic is None:
            raise InputError(
                f"{as_}: the calibration of {language!r} holds no pairs that belong together: expected as_='percentile', "
                "or a calibration with matching=True"
            )
        if as_ == "match_percentile":
            return np.interp(cosines, scores.right, LEVELS)
        slope, offset = scores.logistic
        return _sigmoid(slope * np.asarray(cosines, np.float64) + offset)

    def fits(self, weights: Sequence[float]) -> bool:
        """Whether the model with these `weights` is the one that was calibrated, in whatever dtype it is loaded."""
        return len(weights) == len(self.weights) and bool(np.allclose(weights, self.weights, rtol=0.02, atol=1e-4))

    def save(self, folder: str | Path, dtype: str = "float32") -> None:
        """Write calibration.safetensors and calibration.json into a model's folder. dtype: "float16" halves the former.

        Raises InputError where there is no such folder, or nothing can be written.
        """
        path = files.local_path(folder)
        if not path.is_dir():
            raise InputError(f"there is no folder {path} to save a calibration in: expected that of the model")
        known = [name for name, scores in self.languages.items() if scores.right is not None]
        tensors = {"wrong": np.stack([scores.wrong for scores in self.languages.values()]).astype(dtype)}
        if known:
            tensors["right"] = np.stack([self.languages[name].right for name in known]).astype(dtype)  # type: ignore[misc]
            tensors["logistic"] = np.array([self.languages[name].logistic for name in known], np.float32)
        about = {
            "format": FORMAT,
            "made_from": self.made_from,
            "weights": [float(f"{weight:.4g}") for weight in self.weights],
            "languages": {
                name: {"texts": scores.texts}
                | ({} if scores.told_apart is None else {"told_apart": round(scores.told_apart, 5)})
                for name, scores in self.languages.items()
            },
        }
        try:
            with files.new_file(path / TENSORS) as aside:
                save_file(tensors, aside)
            files.write_text(path / ABOUT, json.dumps(about, ensure_ascii=False, separators=(",", ":")) + "\n")
        except OSError as error:
            raise InputError(f"the calibration can't be written into {path}: {first_line(error)}") from None

    @classmethod
    def load(cls, folder: str | Path) -> Calibration | None:
        """The calibration in a model's folder, None where there is none. Raises InputError where it is damaged."""
        path = files.local_path(folder)
        if not (path / ABOUT).is_file() and not (path / TENSORS).is_file():
            return None
        try:
            about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
            if about["format"] != FORMAT:
                raise InputError(
                    f"{path / ABOUT} is of format {about['format']!r}, expected {FORMAT}: update altdiffusion"
                )
            tensors = {name: tensor.astype(np.float64) for name, tensor in load_file(path / TENSORS).items()}
            paired = [name for name, each in about["languages"].items() if "told_apart" in each]
            languages = {
                name: LanguageScores(
                    wrong=_checked(tensors["wrong"][index]),
                    right=_checked(tensors["right"][paired.index(name)]) if name in paired else None,
                    logistic=_pair(tensors["logistic"][paired.index(name)]) if name in paired else None,
                    texts=int(each["texts"]),
                    told_apart=each.get("told_apart"),
                )
                for index, (name, each) in enumerate(about["languages"].items())
            }
            return cls(languages, [float(weight) for weight in about["weights"]], str(about["made_from"]))
        except InputError:
            raise
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            SafetensorError,
        ) as error:
            raise InputError(
                f"the calibration in {path} can't be read ({first_line(error)}): calibrate anew, or remove {ABOUT} and {TENSORS}"
            ) from None


def language_scores(wrong: Array, right: Array | None, texts: int) -> LanguageScores:
    """What is kept of the cosines of one language. texts: how many different ones there were."""
    quantiles = np.quantile(wrong, LEVELS / 100)
    if right is None:
        return LanguageScores(quantiles, None, None, texts, None)
    return LanguageScores(
        wrong=quantiles,
        right=np.quantile(right, LEVELS / 100),
        logistic=fit_logistic(wrong, right),
        texts=texts,
        told_apart=_told_apart(wrong, right),
    )


def cosines_of_pairs(images: Array, texts: Array, words: Sequence[str], matching: bool) -> tuple[Array, Array | None]:
    """The cosines of pairs that don't belong together, at most about MAX_PAIRS of them, and of those that do.

    images: unit vectors (images, features). texts: the same of `words`, (texts, features).
    matching: text i belongs to image i; then image i and text j belong together, too, where one of the two is the same as
        in pair i or j. Else none belong together.
    """
    step = max(1, math.ceil(len(images) * len(texts) / MAX_PAIRS))
    number: dict[str, int] = {}
    numbers = np.array([number.setdefault(word, len(number)) for word in words])
    wrong = []
    for start in range(step):  # every step-th image with every step-th text: each image and each text is measured
        rows, columns = np.arange(start, len(images), step), np.arange(-start % step, len(texts), step)
        cosines = images[rows] @ texts[columns].T
        if matching:
            differ = numbers[rows][:, None] != numbers[columns]
            cosines = cosines[differ & (images[rows] @ images[columns].T < 1 - 1e-5)]  # the same, however batched
        wrong.append(cosines.ravel())
    return np.concatenate(wrong), (images * texts).sum(1) if matching else None


def fit_logistic(wrong: Array, right: Array) -> tuple[float, float]:
    """Slope and offset by maximum likelihood, each kind of pairs as heavy as the other.

    Targets are moved off 0 and 1 by Platt's rule, so that pairs that never overlap give no infinite slope.
    """
    x = np.concatenate([wrong, right]).astype(np.float64)
    targets = np.repeat([1 / (len(wrong) + 2), (len(right) + 1) / (len(right) + 2)], [len(wrong), len(right)])
    weights = np.repeat([0.5 / len(wrong), 0.5 / len(right)], [len(wrong), len(right)])
    centre, scale = x @ weights, max(float(np.sqrt(((x - x @ weights) ** 2) @ weights)), 1e-6)
    features = np.stack([(x - centre) / scale, np.ones_like(x)])
    solution = np.zeros(2)

    def loss(at: Array) -> float:
        logits = at @ features
        return float(weights @ (np.logaddexp(0, logits) - targets * logits))

    for _ in range(50):  # Newton, with steps halved until they help
        predicted = _sigmoid(solution @ features)
        gradient = features @ (weights * (predicted - targets))
        hessian = (features * (weights * predicted * (1 - predicted))) @ features.T + 1e-9 * np.eye(2)
        step, before = np.linalg.solve(hessian, gradient), loss(solution)
        while loss(solution - step) > before and np.abs(step).max() > 1e-9:
            step /= 2
        solution = solution - step
        if np.abs(step).max() < 1e-6:
            break
    slope = max(float(solution[0]) / scale, 0.0)
    return slope, float(solution[1]) - slope * float(centre)


def _told_apart(wrong: Array, right: Array) -> float:
    ordered = np.sort(wrong)
    below, not_above = (np.searchsorted(ordered, right, side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(wrong)))


def _sigmoid(logits: Array) -> Array:
    return 0.5 * (1 + np.tanh(logits / 2))


def _checked(quantiles: Array) -> Array:
    if quantiles.shape != LEVELS.shape or not np.all(np.diff(quantiles) >= 0):
        raise ValueError("no rising quantiles")
    return quantiles


def _pair(logistic: Array) -> tuple[float, float]:
    if logistic.shape != (2,) or not np.isfinite(logistic).all():
        raise ValueError("no slope and offset")
    return float(logistic[0]), float(logistic[1])
