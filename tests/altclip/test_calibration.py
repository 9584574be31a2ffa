"""A calibration alone: percentiles and probabilities of cosines whose distribution is known, which pairs count, its files."""

import json

import numpy as np
import pytest

from altdiffusion import InputError
from altdiffusion.altclip.calibration import (
    ABOUT,
    LEVELS,
    MAX_PAIRS,
    TENSORS,
    Calibration,
    cosines_of_pairs,
    fit_logistic,
    language_scores,
)

RNG = np.random.default_rng(0)
WRONG, RIGHT = RNG.normal(0.1, 0.05, 20_000), RNG.normal(0.3, 0.05, 20_000)
WEIGHTS = [0.1, -0.2, 0.0]


def calibration(**languages):
    """By language (wrong, right), or wrong alone."""
    every = {
        name: language_scores(*pairs, texts=500) if isinstance(pairs, tuple) else language_scores(pairs, None, 500)
        for name, pairs in languages.items()
    }
    return Calibration(every, WEIGHTS, "made up")


BOTH = calibration(en=(WRONG, RIGHT), zh=(0.3 * WRONG + 0.02, 0.3 * RIGHT + 0.02), de=WRONG)
COSINES = np.array([-1, 0.05, 0.1, 0.15, 0.2, 0.21, 0.25, 0.3, 0.4, 1])


@pytest.mark.parametrize(("as_", "sample"), [("percentile", WRONG), ("match_percentile", RIGHT)])
def test_a_percentile_is_how_many_of_a_hundred_pairs_score_less(as_, sample):
    expected = [100 * (sample < cosine).mean() for cosine in COSINES]
    np.testing.assert_allclose(BOTH.convert(COSINES, "en", as_), expected, atol=0.2)  # of interpolation


@pytest.mark.parametrize("as_", ["percentile", "match_percentile", "probability"])
def test_a_language_whose_cosines_are_smaller_gets_the_same_scores(as_):
    english, chinese = BOTH.convert(COSINES, "en", as_), BOTH.convert(0.3 * COSINES + 0.02, "zh", as_)
    np.testing.assert_allclose(chinese, english, atol=1e-3)
    assert np.ptp(english) > 0.9


def test_the_tail_is_told_apart_where_right_pairs_lie():
    cosines = np.quantile(WRONG, [0.995, 0.999, 0.9999])
    assert BOTH.convert(cosines, "en", "percentile").tolist() == pytest.approx([99.5, 99.9, 99.99])


def test_the_probability_of_two_normal_distributions_is_the_one_of_bayes():
    """Of equal variance and as many of each: the logit is linear."""
    odds = np.exp(-((COSINES - 0.3) ** 2 - (COSINES - 0.1) ** 2) / (2 * 0.05**2))
    np.testing.assert_allclose(BOTH.convert(COSINES, "en", "probability"), odds / (1 + odds), atol=0.02)


@pytest.mark.parametrize("as_", ["percentile", "match_percentile", "probability"])
def test_scores_never_fall_while_the_cosine_rises_and_nan_stays(as_):
    scores = BOTH.convert(np.linspace(-1, 1, 2001), "en", as_)
    assert (np.diff(scores) >= 0).all()
    assert 0 <= scores[0] < scores[-1] <= (1 if as_ == "probability" else 100)
    assert np.isnan(BOTH.convert(np.array([np.nan]), "en", as_)).all()


@pytest.mark.parametrize("gap", [0.5, 0.01, 0.0])
def test_pairs_that_never_overlap_give_finite_odds(gap):
    wrong = np.linspace(-0.2, 0.2, 1000)
    slope, offset = fit_logistic(wrong, np.full(100, 0.2 + gap))
    assert np.isfinite([slope, offset]).all()
    assert slope > 0
    halfway = -offset / slope
    assert 0 < halfway < 0.2 + gap


def test_right_pairs_that_score_below_wrong_ones_give_a_flat_probability():
    slope, offset = fit_logistic(RIGHT, WRONG)
    assert slope == 0
    assert np.isfinite(offset)


@pytest.mark.parametrize("as_", ["match_percentile", "probability"])
def test_without_right_pairs_only_percentiles_are_known(as_):
    with pytest.raises(InputError, match=r"'de' holds no pairs that belong together.*matching=True"):
        BOTH.convert(COSINES, "de", as_)


@pytest.mark.parametrize(
    ("name", "found"),
    [("zh", "zh"), ("zh-CN", "zh"), ("ZH_hans", "zh"), (" en ", "en"), ("de-AT", "de"), ("fr", None), ("", None)],
)
def test_a_region_is_part_of_its_language(name, found):
    assert BOTH.find(name) == found


def unit(rows, features=16):
    values = RNG.normal(size=(rows, features))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_pairs_of_the_same_image_or_text_are_not_wrong():
    images, texts = unit(4), unit(4)
    images[2], texts[3] = images[0], texts[1]  # two captions of one image; one caption of two images
    wrong, right = cosines_of_pairs(images, texts, ["a", "b", "c", "b"], matching=True)
    table = images @ texts.T
    np.testing.assert_allclose(right, table.diagonal())
    left = [(0, 1), (0, 3), (1, 0), (1, 2), (2, 1), (2, 3), (3, 0), (3, 2)]
    np.testing.assert_allclose(wrong, [table[pair] for pair in left])
    every, none = cosines_of_pairs(images, texts[:3], ["a", "b", "c"], matching=False)
    assert none is None
    np.testing.assert_allclose(every, (images @ texts[:3].T).ravel())


def test_of_very_many_pairs_some_of_every_image_and_text_are_measured():
    count = 3000
    images, texts = unit(count, 4).astype(np.float32), unit(count, 4).astype(np.float32)
    wrong, right = cosines_of_pairs(images, texts, list(map(str, range(count))), matching=True)
    assert len(right) == count
    assert 0.8 * MAX_PAIRS < len(wrong) <= MAX_PAIRS
    assert abs(np.quantile(wrong, 0.9) - np.quantile(images[::7] @ texts[::7].T, 0.9)) < 0.01


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-4), ("float16", 0.7)])
def test_what_is_saved_is_loaded(tmp_path, dtype, atol):
    BOTH.save(tmp_path, dtype)
    loaded = Calibration.load(tmp_path)
    assert list(loaded.languages) == ["en", "zh", "de"]
    assert (loaded.made_from, loaded.languages["zh"].texts) == ("made up", 500)
    for as_, name in [("percentile", "en"), ("percentile", "de"), ("match_percentile", "zh"), ("probability", "zh")]:
        np.testing.assert_allclose(loaded.convert(COSINES, name, as_), BOTH.convert(COSINES, name, as_), atol=atol)
    assert loaded.languages["en"].told_apart == pytest.approx(BOTH.languages["en"].told_apart, abs=1e-4)
    assert loaded.languages["de"].right is None
    assert loaded.fits([0.1004, -0.2, 0.0])  # as bfloat16 rounds
    assert not loaded.fits([0.12, -0.2, 0.0])
    assert not loaded.fits(WEIGHTS[:2])


def test_a_folder_without_one_has_none_and_a_missing_folder_is_refused(tmp_path):
    assert Calibration.load(tmp_path) is None
    with pytest.raises(InputError, match="no folder"):
        BOTH.save(tmp_path / "none")


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGE = {
    "one file alone": lambda folder: (folder / TENSORS).unlink(),
    "the other alone": lambda folder: (folder / ABOUT).unlink(),
    "no JSON": lambda folder: (folder / ABOUT).write_text("{"),
    "another JSON": lambda folder: (folder / ABOUT).write_text("[1]"),
    "cut off": lambda folder: (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-9]),
    "more languages than rows": lambda folder: change(
        folder / ABOUT, languages={str(i): {"texts": 1} for i in range(4)}
    ),
    "a later format": lambda folder: change(folder / ABOUT, format=99),
    "no weights": lambda folder: change(folder / ABOUT, weights=None, languages=None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_named_in_one_line(tmp_path, damage):
    BOTH.save(tmp_path)
    DAMAGE[damage](tmp_path)
    with pytest.raises(InputError, match=r"calibrat|format 99") as raised:
        Calibration.load(tmp_path)
    assert "\n" not in str(raised.value)


def test_quantiles_that_fall_are_no_calibration(tmp_path):
    falling = language_scores(WRONG, None, 500)
    falling.wrong[:] = falling.wrong[::-1].copy()
    Calibration({"en": falling}, WEIGHTS).save(tmp_path)
    with pytest.raises(InputError, match="no rising quantiles"):
        Calibration.load(tmp_path)


def test_levels_rise_from_nothing_to_everything():
    assert (LEVELS[0], LEVELS[-1]) == (0, 100)
    assert (np.diff(LEVELS) > 0).all()
