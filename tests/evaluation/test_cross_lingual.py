"""How alike images are: against CoCo-CroLa's sums over pairs, written out in numpy, and on cases made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from altdiffusion.evaluation.cross_lingual import image_figures


def features_of(languages, prompts, images, width=5, seed=0):
    random = torch.Generator().manual_seed(seed)
    return {name: F.normalize(torch.randn(prompts, images, width, generator=random), dim=-1) for name in languages}


def mean_cosine(one, other, same_set):
    """CoCo-CroLa's avg_cos_sim: over all pairs of two sets of images, but of an image with itself."""
    cosines = one.numpy() @ other.numpy().T
    return cosines[~np.eye(len(one), dtype=bool)].mean() if same_set else cosines.mean()


@pytest.mark.parametrize(("prompts", "images"), [(3, 2), (4, 5), (2, 3)])
def test_cococrolas_figures_are_means_over_pairs(prompts, images):
    features = features_of(["en", "zh", "he"], prompts, images)
    figures = image_figures(features)
    for language, own in features.items():
        for row in range(prompts):
            others = torch.cat([own[other] for other in range(prompts) if other != row])
            expected = {
                "correctness": mean_cosine(features["en"][row], own[row], language == "en"),
                "self_consistency": mean_cosine(own[row], own[row], True),
                "distinctiveness": 1 - mean_cosine(others, own[row], False),
            }
            for name, value in expected.items():
                assert figures[language][name][row].mean().item() == pytest.approx(value, abs=1e-6)


def test_consistency_is_with_the_same_noise_in_other_languages():
    features = features_of(["zh", "ja", "ru"], 4, 2)
    own = {name: each.numpy() for name, each in features.items()}
    found = image_figures(features)["ja"]
    expected = np.mean([(own["ja"] * own[name]).sum(-1) for name in ("zh", "ru")], axis=0)
    np.testing.assert_allclose(found["consistency"], expected, atol=1e-6)
    cosines = [np.einsum("w,pnw->pn", own["ja"][1, 0], own[name])[[0, 2, 3]].mean() for name in ("zh", "ru")]
    assert found["other_prompts"][1, 0].item() == pytest.approx(np.mean(cosines), abs=1e-6)
    assert "like_english" not in found


def test_equal_images_are_alike_and_english_is_found():
    images = torch.eye(3)[:, None].repeat(1, 2, 1)
    found = image_figures({"en": images, "zh": images, "ja": images.roll(1, 0)})
    assert found["zh"]["english_first"].tolist() == [[1, 1]] * 3
    assert found["ja"]["english_first"].tolist() == [[0, 0]] * 3
    assert found["zh"]["like_english"].tolist() == found["zh"]["correctness"].tolist() == [[1, 1]] * 3
    assert found["zh"]["distinctiveness"].tolist() == [[1, 1]] * 3
    assert found["en"]["consistency"].tolist() == [[0.5, 0.5]] * 3


def test_images_that_are_all_the_same_find_nothing():
    same = F.normalize(torch.ones(3, 1, 4), dim=-1)
    assert image_figures({"en": same, "zh": same})["zh"]["english_first"].sum() == 0


@pytest.mark.parametrize(
    ("languages", "prompts", "images", "there"),
    [
        (["zh"], 1, 1, set()),
        (["zh"], 3, 1, {"distinctiveness"}),
        (["zh"], 1, 2, {"self_consistency"}),
        (["en", "zh"], 1, 1, {"consistency", "like_english", "correctness"}),
    ],
)
def test_what_can_not_be_told_is_left_out(languages, prompts, images, there):
    assert set(image_figures(features_of(languages, prompts, images))["zh"]) == there
