"""AltCLIP, in any layout, as `PromptScorer` computes it."""

from __future__ import annotations

from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.evaluation.systems.base import Options
from altdiffusion.evaluation.systems.dual_encoder import DualEncoder
from altdiffusion.evaluation.systems.vocabulary import padded
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS


def load_altclip(name: str, options: Options) -> DualEncoder:
    """An AltCLIP from a folder or the hub, or "mini", the embedded default. Texts are cut at 77 tokens."""
    scorer = PromptScorer.from_pretrained(
        name,
        dtype=options.dtype,
        device=str(options.device),
        allow_pickle=options.allow_pickle,
        batch_size=options.batch_size,
    )
    return DualEncoder(
        "AltCLIP",
        lambda images: scorer.image_features(list(images)),
        lambda texts: scorer.text_features(list(texts)),
        options.batch_size,
        protocol=padded(MAX_TOKENS),
    )
