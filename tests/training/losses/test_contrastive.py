"""Losses against numbers that can be derived by hand."""

import math

import pytest
import torch

from altdiffusion.training.losses.contrastive import contrastive, cosine_distance

LEFT = torch.tensor([[3.0, 0.0], [0.0, 2.0]])


def test_cosine_distance():
    same, turned, opposite = LEFT * 7, LEFT.flip(0), -LEFT
    assert [cosine_distance(LEFT, right).item() for right in (same, turned, opposite)] == [0, 1, 2]


def test_contrastive_of_orthogonal_pairs():
    """Logits are [[s, 0], [0, s]]: -log(e^s / (e^s + 1))."""
    assert contrastive(LEFT, LEFT, 2.0).item() == pytest.approx(math.log(1 + math.exp(-2)))


def test_contrastive_is_the_mean_of_both_directions():
    right = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    r = math.sqrt(0.5)
    logits = [[1, r], [0, r]]  # the rows are LEFT's
    rows = [math.log(sum(map(math.exp, row))) - row[i] for i, row in enumerate(logits)]
    columns = [math.log(sum(math.exp(row[i]) for row in logits)) - logits[i][i] for i in range(2)]
    assert contrastive(LEFT, right, 1.0).item() == pytest.approx(sum(rows + columns) / 4)


def test_the_same_thing_twice_is_no_negative():
    left = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    found = contrastive(left, left, 3.0, same=same)
    rows = [math.log(1 + math.exp(-3))] * 2 + [math.log(1 + 2 * math.exp(-3))]
    assert found.item() == pytest.approx(sum(rows) / 3)


def test_contrastive_keeps_its_precision_under_autocast():
    torch.manual_seed(0)
    left, right = torch.randn(8, 16), torch.randn(8, 16)
    exact = contrastive(left, right, 100.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert contrastive(left, right, 100.0).item() == exact.item()
