"""Gates: whether a bridge is good enough in each of its languages, and whether a text tower has lost none that it knew.

Judged by what a validation measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from altdiffusion.errors import TrainingStopped

# A metric of a validation is called by its language and one of these: "zh R@1".
RETRIEVAL, PREDICTION_ERROR = "R@1", "prediction error"


def relative_error(given: Tensor, wanted: Tensor, empty: Tensor) -> float:
    """How far predictions with a bridge's states are from those with CLIP's, beside how far no text at all is from them.

    given, wanted, empty: what a UNet predicts from the same noise with a bridge's states of some texts, with CLIP's of the
        same texts, and with CLIP's of "", each (batch, ...).
    Returns 0 where they are equal, 1 where the bridge says as little as an empty prompt, more where it says something else.
    The root of the summed squares of all texts, so that one on which a text has no effect weighs nothing.
    """
    error, effect = (each.double().sub(wanted.double()).square().sum() for each in (given, empty))
    return float(torch.sqrt(error / effect)) if effect > 0 else (0.0 if error == 0 else float("inf"))


def failures(
    metrics: Mapping[str, float], languages: Sequence[str], minimum_retrieval: float, maximum_error: float | None
) -> list[str]:
    """A line for each language that is below a gate, or in which it wasn't measured; empty if all are good enough.

    metrics: of the last validation. minimum_retrieval: 0 for no gate, maximum_error: None for none.
    """
    lines = []
    for language in languages:
        retrieval, error = (metrics.get(f"{language} {metric}") for metric in (RETRIEVAL, PREDICTION_ERROR))
        problems = []
        if minimum_retrieval and not (retrieval is not None and retrieval >= minimum_retrieval):
            problems.append(f"R@1 {_shown(retrieval)}, expected at least {minimum_retrieval:.3g}")
        if maximum_error is not None and not (error is not None and error <= maximum_error):
            problems.append(f"prediction error {_shown(error)}, expected at most {maximum_error:.3g}")
        if problems:
            lines.append(f"{language}: {'; '.join(problems)}")
    return lines


def stop_below(lines: Sequence[str], languages: Sequence[str], folder: object) -> None:
    """Raise TrainingStopped, which ends the command with status 1, if there are `failures`; the bridge in `folder` stays."""
    if lines:
        raise TrainingStopped(
            f"{len(lines)} of {len(languages)} languages are below the gates, though the bridge in {folder} is saved: train "
            "longer or on more data, or lower --minimum-retrieval and --maximum-prediction-error"
        )


def lost(before: Mapping[str, float], now: Mapping[str, float], languages: Sequence[str], max_loss: float) -> list[str]:
    """A line for each language that has lost more than `max_loss` points, of 100, of R@1."""
    return [
        f"{language}: R@1 {100 * then:.1f} before, {100 * now[name]:.1f} now"
        for language in languages
        if (then := before[name := f"{language} {RETRIEVAL}"]) - now[name] > max_loss / 100 + 1e-9
    ]


def stop_lost(lines: Sequence[str], max_loss: float, when: str) -> None:
    """Raise TrainingStopped if there are languages that have `lost` too much. when: the step, and what is saved."""
    if lines:
        raise TrainingStopped(
            f"{when}: {'; '.join(lines)}: more than --max-loss {max_loss:g}. A larger --replay, a smaller --learning-rate "
            "or --interpolate holds better"
        )


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"
