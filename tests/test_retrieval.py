"""Retrieval metrics on matrices made by hand."""

import pytest
import torch

from altdiffusion.evaluation.retrieval import recall_at_k

SIMILARITY = torch.tensor([[0.9, 0.5, 0.1], [0.8, 0.7, 0.1], [0.3, 0.2, 0.1], [0.1, 0.2, 0.3]])


@pytest.mark.parametrize(("k", "recall"), [(1, 0.5), (2, 0.75), (3, 1.0), (10, 1.0)])
def test_recall_at_k(k, recall):
    relevant = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]).bool()
    assert recall_at_k(SIMILARITY, relevant, k) == recall


def test_any_relevant_item_will_do():
    relevant = torch.tensor([[0, 1, 1], [1, 1, 0], [0, 0, 1], [1, 1, 0]]).bool()
    assert recall_at_k(SIMILARITY, relevant, 1) == 0.25
