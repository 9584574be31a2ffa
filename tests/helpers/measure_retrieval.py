"""Memory and time of retrieval figures of 1,000,000 images and 5,000 captions.

    PYTHONPATH=tests python -m helpers.measure_retrieval [WIDTH]

Not a test: it takes minutes. Features are float16, of WIDTH numbers (default 768: 1.5 GB of them), so that the peak of
the whole process stays under the bound of 2 GB; as a float32 matrix, the similarities alone would be 20 GB.
`test_retrieval.py` shows that blocks change no figure.
"""

from __future__ import annotations

import resource
import sys
import time

import torch

from altdiffusion.metrics import retrieval_metrics_of_features

IMAGES, TEXTS, BOUND = 1_000_000, 5_000, 2e9


def features(count: int, width: int) -> torch.Tensor:
    """Made in parts, so that making them isn't what is measured."""
    made = torch.empty(count, width, dtype=torch.float16)
    for start in range(0, count, 1000):
        made[start : start + 1000] = torch.randn(1000, width) / width**0.5
    return made


def main() -> None:
    width = int(sys.argv[1]) if len(sys.argv) > 1 else 768
    images, texts = features(IMAGES, width), features(TEXTS, width)
    texts += images[:TEXTS] * 4.5 / width**0.5  # each caption is a little near its image
    positives = torch.arange(TEXTS)[:, None].expand(TEXTS, 2)
    before, started = _peak(), time.monotonic()
    figures = retrieval_metrics_of_features(texts, images, positives)
    print(f"width {width}: {time.monotonic() - started:.0f} s, MR {figures.mean:.1f}")
    print(f"peak {_peak() / 1e9:.2f} GB, of which {before / 1e9:.2f} GB before: Python, torch and the features")
    if _peak() > BOUND:
        sys.exit(f"expected at most {BOUND / 1e9:g} GB")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


if __name__ == "__main__":
    main()
