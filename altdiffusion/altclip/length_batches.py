"""Batches of texts of about one length, so that next to nothing is padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def by_length(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices of texts in batches of at most `budget` tokens, padding counted, or of one text; the longest come first.

    Sorted, so that next to nothing is padded; by tokens, so that a batch of short texts is worth its start. Texts that
    would be padded by a quarter are left to the next batch, once a quarter of the budget is filled.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        batch = order[start : start + max(1, budget // longest)]
        enough = max(1, budget // (4 * longest))
        while len(batch) > enough and lengths[batch[-1]] * 1.25 < longest:
            batch.pop()
        yield batch
        start += len(batch)
