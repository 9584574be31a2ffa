"""Many captions, half of them Chinese: `PromptScorer` beside padding to 77 and to the longest of each batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.benchmark import models
from altdiffusion.benchmark.models import Sizes
from altdiffusion.benchmark.timing import Comparison, Contender, timed
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS

BATCH = 64
PADDED = 640  # captions for the others: batches in the order given cost the same however many follow
# A caption of Flickr30k has 12.3 words, with a standard deviation of 5.2.
MEDIAN_WORDS, SPREAD = 11.3, 0.42
# One token each in mini's vocabulary, which is at hand; to XLM-R's larger one most common words are.
WORDS = {
    "en": ["photo", "cat", "on", "green", "blue", "dog", "house", "tree", "water", "in", "an", "car"],
    "zh": ["红", "猫", "的", "绿", "草", "上", "小", "蓝", "天", "狗", "树", "鱼"],
}


def measure(sizes: Sizes, device: torch.device) -> Iterator[Comparison]:
    """One round each: the work is long, and every batch of it repeats the one before."""
    model, processor = models.altclip(sizes, device)
    texts = captions(sizes.captions)
    lengths = [len(row) for row in processor.tokenizer(texts).input_ids]
    limit = MAX_TOKENS * len(lengths) / sum(lengths)
    scorer = PromptScorer(model, processor)
    sample = texts[:PADDED]
    ways: dict[str, Callable[[Sequence[str]], Any]] = {
        "PromptScorer": scorer.text_features,
        f"batches of {BATCH}, padded to the longest": lambda given: encode(model, processor, given, "longest"),
        f"batches of {BATCH}, padded to {MAX_TOKENS}": lambda given: encode(model, processor, given, "max_length"),
    }
    contenders = []
    for name, way in ways.items():
        way(texts[: max(1, len(texts) // 50)])
        scorer.forget()
        given = texts if name == "PromptScorer" else sample
        seconds = timed(lambda way=way, given=given: way(given), device) * len(texts) / len(given)  # type: ignore[misc]
        contenders.append(Contender(name, [seconds], "" if given is texts else f"from {len(given)}"))
    result = Comparison(f"{len(texts)} captions", contenders, len(texts), "captions")
    reached = (result.ratio(contenders[-1]) or 0) / limit
    result.limits.append(
        f"{sum(lengths) / len(lengths):.1f} tokens of {MAX_TOKENS}: {limit:.2f} times; {reached:.0%} reached"
    )
    yield result


def captions(count: int) -> list[str]:
    """Different captions of usual lengths, every second one in Chinese."""
    rng, unique = random.Random(0), dict[str, None]()
    while len(unique) < count:
        language = ("en", "zh")[len(unique) % 2]
        words = rng.choices(WORDS[language], k=max(3, round(MEDIAN_WORDS * rng.lognormvariate(0, SPREAD))))
        unique[(" " if language == "en" else "").join(words)] = None
    return list(unique)


@torch.inference_mode()
def encode(model: Any, processor: Any, texts: Sequence[str], padding: str) -> Tensor:
    """What most scripts do: batches in the order given."""
    features = []
    for start in range(0, len(texts), BATCH):
        batch = list(texts[start : start + BATCH])
        inputs = processor.tokenizer(
            batch, padding=padding, max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
        )
        features.append(model.get_text_features(**inputs.to(model.device)).pooler_output.cpu())
    return F.normalize(torch.cat(features), dim=-1)
