"""What a model generates, compared with prompts by a scorer whose taste is known; resumed, and looked at on a sheet."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.small_altclip import save_small
from PIL import Image

from altdiffusion import InputError
from altdiffusion.altclip.calibration import LEVELS, Calibration, LanguageScores
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.evaluation import text_to_image
from altdiffusion.evaluation.frechet import frechet_distance
from altdiffusion.evaluation.text_to_image import (
    CELL,
    RIGHT,
    WRONG,
    evaluate_generation,
    read_parity,
    read_results,
)
from altdiffusion.generation import generate
from altdiffusion.generation.infotext import open_info

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


def test_several_images_of_a_prompt(published, prompts, tmp_path, scorer):
    (result,) = evaluate(published, prompts, tmp_path / "out", scorer=scorer, languages=["en"], num_images=2)
    (saved,) = read_results(tmp_path / "out")
    pictures = saved["pictures"]
    assert [image["row"] for image in pictures] == [0, 0, 1, 1, 2, 2]
    assert [open_info(image["path"]).seed for image in pictures] == [0, 3, 1, 4, 2, 5]
    cosines = scorer.score([image["path"] for image in pictures], ["a cat", "a dog"])
    assert [image["score"] for image in pictures] == pytest.approx(
        [cosines[index, index // 2 % 2].item() for index in range(6)], abs=1e-4
    )
    means = [(pictures[row]["score"] + pictures[row + 1]["score"]) / 2 for row in (0, 2, 4)]
    assert result.figures["similarity"].value == pytest.approx(sum(means) / 3, abs=1e-4)
    assert min(means) - 1e-4 <= result.figures["similarity"].low <= result.similarity
    assert sum(saved["histogram"]["own"]) == 6
    assert sum(saved["histogram"]["other"]) == 4 * 1 + 2 * 2  # "a cat" stands there twice


def test_cococrolas_files(published, tmp_path, scorer):
    (tmp_path / "concepts.csv").write_text("en,es\neye,ojo\nhand,mano\n", encoding="utf-8")
    (tmp_path / "prompts.json").write_text('{"en": "a photograph of $$$", "es": "una foto de $$$"}', encoding="utf-8")
    options = {"templates": tmp_path / "prompts.json", "num_images": 2, "scorer": scorer}
    evaluate(published, tmp_path / "concepts.csv", tmp_path / "out", **options)
    assert (tmp_path / "out/1-es-hand-1.png").is_file()
    english, spanish = read_results(tmp_path / "out")
    features = scorer.image_features([image["path"] for image in english["pictures"] + spanish["pictures"]])
    eye, hand, ojo, mano = features.reshape(4, 2, -1)
    expected = {
        "results_en": [eye[0] @ eye[1], (eye @ ojo.T).mean(), hand[0] @ hand[1], (hand @ mano.T).mean()],
        "results_self": [eye[0] @ eye[1], ojo[0] @ ojo[1], hand[0] @ hand[1], mano[0] @ mano[1]],
        "results_specific": [(eye @ hand.T).mean(), (ojo @ mano.T).mean()] * 2,
    }
    for name, values in expected.items():
        heading, *lines = (tmp_path / f"out/{name}.csv").read_text(encoding="utf-8").splitlines()
        assert heading == "en,es"
        assert [line.split(",")[0] for line in lines] == ["eye", "hand"]
        cells = [float(cell) for line in lines for cell in line.split(",")[1:]]
        assert cells == pytest.approx([float(value) for value in values], abs=2e-4)


def test_images_of_another_program_with_a_truth(published, tmp_path, scorer):
    lines = [{"tag": "single_object", "include": [], "prompt": prompt} for prompt in ("a cat", "a dog", "a cow")]
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for row in range(3):
        samples = tmp_path / f"out/en/0000{row}/samples"
        samples.mkdir(parents=True)
        Image.new("RGB", (16, 16), (80 * row, 0, 90)).save(samples / "0000.png")
    truth = tmp_path / "results.jsonl"
    files = [f"out/en/0000{row}/samples/0000.png" for row in range(3)]
    truth.write_text(
        "".join(json.dumps({"filename": file, "correct": "1/" in file}) + "\n" for file in files), encoding="utf-8"
    )
    options = {"scorer": scorer, "only_score": True, "truth": [truth], "device": "cpu"}
    (result,) = evaluate_generation(None, path, tmp_path / "out", **options)
    assert result.model == "images that were there"
    assert [image["right"] for image in read_results(tmp_path / "out")[0]["pictures"]] == [False, True, False]
    with pytest.raises(InputError, match="3 of 6 images are not there"):
        list(evaluate_generation(None, path, tmp_path / "out", **options, num_images=2))
    with pytest.raises(InputError, match="--scorer"):
        list(evaluate_generation(None, path, tmp_path / "out", only_score=True))


def test_percentiles_where_the_scorer_is_calibrated(published, prompts, tmp_path, scorer):
    levels = np.linspace(-1, 1, len(LEVELS))
    known = {"zh": LanguageScores(levels, levels - 0.5, (4.0, 0.0), 100, 1.0)}
    likes = Likes([[0.9, 0.1, 0.2], [0.8, 0.2, 0.3], [0.1, 0.2, 0.4]])
    likes.calibration = Calibration(known, [], "made up")
    en, zh = evaluate(published, prompts, tmp_path / "out", scorer=likes)
    assert "percentile" not in en.figures
    expected = likes.calibration.convert(np.array([0.9, 0.2, 0.4]), "zh", "match_percentile")
    assert zh.figures["match_percentile"].value == pytest.approx(expected.mean(), abs=1e-3)


def test_languages_with_other_prompts_have_no_figures_across_them(published, tmp_path, scorer, caplog):
    (tmp_path / "1.tsv").write_text("en\tzh\na cat\t猫\na dog\t狗\n", encoding="utf-8")
    (tmp_path / "2.tsv").write_text("zh\n鸟\n", encoding="utf-8")
    evaluate(published, tmp_path / "*.tsv", tmp_path / "out", scorer=scorer)
    assert "zh: not 2 prompts" in caplog.text
    assert ["correctness" in result["figures"] for result in read_results(tmp_path / "out")] == [False, False]
