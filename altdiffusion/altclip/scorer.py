"""How well images fit prompts, in any of AltCLIP's languages, one or a million of them.

    scorer = PromptScorer.from_pretrained()                  # the embedded default; or "BAAI/AltCLIP-m9", or a folder
    scorer.score(["cat.png", "dog.png"], ["一只猫", "a dog"])   # cosines, (2, 2)
    scorer.rank(images, "一只猫")                              # [(index, score)], best first
    scorer.score("cat.png", "一只猫", as_="percentile")        # the same scale in every language, see calibration.py
    scorer.score_pairs([("cat.png", "一只猫"), ...])           # a score a pair, in flat memory

Exact: equal to AltCLIPModel on texts padded to 77, within 1e-5 in float32. The speed comes from texts sorted by length
and never padded beyond the longest of their batch, from images decoded while the model computes, and from cached features.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AltCLIPModel

from altdiffusion.altclip.calibrated_scores import (
    check_kind,
    convert,
    load_calibration,
    measure,
    pair_languages,
    prompt_languages,
    usable_texts,
    warn_of_weak,
    weights_of,
)
from altdiffusion.altclip.calibration import Calibration
from altdiffusion.altclip.feature_cache import FeatureCache, file_key
from altdiffusion.altclip.image_inputs import AnyImage, AnyImages, as_image, as_list
from altdiffusion.altclip.length_batches import by_length
from altdiffusion.altclip.model import load_with_processor
from altdiffusion.altclip.score_kinds import ScoreAs
from altdiffusion.devices import choose_device
from altdiffusion.errors import InputError
from altdiffusion.prefetch import prefetch
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS, pad, tokens

logger = logging.getLogger(__name__)

PAIRS_AT_ONCE = 1024  # whose texts are sorted by length together
# an image's key, its features if they are cached, else its pixels
_Read: TypeAlias = "tuple[Hashable, Tensor | None, Any] | InputError"


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
        calibration: Calibration | None = None,
    ) -> None:
        """
        model, processor: loaded ones, transformers' or ours. device: None leaves the model where it is.
        batch_size: images computed at once; and as many texts as come to the work of `batch_size` texts of 77 tokens.
        cache_size: texts, and images, whose features are cached (3 KB each for AltCLIP); 0: none.
        workers: threads that decode; None: one a core, at most 8.
        calibration: of this model, for scores as percentiles and probabilities.
        """
        if batch_size < 1 or cache_size < 0 or (workers is not None and workers < 1):
            raise InputError(
                f"batch_size {batch_size}, cache_size {cache_size}, workers {workers}: expected at least 1, 0 and 1"
            )
        self.model = model.eval() if device is None else model.eval().to(device)
        self.processor = processor
        self.batch_size = batch_size
        self._workers = workers or min(8, os.cpu_count() or 1)
        self.calibration = calibration
        self._texts, self._images = FeatureCache(cache_size), FeatureCache(cache_size)

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
        calibration: str | Path | None = None,
        **options: Any,
    ) -> PromptScorer:
        """Load an AltCLIP: None or "mini" (the embedded default), an id on the hub, or a folder in any layout.

        dtype: of the weights, or its name; None means float32, the exact one. device: None takes the best there is.
        calibration: the folder of one that isn't beside the model; None takes the one that is, if there is any.
        allow_pickle, options: as in `AltCLIP.from_pretrained`. The rest: as in `PromptScorer`. Raises InputError.
        """
        target = choose_device(device)
        loaded, processor, folder = load_with_processor(
            model, dtype=dtype, allow_pickle=allow_pickle, caller="PromptScorer.from_pretrained", **options
        )
        return cls(
            loaded,
            processor,
            device=target,
            batch_size=batch_size,
            cache_size=cache_size,
            workers=workers,
            calibration=load_calibration(loaded, folder, calibration),
        )

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines with before a softmax: 100 for the published ones."""
        return self.model.logit_scale.detach().float().exp().item()

    def score(
        self,
        images: AnyImages,
        prompts: str | Iterable[str],
        bad: dict[int, str] | None = None,
        *,
        as_: ScoreAs = "cosine",
        language: str | Sequence[str] | None = None,
        on_done: Callable[[int], object] | None = None,
    ) -> Tensor:
        """Cosine similarities in [-1, 1], or what `as_` says: float32 (images, prompts) on the CPU.

        bad: None raises InputError at the first image that can't be used, and names its index. A dictionary gets the
            index and the defect of each instead; their rows are NaN, and all others are computed.
        as_: "percentile" or "match_percentile" (0 to 100), "probability" (0 to 1): by the calibration of a prompt's
            language, see calibration.py. language: of all prompts, or of each; None: found for each by py3langid. A prompt in
            a language without calibration has a column of NaN, and a warning says so; InputError where all are, and where
            there is no calibration.
        on_done: told how many more images are done, again and again.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        languages = prompt_languages(self.calibration, texts, as_, language)
        columns = self.text_features(texts)  # first: what is wrong with few prompts shows before many images are read
        cosines = (self.image_features(images, bad, on_done) @ columns.T).clamp(-1, 1)
        return convert(self.calibration, cosines, languages, as_)

    def rank(
        self,
        images: AnyImages,
        prompt: str,
        bad: dict[int, str] | None = None,
        *,
        as_: ScoreAs = "cosine",
        language: str | None = None,
    ) -> list[tuple[int, float]]:
        """[(index of the image, its score)], best first; equal cosines in the order given. bad, as_, language: as in `score`.

        Images in `bad` are left out.
        """
        if not isinstance(prompt, str):
            raise InputError(f"got a {type(prompt).__name__} to rank by, expected one prompt; `score` takes several")
        languages = prompt_languages(self.calibration, [prompt], as_, language)
        cosines = self.score(images, prompt, bad)
        good = [index for index, cosine in enumerate(cosines[:, 0].tolist()) if not math.isnan(cosine)]
        scores = convert(self.calibration, cosines, languages, as_)
        # by the cosine, as percentiles are equal beyond their ends
        return [(index, scores[index, 0].item()) for index in sorted(good, key=lambda index: -cosines[index, 0].item())]

    def score_pairs(
        self,
        pairs: Iterable[tuple[AnyImage, str] | tuple[AnyImage, str, str]],
        bad: dict[int, str] | None = None,
        *,
        as_: ScoreAs = "cosine",
        language: str | None = None,
    ) -> Iterator[float]:
        """The score of each (image, text) or (image, text, language), in their order, while they are read: memory stays flat.

        bad: as in `score`, by the pair's index; its score is NaN. as_, language: as in `score`, a language in a pair comes
        first; a pair without a calibrated language is bad.
        """
        check_kind(self.calibration, as_, language)
        size = self.batch_size * max(1, PAIRS_AT_ONCE // self.batch_size)
        first, warned = 0, set[str]()
        with closing(prefetch(self._read_pair, pairs, 2 * self.batch_size, self._workers)) as reads:
            while True:
                defects: dict[int, str] = {}
                texts, given, cosines = self._pair_cosines(islice(reads, size), defects)
                if not texts:
                    return
                given = [own or language for own in given]
                languages = pair_languages(self.calibration, texts, as_, given, defects, warned)
                for index in sorted(defects):
                    _report(bad, first + index, "pair", defects[index])
                yield from convert(self.calibration, cosines[None], languages, as_)[0].tolist()
                first += len(texts)

    def _pair_cosines(
        self, reads: Iterable[tuple[_Read, Any, str | None]], defects: dict[int, str]
    ) -> tuple[list[str], list[str | None], Tensor]:
        """Texts, their languages as they are given, and the cosines of some pairs; of those in `defects` text "" and NaN."""
        texts: list[str] = []
        languages: list[str | None] = []
        no_text: dict[int, str] = {}

        def images() -> Iterator[_Read]:
            for index, (image, text, language) in enumerate(reads):
                if not isinstance(text, str):
                    no_text[index] = f"text is a {type(text).__name__}, expected a string"
                texts.append(text if isinstance(text, str) else "")
                languages.append(language)
                yield image

        rows = self._image_rows(images(), defects)
        columns = self.text_features(texts, defects)
        defects.update(no_text)
        table = self._table(len(texts), {index: row for index, row in rows.items() if index not in defects})
        return texts, languages, (table * columns).sum(1).clamp(-1, 1)

    def calibrate(
        self,
        images: AnyImages,
        texts: Mapping[str, Sequence[str | None]],
        *,
        matching: bool = True,
        made_from: str = "",
        bad: dict[int, str] | None = None,
        on_done: Callable[[int], object] | None = None,
    ) -> Calibration:
        """Measure each language's cosines on this model; from then on `as_` goes by them. `save` keeps them, see calibration.py.

        texts: by language ("zh"). matching: text i belongs to image i, None where it has none, and to no image that differs
            where the text does; False: no text belongs to any image, and only percentiles will be known.
        made_from: said in the file, such as "Flickr30k's validation set". bad, on_done: as in `score`.
        A language with fewer than 100 different texts is left out, and a warning says so. Raises InputError where all are.
        """
        images = as_list(images)
        usable = usable_texts(texts, len(images) if matching else None)
        defects: dict[int, str] = {}
        seen = self.image_features(images, defects, on_done)
        for index, defect in defects.items():
            _report(bad, index, "image", defect)
        good = [index for index in range(len(images)) if index not in defects]
        languages = {
            language: measure(seen, good, self.text_features, pairs, matching, language)
            for language, pairs in usable.items()
        }
        self.calibration = Calibration(languages, weights_of(self.model), made_from)
        warn_of_weak(self.calibration, languages)
        return self.calibration

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

    def image_features(
        self, images: AnyImages, bad: dict[int, str] | None = None, on_done: Callable[[int], object] | None = None
    ) -> Tensor:
        """Unit vectors, float32 (images, projection_dim) on the CPU. bad, on_done: as in `score`.

        Of an iterator only those images are held that are computed next.
        """
        count = 0

        def counted() -> Iterator[AnyImage]:
            nonlocal count
            for image in images if isinstance(images, Iterator) else as_list(images):
                count += 1
                yield image

        reads = prefetch(self._read, counted(), 2 * self.batch_size, self._workers)
        rows = self._image_rows(reads, bad, on_done)
        return self._table(count, rows)

    def _image_rows(
        self, reads: Iterable[_Read], bad: dict[int, str] | None, on_done: Callable[[int], object] | None = None
    ) -> dict[int, Tensor]:
        """The features of images as they are read, by index; computed in batches."""
        rows: dict[int, Tensor] = {}
        batch: list[tuple[int, Hashable, Tensor]] = []

        def encode_batch() -> None:
            if batch:
                pixels = torch.stack([pixels for _, _, pixels in batch]).to(self.model.device, self.model.dtype)
                for (index, key, _), row in zip(batch, self._encode_pixels(pixels), strict=True):
                    rows[index] = row
                    self._images.put(key, row)
                done(len(batch))
                batch.clear()

        done = on_done or (lambda count: None)
        for index, read in enumerate(reads):
            if isinstance(read, InputError):
                _report(bad, index, "image", str(read))
                done(1)
                continue
            key, cached, pixels = read
            if cached is not None:
                rows[index] = cached
                done(1)
                continue
            batch.append((index, key, pixels))
            if len(batch) == self.batch_size:
                encode_batch()
        encode_batch()
        return rows

    def forget(self) -> None:
        """Empty the caches: for a model whose weights have changed."""
        self._texts.clear()
        self._images.clear()

    def _read_pair(self, pair: tuple[Any, ...]) -> tuple[_Read, str, str | None]:
        if not isinstance(pair, tuple | list) or len(pair) not in (2, 3):
            raise InputError(f"got {str(pair)[:60]!r} as a pair, expected (image, text) or (image, text, language)")
        image, text, *language = pair
        return self._read(image), text, next(iter(language), None)

    def _read(self, image: AnyImage) -> _Read:
        """(key, cached features or None, if None the pixels for the model); runs in threads."""
        try:
            decoded, key = None, file_key(image) if isinstance(image, str | Path) else None
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


def _unit(features: Tensor) -> Tensor:
    unit = F.normalize(features.float(), dim=-1).cpu()
    if not unit.isfinite().all():
        raise InputError(
            f"the model's features are NaN: damaged weights, or too large ones for {features.dtype}; dtype=torch.float32 is exact"
        )
    return unit


def _report(bad: dict[int, str] | None, index: int, kind: str, defect: str) -> None:
    if bad is None:
        raise InputError(f"{kind} {index}: {defect}")
    bad[index] = defect
