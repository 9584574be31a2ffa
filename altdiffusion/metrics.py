"""Metrics of retrieval, of classification and of generated images: pure functions of similarities.

Retrieval counts a query as answered at K if any of its right items is among the K most similar ones, as the model
card's table does. Of equally similar items the first in the data counts as more similar, as in Chinese-CLIP's scripts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

import torch
from torch import Tensor

from altdiffusion.errors import InputError

KS = (1, 5, 10)
ROUNDING = 1e-6  # of a score: what one image and its prompt can differ by from batch to batch

Similarity = Callable[[Tensor, Tensor], Tensor]  # of text features and image features: float (texts, images)


@dataclass(frozen=True)
class RetrievalMetrics:
    """Recall at 1, 5 and 10 in both directions, per cent."""

    text_to_image: tuple[float, float, float]
    image_to_text: tuple[float, float, float]

    @property
    def mean(self) -> float:
        """MR: the mean of the six recalls."""
        return fmean((*self.text_to_image, *self.image_to_text))


@dataclass(frozen=True)
class Estimate:
    """A metric of a sample, with the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def recall_at_k(similarity: Tensor, relevant: Tensor, k: int) -> float:
    """The fraction of queries, 0 to 1, that have a relevant item among their k most similar ones.

    similarity: float (queries, items). relevant: bool (queries, items), at least one true in each row.
    Raises InputError where a similarity is NaN.
    """
    _, top = _most_similar(_without_nan(similarity), k)
    return int(relevant.gather(1, top).any(1).sum()) / len(similarity)


def retrieval_metrics(similarity: Tensor, positives: Tensor, image_to_text: Tensor | None = None) -> RetrievalMetrics:
    """Recalls of a whole similarity matrix.

    similarity: float (texts, images). image_to_text: the same for the other direction, where it differs.
    positives: int64 (pairs, 2), the indices of a text and of an image that belong together. A text or an image in no
        pair is no query, but is searched through.
    Raises InputError: a NaN, shapes that don't fit, no pairs.
    """
    if image_to_text is not None and image_to_text.shape != similarity.shape:
        raise InputError(
            f"got similarities of {tuple(similarity.shape)} one way and {tuple(image_to_text.shape)} the other: "
            "expected (texts, images) both times"
        )
    texts, images = similarity.shape
    other = None if image_to_text is None else (lambda rows, columns: image_to_text[rows, columns])
    return _by_blocks(
        texts, images, positives, lambda rows, columns: similarity[rows, columns], other, max(texts, images)
    )


def retrieval_metrics_of_features(
    texts: Tensor,
    images: Tensor,
    positives: Tensor,
    similarity: Similarity | None = None,
    image_to_text: Similarity | None = None,
    block: int | None = None,
) -> RetrievalMetrics:
    """Recalls of features, by a block of the similarity matrix at a time; the whole matrix is never held.

    texts, images: (n, width), or (n, tokens, width) for a `similarity` that compares token by token; of any float
        dtype, also memory-mapped, as blocks become float32.
    similarity: the dot product if None. image_to_text: for the other direction, where it differs.
    positives: as in `retrieval_metrics`. block: texts, and images, in a block; chosen if None.
    Raises InputError: as `retrieval_metrics`.
    """
    if block is None:
        values = math.prod(texts.shape[1:-1]) * math.prod(images.shape[1:-1])  # compared for a text and an image
        block = max(1, int(math.sqrt(2**22 / values)))

    def of_block(function: Similarity) -> _Block:
        return lambda rows, columns: function(texts[rows].float(), images[columns].float())

    other = None if image_to_text is None else of_block(image_to_text)
    return _by_blocks(len(texts), len(images), positives, of_block(similarity or _dot), other, block)


def classification_metrics(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Top-1, top-5 and mean per-class recall, 0 to 1; the last is the mean over the classes that occur.

    scores: float (images, classes). labels: int (images,). Of equal scores the first class counts.
    Raises InputError where scores are NaN.
    """
    if scores.isnan().any():
        raise InputError("some similarities are not numbers (NaN): the model's weights or its dtype are at fault")
    order = scores.argsort(dim=1, descending=True, stable=True)
    hits = order == labels[:, None]
    recalls = [hits[labels == label, 0].double().mean() for label in torch.unique(labels)]
    return {
        "top1": hits[:, 0].double().mean().item(),
        "top5": hits[:, :5].any(1).double().mean().item(),
        "mean_per_class_recall": torch.stack(recalls).mean().item(),
    }


def own_prompt_first(scores: Tensor, prompts: Sequence[str]) -> list[bool]:
    """For each image, whether its own prompt fits it better than all others; the mean is the R-precision.

    scores: float (images, prompts), image i generated from prompt i. A tie is lost: a scorer that can't tell prompts
    apart must not look perfect. The same prompt at another place is no rival.
    """
    index = {prompt: first for first, prompt in enumerate(dict.fromkeys(prompts))}
    indices = torch.tensor([index[prompt] for prompt in prompts])
    rivals = scores.masked_fill(indices[:, None] == indices, -torch.inf).max(1).values
    return (scores.diagonal() > rivals + ROUNDING).tolist()


def bootstrap_mean(values: Sequence[float]) -> Estimate:
    """The mean of some values, such as which images are right, and how far another sample's could lie from it.

    The interval is the bootstrap's (percentiles of 2,000 resamples, always the same). Where all values are equal it has
    no width, which a small sample does not deserve. Raises InputError for no values.
    """
    if not len(values):
        raise InputError("got no values: expected at least one to take a mean of")
    sample = torch.tensor([float(value) for value in values], dtype=torch.float64)
    return _interval(sample.mean().item(), sample[_resamples(len(sample))].mean(1))


def parity(reached: Sequence[float], in_english: Sequence[float]) -> Estimate:
    """How much of what English prompts reach the same prompts in another language reach: 1 is all of it.

    reached, in_english: of each prompt what its image earns, such as whether it is right, in the same order. Prompts are
    resampled as pairs, so that what is hard in both languages widens no interval.
    Raises InputError where the two don't pair, or where English reaches nothing.
    """
    if len(reached) != len(in_english):
        raise InputError(f"got {len(reached)} prompts and {len(in_english)} in English: expected the same prompts")
    ours, english = (torch.tensor([float(value) for value in values]).double() for values in (reached, in_english))
    if not english.sum():
        raise InputError(f"of {len(english)} English prompts none reaches anything: there is nothing to compare with")
    rows = _resamples(len(english))
    denominators = english[rows].sum(1)
    ratios = ours[rows].sum(1)[denominators != 0] / denominators[denominators != 0]
    return _interval((ours.sum() / english.sum()).item(), ratios)


def _resamples(count: int) -> Tensor:
    """int64 (2000, count): indices of samples drawn with replacement, always the same."""
    return torch.randint(count, (2000, count), generator=torch.Generator().manual_seed(0))


def _interval(value: float, resampled: Tensor) -> Estimate:
    low, high = torch.quantile(resampled, torch.tensor([0.025, 0.975], dtype=resampled.dtype)).tolist()
    return Estimate(value, low, high)


_Block = Callable[[slice, slice], Tensor]  # similarities of some texts and some images
_Best = tuple[Tensor, Tensor]  # (queries, at most 10): similarities, greatest first, and indices of the items


def _by_blocks(
    texts: int, images: int, positives: Tensor, to_images: _Block, to_texts: _Block | None, block: int
) -> RetrievalMetrics:
    """to_texts: None if both directions share their similarities."""
    _check_positives(positives, texts, images)
    by_text = _Answers(positives[:, 0], positives[:, 1], images)
    by_image = _Answers(positives[:, 1], positives[:, 0], texts)
    to_image_hits = to_text_hits = torch.zeros(len(KS), dtype=torch.int64)
    best_images: dict[int, _Best] = {}  # by the first text of a block
    best_texts: dict[int, _Best] = {}  # by the first image of a block
    spans = [_spans(texts, block), _spans(images, block)]
    # the larger side is the outer loop: the bests that are kept meanwhile are those of the smaller one
    for outer, inner in product(*spans if texts >= images else reversed(spans)):
        rows, columns = (outer, inner) if texts >= images else (inner, outer)
        similarity = _without_nan(to_images(rows, columns), rows, columns)
        best_images[rows.start] = _merge(best_images.get(rows.start), similarity, columns.start)
        if to_texts is not None:
            similarity = _without_nan(to_texts(rows, columns), rows, columns)
        best_texts[columns.start] = _merge(best_texts.get(columns.start), similarity.T.contiguous(), rows.start)
        if columns.stop == images:
            to_image_hits = to_image_hits + by_text.hits(best_images.pop(rows.start)[1], rows.start)
        if rows.stop == texts:
            to_text_hits = to_text_hits + by_image.hits(best_texts.pop(columns.start)[1], columns.start)
    return RetrievalMetrics(by_text.recalls(to_image_hits), by_image.recalls(to_text_hits))


class _Answers:
    """Which items are right for which queries."""

    def __init__(self, queries: Tensor, items: Tensor, item_count: int) -> None:
        self._items = item_count
        self._codes = torch.unique(queries.cpu() * item_count + items.cpu())  # one number a pair, sorted
        self._queries = len(torch.unique(queries))

    def hits(self, best: Tensor, first: int) -> Tensor:
        """How many queries, from index `first` on, have a right item among their K best: int64 (3,)."""
        best = best.cpu()
        codes = torch.arange(first, first + len(best))[:, None] * self._items + best
        places = torch.searchsorted(self._codes, codes).clamp_(max=len(self._codes) - 1)
        right = self._codes[places] == codes
        return torch.stack([right[:, :k].any(1).sum() for k in KS])

    def recalls(self, hits: Tensor) -> tuple[float, float, float]:
        at_1, at_5, at_10 = (count / self._queries * 100 for count in hits.tolist())
        return at_1, at_5, at_10


def _most_similar(similarity: Tensor, k: int) -> _Best:
    """The k greatest of each row, greatest first; of equal ones the one on the left first."""
    k = min(k, similarity.shape[1])
    values, indices = similarity.topk(min(k + 1, similarity.shape[1]), dim=1)
    tied = (values[:, 1:] == values[:, :-1]).any(1)  # topk leaves open which of them it takes, and in what order
    if tied.any():
        ordered = similarity[tied].sort(dim=1, descending=True, stable=True)
        values[tied], indices[tied] = ordered.values[:, : values.shape[1]], ordered.indices[:, : values.shape[1]]
    return values[:, :k], indices[:, :k]


def _merge(best: _Best | None, similarity: Tensor, first: int) -> _Best:
    """The best of what was seen and of a new block, float (queries, items), whose first item has the index `first`."""
    values, indices = _most_similar(similarity, max(KS))
    indices = indices + first
    if best is None:
        return values.clone(), indices
    values, indices = torch.cat([best[0], values], 1), torch.cat([best[1], indices], 1)
    values, places = _most_similar(values, max(KS))  # what was seen stands on the left and has lower indices
    return values.clone(), indices.gather(1, places)


def _without_nan(similarity: Tensor, rows: slice = slice(0), columns: slice = slice(0)) -> Tensor:
    """The similarities as they are. Raises InputError for a NaN. rows, columns: where the block lies in the matrix."""
    if similarity.isnan().any():
        row, column = similarity.isnan().nonzero()[0].tolist()
        raise InputError(
            f"similarities: got NaN at row {row + (rows.start or 0)}, column {column + (columns.start or 0)}: "
            "a model's features are damaged or overflowed; try float32"
        )
    return similarity


def _check_positives(positives: Tensor, texts: int, images: int) -> None:
    if positives.ndim != 2 or positives.shape[1] != 2 or not len(positives):
        raise InputError(f"positives: got shape {tuple(positives.shape)}, expected (pairs, 2) and at least one pair")
    least, most = int(positives.min()), positives.amax(0).tolist()
    if least < 0 or most[0] >= texts or most[1] >= images:
        raise InputError(
            f"positives: got text {most[0]}, image {most[1]} and a least index of {least}, expected 0 to {texts - 1} and "
            f"0 to {images - 1}, as there are {texts} texts and {images} images"
        )


def _spans(count: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _dot(texts: Tensor, images: Tensor) -> Tensor:
    return texts @ images.T
