"""AltCLIP's scores as an operator of data-juicer, which reads this file where `custom_operator_paths` names it:

    custom_operator_paths: [.../altdiffusion/batch/altclip_score_filter.py]
    process:
      - altclip_score_filter: {model: BAAI/AltCLIP-m9, min_score: 0.2}

`python -c "import altdiffusion.batch as batch; print(batch.__path__[0] + '/altclip_score_filter.py')"` says where it is. It needs
`py-data-juicer` beside altdiffusion, and is imported by that alone.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any, Literal

import numpy as np
from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields
from data_juicer.utils.mm_utils import SpecialTokens, remove_special_tokens

from altdiffusion.altclip.score_kinds import ScoreAs
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.images import BadImage, read_image

STATS = "altclip_score"  # what a sample's stats have: a score for each of its images


@OPERATORS.register_module("altclip_score_filter")
class AltCLIPScoreFilter(Filter):
    """Keeps samples whose images fit their texts, in any of AltCLIP's languages.

    Texts are data-juicer's: an image stands in the chunk that has its token, and fits that chunk's words. An image that
    can't be read, or that no words stand beside, has the score NaN, which is in no range.
    """

    _accelerator = "cuda"
    _batched_op = True

    def __init__(
        self,
        model: str | None = None,
        min_score: float = 0.2,
        max_score: float = float("inf"),
        score_as: ScoreAs = "cosine",
        language: str | None = None,
        any_or_all: Literal["any", "all"] = "any",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """
        model: as in `PromptScorer.from_pretrained`. min_score, max_score: both included. score_as, language: as in its `score`.
        any_or_all: of a sample with several images, whether one must be in the range, or all.
        """
        super().__init__(*args, **kwargs)
        if any_or_all not in ("any", "all"):
            raise ValueError(f"any_or_all: expected any or all, got {any_or_all!r}")
        self.model, self.min_score, self.max_score = model, min_score, max_score
        self.score_as, self.language = score_as, language
        self.keeps = any if any_or_all == "any" else all
        self._scorer: PromptScorer | None = None

    def compute_stats_batched(self, samples: dict[str, Any], rank: int | None = None, context: bool = False) -> Any:
        """With the scores of each sample's images, all of them computed together."""
        pairs: list[tuple[Any, str]] = []
        places: list[tuple[int, int]] = []
        for index, stats in enumerate(samples[Fields.stats]):
            if STATS in stats:
                continue
            images = (samples.get(self.image_key) or [None] * (index + 1))[index] or []
            contents = samples.get(self.image_bytes_key)
            words = _words_of_images(samples[self.text_key][index], len(images))
            stats[STATS] = np.full(len(images), np.nan)
            for number, (image, text) in enumerate(zip(images, words, strict=True)):
                content = contents[index][number] if contents and contents[index] else None
                if text and (found := image if content is None else _decoded(content)) is not None:
                    pairs.append((found, text))
                    places.append((index, number))
        scorer, bad = self._loaded(rank), dict[int, str]()
        for (index, number), score in zip(
            places, scorer.score_pairs(pairs, bad, as_=self.score_as, language=self.language), strict=True
        ):
            samples[Fields.stats][index][STATS][number] = score
        return samples

    def process_batched(self, samples: dict[str, Any]) -> list[bool]:
        """Which samples are kept. Those without an image are, as data-juicer has it."""
        kept = []
        for stats in samples[Fields.stats]:
            good = [self.min_score <= score <= self.max_score for score in stats[STATS]]
            kept.append(not good or self.keeps(good))
        return kept

    def _loaded(self, rank: int | None) -> PromptScorer:
        """In the process that computes: an operator is pickled on its way there."""
        if self._scorer is None:
            device = f"cuda:{rank or 0}" if self.use_cuda() else "cpu"
            self._scorer = PromptScorer.from_pretrained(self.model, device=device)
        return self._scorer


def _words_of_images(text: str, count: int) -> list[str]:
    """The words that each image stands beside; "" where there are none."""
    words: list[str] = []
    for chunk in text.split(SpecialTokens.eoc):
        words += [remove_special_tokens(chunk).strip()] * chunk.count(SpecialTokens.image)
    return (words + [""] * count)[:count]


def _decoded(content: bytes) -> Any:
    try:
        return read_image(BytesIO(content))
    except BadImage:
        return None
