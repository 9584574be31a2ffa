"""Contenders take turns, and ratios are honest."""

import torch

from altdiffusion.benchmark import runs
from altdiffusion.benchmark.timing import Comparison, Contender, in_turns

CPU = torch.device("cpu")


def test_contenders_take_turns_after_a_warm_up():
    calls = []
    found = in_turns({name: lambda name=name: calls.append(name) for name in "ab"}, 2, CPU)
    assert calls == ["a", "b"] * 3
    assert [len(each.values) for each in found] == [2, 2]


def test_a_ratio_is_of_medians_and_tells_how_much_faster_ours_is():
    ours, peer = Contender("ours", [1.0, 2.0, 9.0]), Contender("peer", [6.0, 8.0, 7.0])
    comparison = Comparison("work", [ours, peer, Contender("absent", note="not installed")])
    assert comparison.ratio(peer) == 3.5
    assert comparison.ratio(comparison.contenders[2]) is None
    _, _, theirs, absent = runs.rows(runs.as_document(comparison))
    assert "3.50 x" in theirs
    assert "not installed" in absent
