"""What a model generates, compared with prompts by a scorer whose taste is known; resumed, and looked at on a sheet."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.small_altclip import save_small
from PIL import Image

from altdiffusion import InputError
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.evaluation import text_to_image
from altdiffusion.evaluation.text_to_image import CELL, RIGHT, WRONG, evaluate_generation, frechet_distance, read_parity
from altdiffusion.generation import generate

PROMPTS = "en\tzh\na cat\t一只猫\na dog\t一只狗\na cat\t一只鸟\n"


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scorer") / "altclip"
    save_small(folder)
    return PromptScorer.from_pretrained(folder, device="cpu")


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "prompts.tsv").write_text(PROMPTS, encoding="utf-8")
    return tmp_path / "prompts.tsv"


class Likes(PromptScorer):
    """Gives the scores it was made with, and finds each image as unlike the others as can be."""

    calibration = None

    def __init__(self, scores):
        self.scores = torch.tensor(scores)

    def image_features(self, images, bad=None, on_done=None):
        return torch.eye(len(images))

    def score(self, images, prompts, bad=None):
        assert self.scores.shape == (len(images), len(prompts))
        return self.scores


def evaluate(published, prompts, out, **options):
    options = {"steps": 1, "size": (16, 16), "device": "cpu"} | options
    return list(evaluate_generation(published("m9"), prompts, out, **options))


def test_figures_sheet_and_results_of_each_language(published, prompts, tmp_path):
    # the first image fits "a cat" best, which stands there twice; the second doesn't fit its own; the third does
    likes = Likes([[0.9, 0.1, 0.9], [0.8, 0.2, 0.3], [0.1, 0.2, 0.4]])
    en, zh = evaluate(published, prompts, tmp_path / "out", scorer=likes)
    assert (en.language, zh.language) == ("en", "zh")
    assert en.similarity == pytest.approx(0.5)
    assert en.r_precision == pytest.approx(2 / 3)
    sheet = Image.open(tmp_path / "out/en.png")
    assert [sheet.getpixel((column * CELL + 3, 3)) for column in (0, 1)] == [RIGHT, WRONG]
    assert sheet.getpixel((3, CELL + 3)) == RIGHT
    results = json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))
    assert [each["prompt"] for each in results[1]["pictures"]] == ["一只猫", "一只狗", "一只鸟"]
    assert [each["own_prompt_first"] for each in results[0]["pictures"]] == [True, False, True]
    assert all(Image.open(each["path"]).size == (16, 16) for each in results[0]["pictures"])


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("en\tzh\na cat\t一只猫\na dog\t一只狗\na cow\t一只鸟\n", {"zh": 1}),
        ("zh\ten\n一只猫\ta cat\n一只狗\ta dog\n一只鸟\ta cow\n", {"zh": 1}),
        ("zh\tja\n一只猫\t猫\n一只狗\t犬\n一只鸟\t鳥\n", {}),
        ("en\na cat\na dog\na cow\n", {}),
    ],
)
def test_parity_is_with_english(published, prompts, tmp_path, table, expected):
    prompts.write_text(table, encoding="utf-8")
    likes = Likes([[0.9, 0.1, 0.2], [0.8, 0.2, 0.3], [0.1, 0.2, 0.4]])
    evaluate(published, prompts, tmp_path / "out", scorer=likes)
    assert {language: value.value for language, value in read_parity(tmp_path / "out").items()} == expected


def test_what_was_drawn_with_the_same_settings_is_kept(published, prompts, tmp_path, scorer, monkeypatch):
    first = evaluate(published, prompts, tmp_path / "out", scorer=scorer, languages=["en"])
    (tmp_path / "out/en/0001.png").write_bytes(b"cut off")
    asked = []

    def counted(prompt, **options):
        asked.append(options["seed"])
        return generate.generate(prompt, **options)

    monkeypatch.setattr(text_to_image, "generate", counted)
    again = evaluate(published, prompts, tmp_path / "out", scorer=scorer, languages=["en"])
    assert asked == [1]
    assert again == first
    evaluate(published, prompts, tmp_path / "out", scorer=scorer, languages=["en"], steps=2)
    assert asked == [1, 0, 1, 2]


def test_bad_input(published, prompts, tmp_path, scorer):
    with pytest.raises(InputError, match="has no column de"):
        evaluate(published, prompts, tmp_path / "out", scorer=scorer, languages=["de"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images in"):
        evaluate(published, prompts, tmp_path / "out", scorer=scorer, reference=tmp_path / "empty")
    with pytest.raises(InputError, match="--scorer"):
        evaluate(published, prompts, tmp_path / "out")
    with pytest.raises(InputError, match="at least 2"):
        frechet_distance([Image.new("RGB", (8, 8))], [Image.new("RGB", (8, 8))] * 2, scorer)


def test_frechet_distance_is_the_one_of_the_features(scorer):
    pytest.importorskip("torchmetrics")
    random = np.random.default_rng(0)
    some, other = (
        [Image.fromarray(random.integers(low, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(20)] for low in (0, 100)
    )
    assert frechet_distance(some, some, scorer) == pytest.approx(0, abs=1e-4)
    one, two = (F.normalize(scorer.image_features(each), dim=-1).double() for each in (some, other))
    eigenvalues = torch.linalg.eigvals(one.T.cov() @ two.T.cov()).sqrt().real.sum()
    expected = (one.mean(0) - two.mean(0)).square().sum() + one.T.cov().trace() + two.T.cov().trace() - 2 * eigenvalues
    assert frechet_distance(some, other, scorer) == pytest.approx(expected.item(), rel=1e-2)


def test_one_prompt_alone_has_no_precision(published, tmp_path):
    path = tmp_path / "one.tsv"
    path.write_text("en\na cat\n", encoding="utf-8")
    (result,) = evaluate(published, path, tmp_path / "out", scorer=Likes([[0.4]]))
    assert result.r_precision is None


def test_a_file_of_prompts_without_a_heading_is_named(published, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\na dog\n", encoding="utf-8")
    with pytest.raises(InputError, match="its first line 'a cat' stands where the languages do"):
        evaluate(published, path, tmp_path / "out")


def test_prompts_with_a_gap_are_left_out_as_far_as_allowed(published, tmp_path):
    path = tmp_path / "gap.tsv"
    path.write_text("en\tzh\na cat\t一只猫\na dog\t\na bird\t一只鸟\n", encoding="utf-8")
    with pytest.raises(InputError, match="--max-skipped"):
        evaluate(published, path, tmp_path / "out")
    results = evaluate(published, path, tmp_path / "out", max_skipped=0.5, scorer=Likes([[0.9, 0.1], [0.1, 0.9]]))
    assert [each.prompts for each in results] == [2, 2]
