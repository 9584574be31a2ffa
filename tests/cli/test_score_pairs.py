"""`altdiffusion score --pairs`: every format in and out, what is left out and said, the best, the histogram."""

import csv
import json
import re

import numpy as np
import pytest
from helpers.small_altclip import save_small
from PIL import Image

from altdiffusion import PromptScorer
from altdiffusion.altclip.calibration import Calibration, language_scores
from altdiffusion.cli.terminal import counting

COUNT = 12
ENGLISH = [f"a cat, number {number}" for number in range(COUNT)]
GERMAN = [f"ein Hund spielt mit {number} Katzen im Garten" for number in range(COUNT)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small AltCLIP, calibrated for en and zh."""
    folder = tmp_path_factory.mktemp("pairs") / "altclip"
    save_small(folder)
    scorer = PromptScorer.from_pretrained(folder, device="cpu")
    images = noise(40) * 3
    texts = {
        language: [f"{word} {number}" for number in range(120)] for language, word in (("en", "cat"), ("zh", "猫"))
    }
    scorer.calibrate(images, texts).save(folder)
    return folder


def noise(count):
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(count)]


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch):
    """images/0.png, ... in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    names = [f"images/{number}.png" for number in range(COUNT)]
    for name, image in zip(names, noise(COUNT), strict=True):
        image.save(name)
    return names


def write_csv(name, rows, header=("id", "file_name", "text"), delimiter=","):
    with open(name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])


@pytest.fixture
def tables(images):
    """The same pairs in every format, by ending."""
    pandas = pytest.importorskip("pandas")
    rows = [(number, image, text) for number, (image, text) in enumerate(zip(images, ENGLISH, strict=True))]
    write_csv("pairs.csv", rows)
    write_csv("pairs.tsv", rows, delimiter="\t")
    records = [dict(zip(("id", "file_name", "text"), row, strict=True)) for row in rows]
    with open("pairs.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    pandas.DataFrame(records).to_parquet("pairs.parquet")
    return {ending: f"pairs{ending}" for ending in (".csv", ".tsv", ".jsonl", ".parquet")}


def read(name):
    """Records of a file that was written, the numbers as numbers."""
    import pandas

    readers = {
        "csv": pandas.read_csv,
        "tsv": lambda path: pandas.read_csv(path, sep="\t"),
        "jsonl": lambda path: pandas.read_json(path, lines=True),
        "parquet": pandas.read_parquet,
    }
    records = readers[name.rpartition(".")[2]](name).to_dict("records")
    return [record | {"id": int(record["id"])} for record in records]


@pytest.mark.parametrize(
    ("given", "out"),
    [(".csv", ".csv"), (".csv", ".parquet"), (".tsv", ".tsv"), (".jsonl", ".jsonl"), (".parquet", ".parquet")],
)
def test_each_row_is_written_with_its_score(run, model, tables, images, given, out):
    result = run("score", "--pairs", tables[given], "--model", model, "--out", f"out{out}")
    assert result.status == 0, result.err
    expected = PromptScorer.from_pretrained(model, device="cpu").score(images, ENGLISH).diagonal().tolist()
    rows = read(f"out{out}")
    assert [(row["id"], row["file_name"], row["text"]) for row in rows] == list(
        zip(range(COUNT), images, ENGLISH, strict=True)
    )
    assert [row["score"] for row in rows] == pytest.approx(expected, abs=1e-4)
    assert "12 pairs scored, mean" in result.err
    assert not result.out


def test_bad_rows_are_counted_and_named_and_the_good_ones_done(run, model, images):
    write_csv("pairs.csv", [(number, image, "a cat") for number, image in enumerate(images)])
    with open("broken.png", "w") as file:
        file.write("none")
    with open("pairs.csv", "a", encoding="utf-8") as file:
        file.write(
            "90,none.png,a cat\n91,images/0.png,a cat\n92,images/0.png,\n93\timages/1.png\ta cat\n94,broken.png,a cat\n"
        )
    result = run("score", "--pairs", "pairs.csv", "--model", model, "--out", "out.csv")
    assert result.status == 2
    assert len(read("out.csv")) == COUNT
    assert "skipped pairs.csv:14: no such image" in result.err
    assert "skipped pairs.csv:16: text is empty" in result.err
    assert "skipped pairs.csv:17: 1 fields where the header has 3" in result.err
    assert "skipped pairs.csv:18: no image that can be read" in result.err
    assert "left out, as they repeat an earlier image and caption: 1 rows, the first is pairs.csv:15" in result.err
    last = result.err.splitlines()[-1]
    assert re.search(r"4 of 17 rows can't be used: .*no such image \(1\).*; the others were scored$", last)
    document = json.loads(run("score", "--pairs", "pairs.csv", "--model", model, "--json").out)
    assert len(document["results"]) == COUNT
    assert sorted(each["row"] for each in document["failed"]) == [f"pairs.csv:{line}" for line in (14, 16, 17, 18)]


@pytest.mark.parametrize(
    ("header", "words", "reason"),
    [
        (("url", "key", "sha"), (), "no images: expected a column image or file_name, got url, key, sha"),
        (("id", "image", "sha"), (), r"has no column caption or text.*in score: --caption"),
        (("id", "image", "text"), ("--caption", "title"), "has no column title: its columns are id, image, text"),
        (("en", "image", "zh"), (), "several captions, en, zh: name one of them, --caption en"),
    ],
)
def test_columns_that_can_not_be_told_are_named(run, header, words, reason):
    write_csv("pairs.csv", [("a", "images/0.png", "b")], header)
    result = run("score", "--pairs", "pairs.csv", *words)
    assert result.status == 2
    assert re.search(reason, result.err), result.err


@pytest.mark.parametrize("where", ["flag", "column", "header", "found"])
def test_the_language_is_given_or_found(run, model, images, where):
    if where == "found":
        pytest.importorskip("py3langid")
    texts = [f"红色背景上的一只猫 {number}" for number in range(COUNT)]
    rows = [(image, text, "zh") for image, text in zip(images, texts, strict=True)]
    header = ("image", "zh" if where == "header" else "text", "language" if where == "column" else "x")
    write_csv("pairs.csv", rows, header)
    words = ["--language", "zh-CN"] if where == "flag" else []
    result = run("score", "--pairs", "pairs.csv", "--model", model, "--as", "probability", "--csv", *words)
    assert result.status == 0, result.err
    scorer = PromptScorer.from_pretrained(model, device="cpu")
    expected = scorer.score(images, texts, as_="probability", language="zh").diagonal().tolist()
    got = [float(row["score"]) for row in csv.DictReader(result.out.splitlines())]
    assert got == pytest.approx(expected, abs=1e-3)
    assert "languages: zh" in result.err


def test_rows_in_a_language_without_calibration_are_counted(run, model, images):
    pytest.importorskip("py3langid")
    texts = [*ENGLISH[:9], *GERMAN[9:]]
    write_csv("pairs.csv", [(number, *pair) for number, pair in enumerate(zip(images, texts, strict=True))])
    result = run("score", "--pairs", "pairs.csv", "--model", model, "--as", "percentile", "--out", "out.csv")
    assert result.status == 2
    assert [row["language"] for row in read("out.csv")] == ["en"] * 9
    assert "3 of 12 rows can't be used: no calibration for 'de', but for en, zh (3); the others" in result.err
    result = run("score", "--pairs", "pairs.csv", "--model", model, "--as", "percentile", "--language", "de")
    assert "no calibration for 'de', but for en, zh" in result.err.splitlines()[-1]


def test_the_best_alone_best_first_and_those_above_a_minimum(run, model, tables):
    everything = json.loads(run("score", "--pairs", tables[".csv"], "--model", model, "--json").out)["results"]
    ordered = sorted(everything, key=lambda row: -row["score"])
    top = json.loads(run("score", "--pairs", tables[".csv"], "--model", model, "--json", "--top", "3").out)["results"]
    assert [row["id"] for row in top] == [row["id"] for row in ordered[:3]]
    minimum = ordered[4]["score"] - 1e-4
    result = run("score", "--pairs", tables[".csv"], "--model", model, "--min", minimum, "--plot", "x.png", "--csv")
    assert len(result.out.splitlines()) == 1 + 5
    assert "12 pairs scored" in result.err
    assert "5 score at least" in result.err
    with Image.open("x.png") as plot:
        assert plot.width > 400


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--pairs p.csv images", "not allowed with IMAGE"),
        ("--pairs p.csv --sort", "--top N"),
        ("--pairs p.csv --out x.csv --json", "not allowed with --out"),
        ("--pairs none.csv", "there is no none.csv"),
        ("images --prompt cat --out x.csv", "--out: only with --pairs"),
        ("images --prompt cat --language zh", "--as percentile"),
        ("images --prompt cat --top 0", "--top: expected at least 1"),
        ("--pairs p.csv --out x.txt", r"--out x.txt: expected a file that ends in .csv"),
        ("--pairs p.csv --out none/x.csv", "in a folder that is there"),
        ("--pairs p.csv --plot x.jpg", "expected a .png file"),
        ("--pairs p.csv --as percent", "--as: expected one of cosine"),
    ],
)
def test_words_that_do_not_go_together_are_refused(run, words, reason):
    write_csv("p.csv", [(1, "images/0.png", "a cat")])
    result = run("score", *words.split())
    assert result.status == 2
    assert re.search(reason, result.err), result.err
    assert "loading" not in result.err


def test_a_file_that_could_not_be_finished_is_not_there(run, model, tables, tmp_path, monkeypatch):
    def fail(*arguments, **settings):
        raise OSError("the disk is full")

    monkeypatch.setattr(PromptScorer, "score_pairs", fail)
    before = sorted(tmp_path.iterdir())
    result = run("score", "--pairs", tables[".csv"], "--model", model, "--out", "out.csv")
    assert result.status == 2
    assert "--out out.csv can't be written: the disk is full" in result.err
    assert sorted(tmp_path.iterdir()) == before


def test_images_are_scored_as_percentiles_and_the_best_kept(run, model, images):
    words = ["score", "images", "--prompt", "a cat", "猫", "--model", model]
    words += ["--as", "percentile", "--language", "en", "--plot", "x.png"]
    every = json.loads(run(*words, "--json").out)
    assert every["as"] == "percentile"
    assert len(every["results"]) == COUNT
    ordered = sorted(every["results"], key=lambda row: -row["scores"][0])
    top = json.loads(run(*words, "--json", "--top", "2").out)["results"]
    assert [row["image"] for row in top] == [row["image"] for row in ordered[:2]]
    kept = json.loads(run(*words, "--json", "--min", ordered[2]["scores"][0] - 1e-4).out)["results"]
    assert {row["image"] for row in kept} == {row["image"] for row in ordered[:3]}


def test_images_beyond_the_last_percentile_are_sorted_by_their_cosines(run, model, images, tmp_path):
    """Of a calibration whose wrong pairs all score less."""
    calibration = Calibration.load(model)
    low = language_scores(np.linspace(-1, -0.99, 200), np.linspace(0, 1, 200), 200)
    (tmp_path / "low").mkdir()
    Calibration({"en": low}, calibration.weights).save(tmp_path / "low")
    words = ["score", "images", "--prompt", "a cat", "--model", model, "--json", "--sort"]
    by_cosine = json.loads(run(*words).out)["results"]
    words += ["--as", "percentile", "--language", "en", "--calibration", tmp_path / "low"]
    by_percentile = json.loads(run(*words).out)["results"]
    assert [row["image"] for row in by_percentile] == [row["image"] for row in by_cosine]
    assert {row["scores"][0] for row in by_percentile} == {100}


def test_in_a_log_progress_has_rate_and_time_left(capsys, monkeypatch):
    seconds = iter([0.0, 4.0, 11.0, 12.0, 30.0])
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    with counting(3000, "pairs") as done:
        for count in (40, 70, 10, 180):
            done(count)
    assert capsys.readouterr().err.splitlines() == [
        "110 of 3,000 pairs, 10/s, 04:49 left",
        "300 of 3,000 pairs, 10/s, 04:30 left",
    ]
