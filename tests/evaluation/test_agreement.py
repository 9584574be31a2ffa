"""Which metrics agree with a truth: against counting all pairs, and scipy's numbers on cases by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from altdiffusion import InputError
from altdiffusion.evaluation.agreement import agreement, rank_correlation, read_truth, told_apart


@pytest.mark.parametrize("seed", range(4))
def test_told_apart_counts_pairs(seed):
    random = np.random.default_rng(seed)
    scores, right = random.integers(0, 6, 30).astype(float), random.random(30) < 0.6
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[right] for b in scores[~right]]
    assert told_apart(scores, right) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("right", [[True] * 3, [False] * 3])
def test_without_both_kinds_nothing_is_told(right):
    assert told_apart(np.arange(3.0), np.array(right)) is None
    assert agreement({"a": [1, 2, 3]}, right, ["en"] * 3, [0, 1, 2]) == []


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1),
        ([1, 2, 3], [3, 2, 1], -1),
        ([1, 2, 2, 3], [1, 3, 2, 4], 0.9486832980505138),  # scipy.stats.spearmanr
        ([1, 1, 1], [1, 2, 3], None),
    ],
)
def test_rank_correlation(one, other, expected):
    found = rank_correlation(np.array(one), np.array(other))
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_metric_that_knows_and_one_that_does_not():
    right = [True, False, True, True, False, True, True, True, False]
    languages = ["en"] * 3 + ["zh"] * 3 + ["ja"] * 3
    rows = [0, 1, 2] * 3
    metrics = {
        "knows": [float(each) for each in right],
        "none": [0.5] * 9,
        "some": [None, None, None, 1, 0, 1, 1, 1, 0],
    }
    found = {each.metric: each for each in agreement(metrics, right, languages, rows)}
    assert found["knows"].images.value == found["knows"].within == found["some"].images.value == 1
    assert found["none"].images.value == found["none"].within == 0.5
    assert found["none"].languages is None
    assert found["some"].languages is None  # two languages are no ranking
    assert found["knows"].images.low <= 1


def test_truth_is_found_by_the_ends_of_names(tmp_path):
    path = tmp_path / "results.jsonl"
    lines = [
        {"filename": f"/there/{name}", "correct": right} for name, right in (("en/1.png", True), ("zh/1.png", False))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert read_truth([path], ["zh/1.png", "en/1.png"]) == [False, True]
    with pytest.raises(InputError, match="1 are in none of"):
        read_truth([path], ["en/1.png", "ja/1.png"])


@pytest.mark.parametrize("text", ["{", '{"filename": "a.png"}\n', "[1]\n", '"a"\n'])
def test_a_truth_that_is_none(tmp_path, text):
    (tmp_path / "truth.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"truth.jsonl:1: expected a line like"):
        read_truth([tmp_path / "truth.jsonl"], ["a.png"])
    with pytest.raises(InputError, match="can't be read"):
        read_truth([tmp_path / "none.jsonl"], ["a.png"])
