"""PromptScorer by a calibration: made, kept beside the model, used; and pairs, one by one and in flat memory."""

import math
import shutil

import numpy as np
import pytest
import torch
from helpers.small_altclip import save_small
from PIL import Image

from altdiffusion import InputError, PromptScorer
from altdiffusion.altclip import calibrated_scores
from altdiffusion.altclip.calibration import ABOUT, MIN_TEXTS, TENSORS
from altdiffusion.images import ImageSource

KINDS = ("percentile", "match_percentile", "probability")
ENGLISH = [f"a cat, number {number}" for number in range(120)]
CHINESE = [f"一只猫 {number}" for number in range(120)]


def pictures(count):
    """Noise."""
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(count)]


IMAGES = pictures(30) * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("calibrated") / "altclip"
    save_small(path)
    return path


@pytest.fixture(scope="module")
def plain(folder):
    """Not calibrated."""
    return PromptScorer.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def scorer(folder):
    """Calibrated for en and zh; for de by texts that belong to no image."""
    made = PromptScorer.from_pretrained(folder, device="cpu")
    german = made.calibrate(IMAGES[:30], {"de": [f"eine Katze {number}" for number in range(100)]}, matching=False)
    made.calibrate(IMAGES, {"en": ENGLISH, "zh": CHINESE}, made_from="noise").languages.update(german.languages)
    return made


def test_a_calibration_is_of_each_languages_own_pairs(scorer):
    images, texts = scorer.image_features(IMAGES), scorer.text_features(CHINESE)
    table = (images @ texts.T).numpy()
    same = np.arange(120)[:, None] % 30 == np.arange(120) % 30
    found = scorer.calibration.languages["zh"]
    assert found.wrong[0] == pytest.approx(table[~same].min(), abs=1e-5)
    assert found.wrong[-1] == pytest.approx(table[~same].max(), abs=1e-5)
    assert found.right[-1] == pytest.approx(table.diagonal().max(), abs=1e-5)
    assert found.texts == 120
    assert scorer.calibration.languages["de"].right is None


@pytest.mark.parametrize("as_", KINDS)
def test_each_prompt_is_scored_by_its_languages_calibration(scorer, as_):
    cosines = scorer.score(IMAGES[:5], ["cat", "猫", "dog"]).numpy()
    scores = scorer.score(IMAGES[:5], ["cat", "猫", "dog"], as_=as_, language=["en", "zh-CN", "en"])
    assert scores.dtype == torch.float32
    for column, language in enumerate(["en", "zh", "en"]):
        expected = scorer.calibration.convert(cosines[:, column], language, as_)
        np.testing.assert_allclose(scores[:, column], expected, rtol=1e-4)
    ranked = scorer.rank(IMAGES[:5], "猫", as_=as_, language="zh")
    assert [index for index, _ in ranked] == [index for index, _ in scorer.rank(IMAGES[:5], "猫")]
    assert [score for _, score in ranked] == pytest.approx([scores[index, 1].item() for index, _ in ranked], rel=1e-3)


def test_the_language_is_found_and_one_without_calibration_is_nan_and_said(scorer, caplog):
    pytest.importorskip("py3langid")
    texts = ["a cat on a bed", "床上的一只猫", "un chat dort sur le lit de la chambre"]
    found = scorer.score(IMAGES[:2], texts, as_="percentile")
    expected = scorer.score(IMAGES[:2], texts[:2], as_="percentile", language=["en", "zh"])
    torch.testing.assert_close(found[:, :2], expected)
    assert found[:, 2].isnan().all()
    assert "'un chat dort sur le lit de la chambre': no calibration for 'fr'" in caplog.text
    with pytest.raises(InputError, match=r"no calibration for 'fr', .* but for en, zh, de"):
        scorer.score(IMAGES[:2], texts[2], as_="percentile")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"as_": "percent"}, "expected cosine, percentile"),
        ({"language": "en"}, "as_='percentile' or the like"),
        ({"as_": "percentile", "language": "fr"}, "no calibration for 'fr', but for en, zh, de"),
        ({"as_": "percentile", "language": ["en", "zh"]}, "2 languages for 1 prompts"),
        ({"as_": "probability", "language": "de"}, "no pairs that belong together"),
    ],
)
def test_what_can_not_be_told_is_refused(scorer, arguments, reason):
    with pytest.raises(InputError, match=reason):
        scorer.score(IMAGES[:1], "cat", **arguments)


@pytest.mark.parametrize("as_", KINDS)
def test_without_a_calibration_there_are_cosines_alone(plain, as_):
    for call in (lambda: plain.score(IMAGES[:1], "cat", as_=as_), lambda: list(plain.score_pairs([], as_=as_))):
        with pytest.raises(
            InputError, match=f"{as_}: this model has no calibration: make one with PromptScorer.calibrate"
        ):
            call()


def test_too_few_texts_are_counted_and_the_other_languages_are_done(plain, caplog):
    with pytest.raises(InputError, match=f"at least {MIN_TEXTS} different texts.*'en' has 99, 'zh' has 1$"):
        plain.calibrate(IMAGES, {"en": ENGLISH[:99] + ENGLISH[:21], "zh": ["猫"] * 120})
    with pytest.raises(InputError, match="there is no language"):
        plain.calibrate(IMAGES, {})
    with pytest.raises(InputError, match="119 texts in 'en' and 120 images"):
        plain.calibrate(IMAGES, {"en": ENGLISH[:119]})
    with pytest.raises(InputError, match=r"'en' has 120 different texts .* and 0 pairs that don't"):
        plain.calibrate(IMAGES[:1] * 120, {"en": ENGLISH})
    made = plain.calibrate(IMAGES, {"en": [*ENGLISH[:110], *[None] * 10], "zh": CHINESE[:50] + [None] * 70})
    plain.calibration = None
    assert list(made.languages) == ["en"]
    assert made.languages["en"].texts == 110
    assert "'zh' has 50" in caplog.text


def test_images_that_can_not_be_read_are_left_out_or_named(plain, tmp_path):
    (tmp_path / "x.png").write_text("none")
    images = [tmp_path / "x.png", *IMAGES[1:]]
    with pytest.raises(InputError, match=r"image 0: .*no image that can be read"):
        plain.calibrate(images, {"en": ENGLISH})
    made = plain.calibrate(images, {"en": ENGLISH}, bad=(bad := {}))
    plain.calibration = None
    assert list(bad) == [0]
    assert made.languages["en"].texts == 119
    assert np.isfinite(made.languages["en"].right).all()


def test_a_language_that_the_model_hardly_knows_is_warned_of(plain, caplog):
    """Noise and captions that are numbered: right and wrong pairs are alike."""
    assert abs(plain.calibrate(IMAGES, {"en": ENGLISH}).languages["en"].told_apart - 0.5) < 0.2
    plain.calibration = None
    assert "hardly knows 'en'" in caplog.text


def test_it_is_loaded_with_the_model_that_it_was_made_for(scorer, folder, tmp_path, caplog):
    own = shutil.copytree(folder, tmp_path / "own")
    scorer.calibration.save(own)
    assert {TENSORS, ABOUT} <= {file.name for file in own.iterdir()}
    for dtype in (None, torch.bfloat16):
        loaded = PromptScorer.from_pretrained(own, device="cpu", dtype=dtype)
        assert (loaded.calibration.made_from, list(loaded.calibration.languages)) == ("noise", ["en", "zh", "de"])
    elsewhere = PromptScorer.from_pretrained(folder, device="cpu", calibration=own)
    torch.testing.assert_close(
        elsewhere.score(IMAGES[:3], "cat", as_="probability", language="en"),
        scorer.score(IMAGES[:3], "cat", as_="probability", language="en"),
        atol=1e-3, rtol=0,
    )  # fmt: skip
    with pytest.raises(InputError, match="no calibration in"):
        PromptScorer.from_pretrained(folder, device="cpu", calibration=folder)
    scorer.calibration.weights[0] += 1
    scorer.calibration.save(own)
    scorer.calibration.weights[0] -= 1
    assert PromptScorer.from_pretrained(own, device="cpu").calibration is None
    assert "made for other weights and is not used" in caplog.text
    with pytest.raises(InputError, match="made for another model"):
        PromptScorer.from_pretrained(folder, device="cpu", calibration=own)


@pytest.mark.parametrize("as_", ["cosine", "percentile", "probability"])
def test_pairs_have_the_scores_of_their_image_and_text(scorer, as_, monkeypatch):
    monkeypatch.setattr("altdiffusion.altclip.scorer.PAIRS_AT_ONCE", 32)
    texts = [*ENGLISH[:40], *CHINESE[:30]]
    languages = None if as_ == "cosine" else ["en"] * 40 + ["zh"] * 30
    expected = scorer.score(IMAGES[:70], texts, as_=as_, language=languages).diagonal()
    pairs = zip(IMAGES, texts, strict=False) if languages is None else zip(IMAGES, texts, languages, strict=False)
    got = list(scorer.score_pairs(pairs, as_=as_))
    # a percentile of 30 images' noise has steps of two, which rounding may take
    np.testing.assert_allclose(got, expected, atol=2.1 if as_ == "percentile" else 1e-5)
    if languages is not None:
        chinese = list(scorer.score_pairs(zip(IMAGES[:3], texts, strict=False), as_=as_, language="zh"))
        expected = scorer.score(IMAGES[:3], texts[:3], as_=as_, language="zh").diagonal()
        np.testing.assert_allclose(chinese, expected, atol=2.1 if as_ == "percentile" else 1e-5)


def test_bad_pairs_are_listed_and_the_rest_is_scored(scorer, monkeypatch, tmp_path):
    monkeypatch.setattr("altdiffusion.altclip.scorer.PAIRS_AT_ONCE", 32)
    (tmp_path / "x.png").write_text("none")
    good = [(image, text, "en") for image, text in zip(IMAGES[:40], ENGLISH, strict=False)]
    wrong = {
        0: (tmp_path / "x.png", "cat", "en"), 3: (IMAGES[0], " ", "en"), 35: (IMAGES[1], "un chat", "fr"),
        36: (3, "cat", "en"), 37: (tmp_path / "none.png", "", "fr"), 38: (IMAGES[2], None, "en"),
    }  # fmt: skip
    pairs = list(good)
    for index, pair in wrong.items():
        pairs.insert(index, pair)
    scores = list(scorer.score_pairs(pairs, bad := {}, as_="percentile"))
    assert sorted(bad) == list(wrong)
    assert [index for index, score in enumerate(scores) if math.isnan(score)] == list(wrong)
    kept = [score for index, score in enumerate(scores) if index not in wrong]
    np.testing.assert_allclose(kept, list(scorer.score_pairs(good, as_="percentile")), atol=2.1)
    assert "no calibration for 'fr', but for" in bad[35]
    with pytest.raises(InputError, match="pair 35: no calibration for 'fr'"):
        list(scorer.score_pairs(good[:35] + pairs[35:], as_="percentile"))


@pytest.mark.parametrize("pair", ["ab", ("x.png",), ("x.png", "cat", "en", 1), 3, {"image": "x.png", "text": "cat"}])
def test_what_is_no_pair_is_named(scorer, pair):
    with pytest.raises(InputError, match=r"as a pair, expected \(image, text\)"):
        list(scorer.score_pairs([pair], {}))


def test_pairs_are_read_while_they_are_scored_and_no_more_than_a_few_ahead(scorer, monkeypatch):
    monkeypatch.setattr("altdiffusion.altclip.scorer.PAIRS_AT_ONCE", 32)
    read = []

    def pairs():
        for number in range(100_000):
            read.append(number)
            yield IMAGES[number % 30], "cat"

    scores = scorer.score_pairs(pairs())
    assert not read
    next(scores)
    assert 32 <= len(read) <= 32 + 2 * scorer.batch_size
    scores.close()


def test_images_of_data_sets_are_scored_as_files_are(scorer, tmp_path):
    IMAGES[0].save(tmp_path / "x.png")
    inside = ImageSource(tmp_path / "shard.tar", "x.png", (tmp_path / "x.png").read_bytes)
    torch.testing.assert_close(scorer.image_features(inside), scorer.image_features(tmp_path / "x.png"))
    broken = ImageSource(tmp_path / "shard.tar", "x.png", lambda: b"none")
    with pytest.raises(InputError, match="image 0: no image that can be read"):
        scorer.score(broken, "cat")


def test_what_is_done_is_told_image_by_image(plain, tmp_path):
    (tmp_path / "x.png").write_text("none")
    told = []
    plain.score([*IMAGES[:70], tmp_path / "x.png"], "cat", {}, on_done=told.append)
    assert sum(told) == 71
    assert len(told) > 1


def test_a_tables_column_without_a_language_is_nan():
    cosines = torch.tensor([[0.1, 0.2]])
    assert torch.equal(calibrated_scores.convert(None, cosines, [None, None], "cosine"), cosines)
