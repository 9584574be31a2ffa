"""What an extended text tower does in each language, and its mixture with what it was."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from altdiffusion.text_encoder.bridge import Bridge
from altdiffusion.text_encoder.tokenizer import tokens
from altdiffusion.training.gates import RETRIEVAL, lost
from altdiffusion.training.inputs.clip_states import altclip_states, stack_states
from altdiffusion.training.inputs.parallel_text import ParallelText
from altdiffusion.training.losses.soft_tokens import same_words
from altdiffusion.training.models.text_tower import TextTower
from altdiffusion.training.retrieval import ReadVectors, pooled_vectors, retrieval

WORDS = "words"  # a metric: how often a bridge finds the same English word likeliest as in the English text
FRACTIONS = [tenths / 10 for tenths in range(10, 0, -1)]  # of the trained weights, that `interpolate` tries

Metrics = dict[str, float]
ReadStates = Callable[[Sequence[Sequence[int]]], list[Tensor]]


class Validation:
    """Measures a tower in each language, learnt and held. read_target, read_former: see `train_extend`."""

    def __init__(
        self,
        text: ParallelText,
        learnt: Sequence[str],
        tower: TextTower,
        read_target: ReadVectors,
        bridge: Bridge | None,
        read_former: ReadStates,
    ) -> None:
        self.learnt, self.held = list(learnt), [language for language in text.languages if language not in learnt]
        self._text, self._tower, self._read_target = text, tower, read_target
        self._bridge, self._read_former = bridge, read_former

    @torch.no_grad()
    def measure(self) -> Metrics:
        """R@1 of up to 1,000 texts of each language; with a bridge, "words" of up to 200."""
        model, padding = self._tower.model, self._tower.tokenizer.pad_token_id
        training = model.training
        model.eval()
        read, read_states = pooled_vectors(model, padding), altclip_states(model, padding)
        metrics = {}
        for language in [*self.learnt, *self.held]:
            pairs = self._text.of_language(language, 1000)
            metrics[f"{language} {RETRIEVAL}"] = retrieval(pairs, read, self._read_target)
            if self._bridge is not None:
                metrics[f"{language} {WORDS}"] = self._words(self._bridge, language, read_states)
        model.train(training)
        return metrics

    def _words(self, bridge: Bridge, language: str, read_states: ReadStates) -> float:
        texts, english = (tokens(self._tower.tokenizer, each) for each in self._text.texts_of(language, 200))
        counts = [
            same_words(
                bridge,
                *stack_states(read_states(texts[first : first + 50])),
                *stack_states(self._read_former(english[first : first + 50])),
            )
            for first in range(0, len(texts), 50)
        ]
        return sum(same for same, _ in counts) / sum(count for _, count in counts)


def interpolate(
    model: nn.Module, weights: Mapping[str, Tensor], validation: Validation, before: Metrics, max_loss: float
) -> Metrics:
    """Leave the model with the best mixture of the weights at the start and its own. Returns what was measured with it.

    The best is the one whose learnt languages have the highest mean R@1, of those in which no held language loses more than
    `max_loss` points; where all lose more, the one in which the language that loses most loses least.
    """
    trained = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def mix(fraction: float) -> None:
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.lerp(weights[name].to(parameter), trained[name], fraction))

    found: list[tuple[bool, float, float, Metrics]] = []
    for fraction in FRACTIONS:
        mix(fraction)
        metrics = validation.measure()
        learnt = mean([metrics[f"{name} {RETRIEVAL}"] for name in validation.learnt])
        most = max(
            (before[name] - metrics[name] for name in [f"{each} {RETRIEVAL}" for each in validation.held]), default=0.0
        )
        holds = not lost(before, metrics, validation.held, max_loss)
        found.append((holds, learnt if holds else -most, fraction, metrics))
        say(f"{fraction:.0%} of the trained weights: learnt {100 * learnt:.1f}, most lost {100 * most:.1f}")
    _, _, fraction, metrics = max(found, key=lambda each: each[:3])
    mix(fraction)
    say(f"taken: {fraction:.0%} of the trained weights")
    return metrics


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def say(line: str) -> None:
    """On standard error, above a progress bar."""
    tqdm.write(line, sys.stderr)
