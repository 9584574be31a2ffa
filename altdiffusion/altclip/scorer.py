"""How well images fit prompts, in any of AltCLIP's languages, one or a million of them.

    scorer = PromptScorer.from_pretrained()                  # the embedded default; or "BAAI/AltCLIP-m9", or a folder
    scorer.score(["cat.png", "dog.png"], ["一只猫", "a dog"])   # cosines, (2, 2)
    scorer.rank(images, "一只猫")                              # [(index, score)], best first

Exact: equal to AltCLIPModel on texts padded to 77, within 1e-5 in float32. The speed comes from texts sorted by length
and never padded beyond the longest of their batch, from images decoded while the model computes, and from cached features.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AltCLIPModel

from altdiffusion.altclip.image_inputs import AnyImage, AnyImages, as_image, as_list
from altdiffusion.altclip.model import load_with_processor
from altdiffusion.devices import choose_device
from altdiffusion.errors import InputError
from altdiffusion.prefetch import prefetch
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS, pad, tokens

logger = logging.getLogger(__name__)


class PromptScorer:
    """Scores images against prompts with a full AltCLIP.

    Images: a path, a PIL image, a numpy array (height, width, channels) or a tensor (channels, height, width), floats in
    [0, 1] or integers in 0 to 255; a list of any of these; an array of four dimensions, which is a list. See `as_image`.
    Prompts: a string or several. What goes beyond 77 tokens is not read, and a warning says so; an empty one raises
    InputError, as it asks for nothing.

    Features are cached: of a text by its words, of an image by its pixels, of a file by its path, size and time of
    change; the `cache_size` last used of each kind. Call `forget` after changing the model's weights.
    Safe to use from several threads. A copy (pickle, deepcopy) starts with empty caches.
    """

    def __init__(
        self,
        model: AltCLIPModel,
        processor: Any,
        *,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        cache_size: int = 10_000,
        workers: int | None = None,
    ) -> None:
        """
        model, processor: loaded ones, transformers' or ours. device: None leaves the model where it is.
        batch_size: images computed at once; and as many texts as come to the work of `batch_size` texts of 77 tokens.
        cache_size: texts, and images, whose features are cached (3 KB each for AltCLIP); 0: none.
        workers: threads that decode; None: one a core, at most 8.
        """
        if batch_size < 1 or cache_size < 0 or (workers is not None and workers < 1):
            raise InputError(
                f"batch_size {batch_size}, cache_size {cache_size}, workers {workers}: expected at least 1, 0 and 1"
            )
        self.model = model.eval() if device is None else model.eval().to(device)
        self.processor = processor
        self.batch_size = batch_size
        self._workers = workers or min(8, os.cpu_count() or 1)
        self._texts, self._images = _FeatureCache(cache_size), _FeatureCache(cache_size)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        dtype: torch.dtype | str | None = None,
        device: str | None = None,
        allow_pickle: bool = False,
        batch_size: int = 32,
        cache_size: int = 10_000,
        workers: int | None = None,
        **options: Any,
    ) -> PromptScorer:
        """Load an AltCLIP: None or "mini" (the embedded default), an id on the hub, or a folder in any layout.

        dtype: of the weights, or its name; None means float32, the exact one. device: None takes the best there is.
        allow_pickle, options: as in `AltCLIP.from_pretrained`. The rest: as in `PromptScorer`. Raises InputError.
        """
        target = choose_device(device)
        loaded, processor = load_with_processor(
            model, dtype=dtype, allow_pickle=allow_pickle, caller="PromptScorer.from_pretrained", **options
        )
        return cls(loaded, processor, device=target, batch_size=batch_size, cache_size=cache_size, workers=workers)

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines with before a softmax: 100 for the published ones."""
        return self.model.logit_scale.detach().float().exp().item()

    def score(self, images: AnyImages, prompts: str | Iterable[str], bad: dict[int, str] | None = None) -> Tensor:
        """Cosine similarities in [-1, 1]: float32 (images, prompts) on the CPU.

        bad: None raises InputError at the first image that can't be used, and names its index. A dictionary gets the
        index and the defect of each instead; their rows are NaN, and all others are computed.
        """
        texts = self.text_features(prompts)  # first: what is wrong with few prompts shows before many images are read
        return (self.image_features(images, bad) @ texts.T).clamp(-1, 1)

    def rank(self, images: AnyImages, prompt: str, bad: dict[int, str] | None = None) -> list[tuple[int, float]]:
        """[(index of the image, its score)], best first; equal scores in the order given. bad: as in `score`, left out."""
        if not isinstance(prompt, str):
            raise InputError(f"got a {type(prompt).__name__} to rank by, expected one prompt; `score` takes several")
        scores = enumerate(self.score(images, prompt, bad)[:, 0].tolist())
        return sorted((pair for pair in scores if not math.isnan(pair[1])), key=lambda pair: -pair[1])

    def text_features(self, texts: str | Iterable[str], bad: dict[int, str] | None = None) -> Tensor:
        """Unit vectors, float32 (texts, projection_dim) on the CPU. bad: as in `score`, for empty texts."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows: dict[str, Tensor] = {}
        missing: dict[str, None] = {}  # as a set, but in order
        usable = []
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"text {index} is a {type(text).__name__}, expected a string")
            if not text.strip():
                _report(bad, index, "text", "is empty, expected words that an image can fit")
                continue
            usable.append(index)
            if (row := self._texts.get(text)) is not None:
                rows[text] = row
            else:
                missing[text] = None
        rows |= self._encode_texts(list(missing))
        return self._table(len(texts), {index: rows[texts[index]] for index in usable})

    def image_features(self, images: AnyImages, bad: dict[int, str] | None = None) -> Tensor:
        """Unit vectors, float32 (images, projection_dim) on the CPU. bad: as in `score`."""
        images = as_list(images)
        rows: dict[int, Tensor] = {}
        batch: list[tuple[int, Hashable, Tensor]] = []

        def encode_batch() -> None:
            if batch:
                pixels = torch.stack([pixels for _, _, pixels in batch]).to(self.model.device, self.model.dtype)
                for (index, key, _), row in zip(batch, self._encode_pixels(pixels), strict=True):
                    rows[index] = row
                    self._images.put(key, row)
                batch.clear()

        for index, read in enumerate(prefetch(self._read, images, 2 * self.batch_size, self._workers)):
            if isinstance(read, InputError):
                _report(bad, index, "image", str(read))
                continue
            key, cached, pixels = read
            if cached is not None:
                rows[index] = cached
                continue
            batch.append((index, key, pixels))
            if len(batch) == self.batch_size:
                encode_batch()
        encode_batch()
        return self._table(len(images), rows)

    def forget(self) -> None:
        """Empty the caches: for a model whose weights have changed."""
        self._texts.clear()
        self._images.clear()

    def _read(self, image: AnyImage) -> tuple[Hashable, Tensor | None, Any] | InputError:
        """(key, cached features or None, if None the pixels for the model); runs in threads."""
        try:
            decoded, key = None, _file_key(image) if isinstance(image, str | Path) else None
            if key is None:
                decoded = as_image(image)
                key = (decoded.size, hashlib.blake2b(decoded.tobytes(), digest_size=16).digest())
            if (cached := self._images.get(key)) is not None:
                return key, cached, None
            if decoded is None:
                decoded = as_image(image)
        except InputError as error:
            return error
        return key, None, self.processor.image_processor(decoded, return_tensors="pt")["pixel_values"][0]

    @torch.no_grad()
    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return _unit(self.model.visual_projection(pooled))

    @torch.no_grad()
    def _encode_texts(self, texts: list[str]) -> dict[str, Tensor]:
        tokenizer = self.processor.tokenizer
        rows: dict[str, Tensor] = {}
        ids = tokens(tokenizer, texts)
        if full := [text for text, row in zip(texts, ids, strict=True) if len(row) == MAX_TOKENS]:
            logger.warning(
                "%d of %d texts fill the %d tokens that the model reads, what goes beyond is ignored: %r...",
                len(full), len(texts), MAX_TOKENS, full[0][:40],
            )  # fmt: skip
        for batch in by_length([len(row) for row in ids], self.batch_size * MAX_TOKENS):
            padded, mask = pad([ids[index] for index in batch], tokenizer.pad_token_id)
            device = self.model.device
            pooled = self.model.text_model(input_ids=padded.to(device), attention_mask=mask.to(device)).pooler_output
            for index, row in zip(batch, _unit(self.model.text_projection(pooled)), strict=True):
                rows[texts[index]] = row
                self._texts.put(texts[index], row)
        return rows

    def _table(self, count: int, rows: dict[int, Tensor]) -> Tensor:
        """(count, projection_dim), NaN where there is no row."""
        table = torch.full((count, self.model.config.projection_dim), float("nan"))
        for index, row in rows.items():
            table[index] = row
        return table


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


def _unit(features: Tensor) -> Tensor:
    unit = F.normalize(features.float(), dim=-1).cpu()
    if not unit.isfinite().all():
        raise InputError(
            f"the model's features are NaN: damaged weights, or too large ones for {features.dtype}; dtype=torch.float32 is exact"
        )
    return unit


def _file_key(path: str | Path) -> Hashable:
    """What identifies a file's content; None where it can't be looked at, which `as_image` then explains."""
    try:
        file = Path(path).expanduser()
        stat = file.stat()
    except (OSError, RuntimeError, ValueError):
        return None
    return os.path.abspath(file), stat.st_size, stat.st_mtime_ns


def _report(bad: dict[int, str] | None, index: int, kind: str, defect: str) -> None:
    if bad is None:
        raise InputError(f"{kind} {index}: {defect}")
    bad[index] = defect


class _FeatureCache:
    """The features last used, at most `limit`, by key. Safe to use from several threads. Copies start empty."""

    def __init__(self, limit: int) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self._rows: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable) -> Tensor | None:
        with self._lock:
            if key in self._rows:
                self._rows.move_to_end(key)
            return self._rows.get(key)

    def put(self, key: Hashable, row: Tensor) -> None:
        with self._lock:
            self._rows[key] = row.clone()  # a row of a batch would keep the whole batch
            self._rows.move_to_end(key)
            while len(self._rows) > self._limit:
                self._rows.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._rows.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._limit,)
