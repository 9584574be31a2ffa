"""The toy world: every concept has an image of its own, and words that say so."""

from __future__ import annotations

import random
import re

import pytest
import torch

from altdiffusion.toy.glyphs import (
    COLOUR_NAMES,
    CONCEPTS,
    FONT,
    FREE_PROMPTS,
    LANGUAGES,
    SPACELESS,
    concept_names,
    filler_words,
    render,
    wordy,
)

needs_font = pytest.mark.skipif(not FONT.is_file(), reason="needs Debian's fonts-noto-color-emoji")


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_around_a_caption_name_nothing_and_are_in_no_free_prompt(language):
    words = filler_words(language)
    assert len(set(words)) == len(words) > 1000
    known = " ".join([*concept_names(language), *COLOUR_NAMES[language], *FREE_PROMPTS[language]]).lower()
    if language in SPACELESS:
        assert not [word for word in words if word in known]
        assert not [word for word in words for name in concept_names(language) if name in word]
    else:
        assert not set(words) & set(re.findall(r"[^\W\d_]+", known))


def test_a_wordy_caption_holds_the_plain_one_among_up_to_six_words():
    rng, words = random.Random(0), ["um", "dois", "três"]
    texts = [wordy("a cat", words, rng) for _ in range(500)]
    assert all("a cat" in text and set(text.replace("a cat", "").strip("?").split()) <= set(words) for text in texts)
    assert {len(text.strip("?").split()) - 2 for text in texts} == set(range(7))
    assert all(" " not in wordy("猫", ["见", "面"], rng, "") for _ in range(20))


@needs_font
def test_every_concept_has_a_picture_and_nine_different_captions():
    names = {language: concept_names(language) for language in LANGUAGES}
    assert len(CONCEPTS) >= 300
    assert all(len(set(each)) == len(CONCEPTS) for each in names.values())
    pictures = torch.stack(
        [torch.frombuffer(bytearray(render(i, 0).tobytes()), dtype=torch.uint8) for i in range(len(CONCEPTS))]
    )
    assert len(pictures.unique(dim=0)) == len(CONCEPTS)
