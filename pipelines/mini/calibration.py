"""How mini's AltCLIP scores in each of its languages: calibration.json and .safetensors beside its weights.

    python pipelines/mini/calibration.py [FOLDER]     # of a full AltCLIP; without one, the package's mini

Measured on images that no training saw, those of things with even numbers; the odd ones are left to try it on.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from altdiffusion import PromptScorer
from altdiffusion.checkpoints.hub import mini_folder
from altdiffusion.toy.glyphs import COLOURS, CONCEPTS, LANGUAGES, captions, concept_names, held_out, render

CAPTIONS = 8  # of each image in each language


def calibrate(folder: Path) -> None:
    """Write the calibration of the AltCLIP in a folder into it."""
    names, rng = {language: concept_names(language) for language in LANGUAGES}, random.Random(0)
    unseen = [
        (concept, colour)
        for concept in range(0, len(CONCEPTS), 2)
        for colour in range(len(COLOURS))
        if held_out(concept, colour)
    ]
    images = [render(concept, colour) for concept, colour in unseen]
    texts = [captions(concept, colour, names, rng) for _ in range(CAPTIONS) for concept, colour in unseen]
    by_language = {language: [text[language] for text in texts] for language in LANGUAGES}
    scorer = PromptScorer.from_pretrained(folder, device="cpu")
    made_from = f"{len(texts)} captions of {len(images)} held-out emoji, by pipelines/mini/calibration.py"
    scorer.calibrate(images * CAPTIONS, by_language, made_from=made_from).save(folder, "float16")


if __name__ == "__main__":
    calibrate(Path(sys.argv[1]) if len(sys.argv) > 1 else mini_folder() / "altclip")
