"""What AltCLIP saves is a model of sentence-transformers: its `encode` gives the features that `PromptScorer` has."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import small_altclip
from PIL import Image
from sentence_transformers import SentenceTransformer

from altdiffusion import AltCLIP, AltCLIPProcessor, PromptScorer

PROMPTS = ["一只猫", "a dog on a blue background", "кошка " * 100]


@pytest.mark.parametrize("source", ["mini", "small"])
def test_features_are_prompt_scorers(tmp_path, source):
    if source == "small":
        small_altclip.save_small(tmp_path / "small")
        source = str(tmp_path / "small")
    AltCLIP.from_pretrained(source).save_pretrained(tmp_path / "saved")
    AltCLIPProcessor.from_pretrained(source).save_pretrained(tmp_path / "saved")
    encoder = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    scorer = PromptScorer.from_pretrained(source, device="cpu")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8))
    texts, images = (encoder.encode(each, normalize_embeddings=True) for each in (PROMPTS, [image]))
    assert np.abs(texts - scorer.text_features(PROMPTS).numpy()).max() < 1e-5
    assert np.abs(images - scorer.image_features([image]).numpy()).max() < 1e-5
    assert np.allclose(encoder.similarity(images, texts), scorer.score(image, PROMPTS), atol=1e-5)
