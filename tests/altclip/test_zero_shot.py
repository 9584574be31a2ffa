"""Zero-shot classification: the ensemble by hand, labels, probabilities, bad input."""

import numpy as np
import pytest
import torch
from helpers.small_altclip import save_small
from PIL import Image

from altdiffusion import InputError, PromptScorer
from altdiffusion.altclip import zero_shot
from altdiffusion.altclip.zero_shot import classify, ensemble

LABELS = ["cat", "dog", "une voiture", "猫"]
TEMPLATES = ["a photo of a {c}.", "{}", "the {}, please"]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero") / "altclip"
    save_small(folder)
    return PromptScorer.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(6)]


def by_hand(scorer):
    rows = []
    for label in LABELS:
        said = [f"a photo of a {label}.", label, f"the {label}, please"]
        mean = sum(scorer.text_features(text)[0] for text in said) / 3
        rows.append(mean / mean.norm())
    return torch.stack(rows)


def test_ensemble_is_the_normalised_mean_over_templates(scorer, monkeypatch):
    expected = by_hand(scorer)
    torch.testing.assert_close(ensemble(scorer, LABELS, TEMPLATES), expected, atol=1e-6, rtol=0)
    monkeypatch.setattr(zero_shot, "TEXTS_AT_ONCE", 7)  # two labels, then two
    torch.testing.assert_close(ensemble(scorer, LABELS, TEMPLATES), expected, atol=1e-6, rtol=0)


def test_probabilities_are_those_of_the_scaled_cosines(scorer, images):
    found = classify(scorer, images, LABELS, TEMPLATES)
    cosines = scorer.image_features(images) @ by_hand(scorer).T
    expected = (cosines * scorer.model.logit_scale.exp().item()).softmax(1)
    torch.testing.assert_close(found.probabilities, expected, atol=1e-5, rtol=0)
    assert found.labels == [LABELS[number] for number in expected.argmax(1).tolist()]
    assert len(set(found.labels)) > 1


def test_one_plain_template_is_the_score(scorer, images):
    found = classify(scorer, images, LABELS)
    torch.testing.assert_close(found.logits, scorer.logit_scale * scorer.score(images, LABELS), atol=1e-5, rtol=0)


def test_bad_picture_has_no_label(scorer, images):
    bad = {}
    found = classify(scorer, [images[0], "nowhere.png", images[1]], LABELS, bad=bad)
    assert list(bad) == [1]
    assert found.labels[1] is None
    assert found.probabilities[1].isnan().all()
    assert [found.labels[0], found.labels[2]] == classify(scorer, images[:2], LABELS).labels
    with pytest.raises(InputError, match="image 1: no such image"):
        classify(scorer, [images[0], "nowhere.png"], LABELS)


def test_equal_labels_are_two_classes(scorer):
    features = ensemble(scorer, ["crane", "crane"])
    torch.testing.assert_close(features[0], features[1])


@pytest.mark.parametrize(
    ("labels", "templates", "expected"),
    [
        ([], ["{}"], "expected a list of at least one of each"),
        (["cat"], [], "expected a list of at least one of each"),
        ("cat", ["{}"], "expected a list of at least one of each"),
        (["cat"], "{}", "expected a list of at least one of each"),
        (["cat", " "], ["{}"], "label 1 is empty"),
        (["cat"], ["{}", "a photo"], "'a photo' has no place for the label"),
    ],
)
def test_bad_labels_and_templates_are_one_clear_line(scorer, labels, templates, expected):
    with pytest.raises(InputError, match=expected):
        ensemble(scorer, labels, templates)
