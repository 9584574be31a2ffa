"""`altdiffusion score` and `altdiffusion evaluate`, as people call them."""

import csv
import io
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from helpers.small_altclip import save_small
from PIL import Image

from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.cli.main import main


@pytest.fixture(scope="module")
def altclip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("altclip") / "small"
    save_small(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for name in ("red", "green", "blue"):
        Image.effect_noise((40, 40), 90).convert("RGB").save(tmp_path / f"{name}.png")
        paths.append(str(tmp_path / f"{name}.png"))
    return paths


def run(capsys, *words):
    status = main([str(word) for word in words])
    streams = capsys.readouterr()
    return status, streams.out, streams.err


def test_score_as_json_csv_and_a_table(capsys, altclip, pictures):
    words = ("score", *pictures, "--prompt", "猫", "--prompt", "a dog", "--model", altclip, "--device", "cpu")
    expected = PromptScorer.from_pretrained(altclip, device="cpu").score(pictures, ["猫", "a dog"])
    status, out, _ = run(capsys, *words, "--json")
    document = json.loads(out)
    assert (status, document["prompts"], document["failed"]) == (0, ["猫", "a dog"], [])
    for row, path, scores in zip(document["results"], pictures, expected.tolist(), strict=True):
        assert row == {"image": path, "scores": [pytest.approx(score, abs=1e-6) for score in scores]}
    status, out, _ = run(capsys, *words, "--csv", "--sort")
    header, *rows = csv.reader(io.StringIO(out))
    assert header == ["image", "猫", "a dog"]
    first = [float(row[1]) for row in rows]
    assert first == sorted(first, reverse=True)
    assert sorted(row[0] for row in rows) == sorted(pictures)
    status, out, _ = run(capsys, *words)
    lines = out.splitlines()
    assert lines[0].split() == ["猫", "a", "dog"]
    assert [line.split()[0] for line in lines[1:]] == pictures
    assert len({len(line) for line in lines[1:]}) == 1


def test_score_takes_folders(capsys, altclip, pictures, tmp_path):
    folder = tmp_path / "drawn"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.png", ".hidden.png", "a.PNG", "deep/c.png"):
        shutil.copy(pictures[1], folder / name)
    (folder / "prompts.txt").write_text("猫")
    words = ("--prompt", "猫", "--model", altclip, "--device", "cpu")
    status, out, _ = run(capsys, "score", pictures[0], folder, *words, "--json")
    assert status == 0
    found = [row["image"] for row in json.loads(out)["results"]]
    assert found == [pictures[0], str(folder / "a.PNG"), str(folder / "b.png"), str(folder / "deep/c.png")]
    (tmp_path / "empty").mkdir()
    status, out, err = run(capsys, "score", tmp_path / "empty", *words)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert f"{tmp_path / 'empty'} holds no images" in err


def test_score_lists_bad_pictures_and_does_the_rest(capsys, altclip, pictures, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    words = ("score", tmp_path / "bad.png", *pictures, tmp_path / "gone.png", "--prompt", "猫", "--model", altclip)
    status, out, err = run(capsys, *words, "--json")
    document = json.loads(out)
    assert status == 2
    assert [row["image"] for row in document["results"]] == pictures
    assert [each["image"] for each in document["failed"]] == [str(tmp_path / "bad.png"), str(tmp_path / "gone.png")]
    assert "2 of 5 images can't be used" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--prompt", " "), "text 0: is empty"),
        (("--prompt", "猫", "--dtype", "int8"), "--dtype: expected one of float32, float16, bfloat16, got 'int8'"),
        (("--prompt", "猫", "--device", "cuda:7"), "this machine has"),
    ],
)
def test_score_refuses_in_one_line(capsys, altclip, pictures, words, reason):
    status, out, err = run(capsys, "score", *pictures, "--model", altclip, *words)
    assert (status, out) == (2, "")
    assert reason in err.splitlines()[-1]


def save_data(folder, pictures):
    lines = [
        f"{path.rsplit('/', 1)[1]}#{n}\tcaption {n} of {path.rsplit('/', 1)[1]}\n"
        for path in pictures
        for n in range(2)
    ]
    (folder / "captions.token").write_text("".join(lines), encoding="utf-8")
    return folder / "captions.token"


def test_evaluate_retrieval_of_two_systems(capsys, altclip, pictures, tmp_path):
    captions = save_data(tmp_path, pictures)
    words = ("evaluate", "retrieval", captions, tmp_path, "--model", altclip, altclip, "--device", "cpu")
    status, out, _ = run(capsys, *words, "--json")
    assert status == 0
    results = json.loads(out)["results"]
    assert [each["system"] for each in results] == [f"AltCLIP ({altclip})"] * 2
    assert results[0]["measured"] == results[1]["measured"]
    assert results[0]["measured"]["t2i_r5"] == 100
    assert (results[0]["images"], results[0]["captions"]) == (3, 6)
    status, out, _ = run(capsys, *words, "--format", "markdown")
    assert f"| AltCLIP ({altclip}) |" in out


def test_evaluate_retrieval_of_a_named_format_says_how_it_was_measured(capsys, altclip, pictures, tmp_path):
    names = [path.rsplit("/", 1)[1] for path in pictures]
    document = {"images": names, "captions": {"en": [["a", "b"]] * 3, "zh": [["一只猫", "猫"]] * 3}}
    (tmp_path / "xtd.json").write_text(json.dumps(document))
    words = ("evaluate", "retrieval", tmp_path / "xtd.json", "--model", altclip, "--device", "cpu", "--language", "zh")
    words = (*words, "--captions-used", "first")
    status, out, _ = run(capsys, *words, "--captions-format", "babel", "--json")
    (result,) = json.loads(out)["results"]
    assert (status, result["captions"], result["language"]) == (0, 3, "zh")
    assert result["protocol"].pop("data").startswith("xtd.json, babel, sha256 ")
    assert result["protocol"].pop("model").startswith(f"{altclip}, sha256 ")
    assert result["protocol"] == {
        "captions": "the first caption of each image", "pool": "3 images, 3 captions", "precision": "float32 on cpu",
        "padding": "to the longest text of a batch, cut at 77 tokens",
    }  # fmt: skip
    status, out, err = run(capsys, *words, "--captions-format", "xm3600")
    assert (status, out) == (2, "")
    assert "has no captions in zh" in err.splitlines()[-1]


def test_evaluate_retrieval_prints_what_was_measured_before_a_system_that_fails(capsys, altclip, pictures, tmp_path):
    words = ("evaluate", "retrieval", save_data(tmp_path, pictures), tmp_path, "--device", "cpu")
    status, out, err = run(capsys, *words, "--json", "--model", tmp_path / "nowhere", altclip)
    assert status == 2
    assert [each["system"] for each in json.loads(out)["results"]] == ["AltCLIP"]
    assert "1 of 2 systems could not be measured" in err.splitlines()[-1]
    assert f"{tmp_path / 'nowhere'}: " in err


def test_evaluate_classification(capsys, altclip, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.effect_noise((40, 40), 90).save(tmp_path / "data" / name / "1.png")
    words = ("evaluate", "classification", tmp_path / "data", "--model", altclip, "--device", "cpu")
    status, out, _ = run(capsys, *words, "--json")
    (result,) = json.loads(out)["results"]
    assert (status, result["images"], result["top5"]) == (0, 2, 1.0)
    assert result["top1"] in (0.0, 0.5, 1.0)
    (tmp_path / "names.txt").write_text("猫\n狗\n", encoding="utf-8")
    status, out, _ = run(capsys, *words, "--language", "zh", "--classes", tmp_path / "names.txt")
    assert status == 0
    assert "2 images, 2 classes, asked in zh" in out
    (tmp_path / "names.txt").write_text("猫\n", encoding="utf-8")
    status, _, err = run(capsys, *words, "--classes", tmp_path / "names.txt")
    assert status == 2
    assert "1 names of classes" in err
    status, out, err = run(capsys, *words, "--model", tmp_path / "nowhere", "--json")
    assert (status, len(json.loads(out)["results"])) == (2, 1)
    assert "1 of 2 systems could not be measured" in err.splitlines()[-1]


def test_evaluate_generation(capsys, published, altclip, tmp_path):
    (tmp_path / "prompts.tsv").write_text("en\tzh\na cat\t猫\na dog\t狗\n", encoding="utf-8")
    words = ("evaluate", "generation", tmp_path / "prompts.tsv", "--model", published("m9"), "--scorer", altclip)
    status, out, _ = run(capsys, *words, "--out", tmp_path / "out", "--steps", 1, "--device", "cpu", "--json")
    assert status == 0
    assert [(each["language"], each["prompts"]) for each in json.loads(out)["results"]] == [("en", 2), ("zh", 2)]
    assert (tmp_path / "out/zh.png").is_file()
    assert {"similarity", "r_precision", "consistency", "correctness"} <= set(json.loads(out)["figures"]["zh"])
    assert [Path(page).is_file() for page in json.loads(out)["pages"]] == [True] * 3
    status, out, _ = run(capsys, *words, "--out", tmp_path / "out", "--only-score", "--device", "cpu")
    assert status == 0
    assert "report.html" in out.splitlines()[-1]
    assert re.search(r"zh: similarity -?0\.\d{4} \[-?0\.\d\d, -?0\.\d\d\], R-precision", out)


def test_evaluate_mini_without_emoji_says_which_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "emoji", None)
    status, _, err = run(capsys, "evaluate", "mini")
    assert status == 2
    assert err.splitlines()[-1].endswith('evaluate mini needs the library emoji: pip install "altdiffusion[train]"')
