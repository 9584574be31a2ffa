"""mini's calibration, on images and captions that it was not made from: the same image scores alike in nine languages."""

import random

import numpy as np
import pytest

from altdiffusion import PromptScorer
from altdiffusion.toy.glyphs import (
    COLOURS,
    CONCEPTS,
    FONT,
    LANGUAGES,
    captions,
    concept_names,
    held_out,
    render,
)

pytestmark = pytest.mark.skipif(not FONT.is_file(), reason="needs Debian's fonts-noto-color-emoji")


@pytest.fixture(scope="module")
def scorer():
    return PromptScorer.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def tables(scorer):
    """By language the cosines (images, captions) of things with odd numbers on backgrounds that no training saw."""
    names, rng = {language: concept_names(language) for language in LANGUAGES}, random.Random(1)
    unseen = [
        (concept, colour)
        for concept in range(1, len(CONCEPTS), 2)
        for colour in range(len(COLOURS))
        if held_out(concept, colour)
    ]
    images = scorer.image_features([render(concept, colour) for concept, colour in unseen])
    texts = [captions(concept, colour, names, rng) for concept, colour in unseen]
    return {
        language: (images @ scorer.text_features([text[language] for text in texts]).T).numpy()
        for language in LANGUAGES
    }


def scores(scorer, tables, as_):
    """(languages, images, captions)."""
    return np.stack([scorer.calibration.convert(table, language, as_) for language, table in tables.items()])


def test_captions_of_one_image_in_nine_languages_land_within_three_percentiles(scorer, tables):
    own = scores(scorer, tables, "percentile").diagonal(axis1=1, axis2=2)
    spread = np.ptp(own, axis=0)
    assert (spread <= 3).mean() > 0.95  # of a few, mini doesn't know the thing in some language
    assert np.median(spread) < 0.1
    assert np.ptp(np.median(own, axis=1)) < 0.1


@pytest.mark.parametrize("threshold", [80, 90, 95, 99])
def test_a_threshold_lets_as_many_wrong_pairs_through_in_every_language(scorer, tables, threshold):
    wrong = scores(scorer, tables, "percentile")[:, ~np.eye(len(tables["en"]), dtype=bool)]
    through = 100 * (wrong > threshold).mean(axis=1)
    np.testing.assert_allclose(through, 100 - threshold, atol=1.5)
    assert np.ptp(through) < 1


def test_the_languages_mean_match_percentiles_are_alike(scorer, tables):
    means = scores(scorer, tables, "match_percentile").diagonal(axis1=1, axis2=2).mean(axis=1)
    assert np.ptp(means) < 3
    assert 40 < means.mean() < 60


def test_the_probability_is_as_often_right_as_it_says(scorer, tables):
    """Right and wrong pairs weighed alike, as they are in the calibration."""
    probabilities = scores(scorer, tables, "probability")
    right = probabilities.diagonal(axis1=1, axis2=2).ravel()
    wrong = probabilities[:, ~np.eye(len(tables["en"]), dtype=bool)].ravel()
    for low, high in [(0, 0.1), (0.9, 1)]:
        inside = [((low <= each) & (each <= high)).mean() for each in (right, wrong)]
        assert low - 0.02 <= inside[0] / sum(inside) <= high + 0.02
    assert (right > 0.5).mean() > 0.95
    assert (wrong < 0.5).mean() > 0.95
