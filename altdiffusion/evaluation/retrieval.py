"""Runs systems on a data set of images with captions: `altdiffusion evaluate retrieval`.

data = read_captions("flickr30k_cn_test.txt", "flickr30k-images")
for result in evaluate_retrieval(map(load_system, ["mini", ...]), data):
    print(result.system, result.metrics.mean)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from altdiffusion.data.table import SkipLog
from altdiffusion.errors import InputError
from altdiffusion.evaluation.datasets.captioned import CaptionedImages, Problem
from altdiffusion.evaluation.datasets.decoding import good_batches
from altdiffusion.evaluation.datasets.known_sets import known_set
from altdiffusion.evaluation.paper_results import FLICKR30K, PublishedRow, published_rows
from altdiffusion.evaluation.systems.base import System, tell_language
from altdiffusion.metrics import RetrievalMetrics, retrieval_metrics_of_features


@dataclass(frozen=True)
class RetrievalResult:
    """What one system did on one data set."""

    system: str
    data: str
    language: str
    metrics: RetrievalMetrics
    images: int  # searched through
    captions: int
    seconds: float  # of decoding, features and metrics
    problems: Sequence[Problem]  # captions and images that were left out
    published: Sequence[PublishedRow]  # what may be compared with it: empty unless the data is a known test set
    notes: Sequence[str]
    protocol: Mapping[str, str] = field(default_factory=dict)  # of the data, and the system's own


def evaluate_retrieval(
    systems: Iterable[System],
    data: CaptionedImages,
    *,
    batch_size: int = 32,
    max_skipped: float = 0.01,
    published: bool | None = None,
) -> Iterator[RetrievalResult]:
    """Text to image and image to text, for one system after the other; a generator may load each when its turn comes.

    batch_size: images, or captions, that a system is given at once.
    max_skipped: the fraction of images, 0 to 1, that may be unreadable; they and their captions are left out, and listed
        in the results.
    published: whether published metrics stand beside the measured ones, Flickr30k's if the data is no known set; None: if
        the data has the shape of a test set with published results.
    Raises InputError: too many bad images, similarities that are NaN, more or fewer features than items.
    """
    data_set = known_set(data) or (FLICKR30K if published else None)
    for system in systems:
        started = time.monotonic()
        tell_language(system, data.language)
        images, bad = _image_features(system, data, batch_size, max_skipped)
        data = data.without(list(bad), [Problem(data.images[i].where, reason) for i, reason in bad.items()])
        if not data.captions:
            raise InputError(f"{data.name}: no caption is left, none of its images can be read")
        texts = _text_features(system, data.captions, batch_size)
        token_wise = texts.ndim == 3
        metrics = retrieval_metrics_of_features(
            texts, images, data.pairs, system.similarity, system.image_to_text_similarity if token_wise else None
        )
        yield RetrievalResult(
            system=system.name,
            data=data.name,
            language=data.language,
            metrics=metrics,
            images=len(data.images),
            captions=len(data.captions),
            seconds=time.monotonic() - started,
            problems=list(data.problems),
            published=published_rows(system.name, data.language, data_set)
            if data_set and published is not False
            else [],
            notes=[*data.notes, *([f"{system.name}: {system.note}"] if system.note else [])],
            protocol=_protocol_of(data) | getattr(system, "protocol", {}),
        )


def _protocol_of(data: CaptionedImages) -> dict[str, str]:
    return {
        "captions": "all captions of each image" if data.used == "all" else "the first caption of each image",
        "pool": f"{len(data.images)} images, {len(data.captions)} captions",
        "data": ", ".join(part for part in (data.name, data.form, data.revision) if part),
    }


@torch.no_grad()
def _image_features(
    system: System, data: CaptionedImages, batch_size: int, max_skipped: float
) -> tuple[Tensor, dict[int, str]]:
    """Features of the good images, (n, width) or (n, tokens, width), and the reasons of the bad ones by index."""
    features: list[Tensor] = []
    bad: dict[int, str] = {}
    for batch in good_batches(data.images, batch_size, SkipLog(max_skipped), f"{system.name}: images", bad):
        images = [image for _, image in batch]
        features.append(_one_each(system, images, system.image_features(images)))
    return _joined(features) if features else torch.empty(0, 0), bad


@torch.no_grad()
def _text_features(system: System, captions: Sequence[str], batch_size: int) -> Tensor:
    """In the captions' order; computed in the order of their lengths, so that little is padded."""
    order = sorted(range(len(captions)), key=lambda index: len(captions[index]))
    features: list[Tensor] = []
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, f"{system.name}: captions", mininterval=5):
        batch = [captions[index] for index in order[start : start + batch_size]]
        features.append(_one_each(system, batch, system.text_features(batch)))
    return _joined(features)[torch.tensor(order).argsort()]


def _one_each(system: System, items: Sequence[object], features: Tensor) -> Tensor:
    if len(features) != len(items):
        raise InputError(f"{system.name} returned {len(features)} features, expected {len(items)}")
    return features


def _joined(features: list[Tensor]) -> Tensor:
    """One tensor; batches of a token-wise system are padded with zeros to the most tokens."""
    if features[0].ndim == 3:
        tokens = max(batch.shape[1] for batch in features)
        features = [F.pad(batch, (0, 0, 0, tokens - batch.shape[1])) for batch in features]
    return torch.cat(features)
