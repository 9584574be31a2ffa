"""`altdiffusion batch`: from the command to the files, gone on with, and what is said of bad input."""

import json

import pytest
from helpers.batch_data import UIDS, read_parquet, run_in_process, save_data

from altdiffusion.batch.engines import local
from altdiffusion.cli import main


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """The worker is here and not in a process of its own, as its tests have it: to import torch takes seconds."""
    monkeypatch.setattr(local, "run_local", run_in_process)
    save_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path)


def test_score_then_filter(capsys, tmp_path):
    (tmp_path / "data/images/004.png").write_bytes(b"nonsense")
    command = ["batch", "score", "data/rows.jsonl", "scores", "--prompt", "a cat", "--partition-size", "6", "--json"]
    assert main(command) == 0
    output = capsys.readouterr()
    summary = json.loads(output.out)
    assert summary["items"] == 9
    assert sum(summary["failed"].values()) == 1
    assert "1 items can't be used, see scores/errors" in output.err

    (tmp_path / "scores/partitions/00001.json").unlink()  # as if killed before the second was done
    kept = (tmp_path / "scores/scores/00000.parquet").stat().st_mtime_ns
    assert main(command) == 0
    output = capsys.readouterr()
    assert json.loads(output.out) == summary
    assert "1 of 2 partitions are done already" in output.err
    assert (tmp_path / "scores/scores/00000.parquet").stat().st_mtime_ns == kept

    filtering = [
        "batch",
        "filter",
        "data/rows.jsonl",
        "best",
        "--scores",
        "scores",
        "--top",
        "0.3",
        "--partition-size",
        "6",
    ]
    assert main(filtering) == 0
    rows = [json.loads(line) for path in sorted((tmp_path / "best/data").iterdir()) for line in path.open()]
    assert len(rows) == 3
    assert {row["uid"] for row in rows} < set(UIDS)
    tables = [read_parquet(path) for path in sorted((tmp_path / "scores/scores").iterdir())]
    scores = {name: score for table in tables for name, score in zip(table["id"], table["cosine"], strict=True)}
    assert {row["uid"] for row in rows} == set(sorted(scores, key=scores.get)[-3:])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["score", "gone.csv", "out"], "there is no gone.csv"),
        (["score", "data/images", "data"], "data holds other files"),
        (["score", "data/images", "out", "--modle", "m"], "--modle is no option: do you mean --model?"),
        (["score", "data/images", "out", "--gpus", "0.5"], "--gpus: only with --engine ray"),
        (["score", "data/images", "out", "--model", "gone"], "--model: "),
        (["filter", "data/images", "out"], "--scores is missing"),
        (["generate", "data/images", "out"], "is a folder: tables of prompts"),
        (["generate", "data/rows.csv", "out", "--strength", "0.5"], "strength needs an init image"),
        (["scor", "data/images", "out"], "scor is no command: do you mean score?"),
    ],
)
def test_bad_input_is_one_line(capsys, words, said):
    assert main(["batch", *words]) == 2
    output = capsys.readouterr()
    assert said in output.err
    assert len(output.err.strip().splitlines()) == 1


def test_partitions_that_cannot_be_read_are_tried_again(capsys, tmp_path):
    whole = (tmp_path / "data/001.tar").read_bytes()
    (tmp_path / "data/001.tar").write_bytes(whole[:4000])
    command = ["batch", "score", "data/{000..001}.tar", "out", "--prompt", "a cat"]
    assert main(command) == 2
    assert "1 of 2 partitions can't be read" in capsys.readouterr().err
    (tmp_path / "data/001.tar").write_bytes(whole)
    assert main(command) == 0
    assert len(list((tmp_path / "out/scores").iterdir())) == 2
