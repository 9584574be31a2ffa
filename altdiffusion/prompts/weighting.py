"""What a weight does to hidden states: the ways of the web UIs, and one for encoders that spread a word over all states.

A way may need other texts encoded beside a prompt's: `beside` names them, `weighted` gets their states.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from altdiffusion.errors import InputError
from altdiffusion.prompts.tokens import Token

Weighting = Literal["masked", "a1111", "no-norm", "comfyui"]


class Row(NamedTuple):
    """What is encoded: ids with begin and end, and the positions of those that no other token may attend to."""

    ids: tuple[int, ...]
    hidden: tuple[int, ...] = ()


def beside(row: Row, chunk: Sequence[Token], weighting: Weighting) -> list[Row]:
    """The rows whose states `weighted` needs beside a chunk's own."""
    if all(token.weight == 1 for token in chunk):
        return []
    if weighting == "comfyui":
        return [Row((row.ids[0], row.ids[-1]))]
    if weighting == "masked":
        return [Row(row.ids, tuple(positions)) for _, positions in _heavy(chunk)]
    return []


def weighted(states: Tensor, chunk: Sequence[Token], weighting: Weighting, others: Sequence[Tensor]) -> Tensor:
    """A chunk's states (tokens, width) with its weights; as they are where all weights are 1.

    others: of `beside`, each (tokens, width). Raises InputError where A1111's mean can't be restored.
    """
    if all(token.weight == 1 for token in chunk):
        return states
    weights = torch.ones(len(states), 1, dtype=states.dtype, device=states.device)
    weights[1 : len(chunk) + 1, 0] = torch.tensor([token.weight for token in chunk], dtype=states.dtype)
    if weighting == "comfyui":
        (empty,) = others
        return torch.where(weights == 1, states, empty + (states - empty) * weights)
    if weighting == "masked":
        moved = states.float()
        for (weight, _), without in zip(_heavy(chunk), others, strict=True):
            moved = moved + (weight - 1) * (states.float() - without.float())
        norm = moved.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        return (moved * states.float().norm(dim=-1, keepdim=True) / norm).to(states.dtype)
    product = states * weights
    if weighting == "no-norm":
        return product
    factor = states.float().mean() / product.float().mean()
    if not 0.1 < factor < 10:
        raise InputError(
            f"weights up to {float(weights.max()):g} leave no mean that could be restored: expected smaller ones, or "
            "another weighting than 'a1111'"
        )
    return product * factor.to(states.dtype)


def _heavy(chunk: Sequence[Token]) -> list[tuple[float, list[int]]]:
    """(weight, positions in the row) of each stretch whose weight isn't 1."""
    stretches = []
    for weight, numbered in groupby(enumerate(chunk, 1), key=lambda pair: pair[1].weight):
        positions = [position for position, _ in numbered]
        if weight != 1:
            stretches.append((weight, positions))
    return stretches
