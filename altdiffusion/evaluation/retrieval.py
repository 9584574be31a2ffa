"""Retrieval metrics: pure functions of a matrix of similarities."""

from __future__ import annotations

from torch import Tensor


def recall_at_k(similarity: Tensor, relevant: Tensor, k: int) -> float:
    """The share of queries, 0 to 1, that have a relevant item among their k most similar ones.

    similarity: float (queries, items). relevant: bool (queries, items), at least one true in each row.
    """
    top = similarity.topk(min(k, similarity.shape[1]), dim=1).indices
    return relevant.gather(1, top).any(1).float().mean().item()
