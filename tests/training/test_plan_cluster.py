"""pipelines/plan_cluster.py: its arithmetic by hand, and what it refuses."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "pipelines/plan_cluster.py"


@pytest.fixture(scope="module")
def plan():
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize(
    ("parameters", "gpus", "gbit", "seconds"),
    [(1e9, 2, 32, 1.0), (1e9, 4, 32, 1.5), (2e9, 2, 64, 1.0), (1e9, 1, 32, 0.0)],  # 4 GB over 4 GB/s: once for two
)
def test_a_ring_sends_two_times_all_but_one_part(plan, parameters, gpus, gbit, seconds):
    assert plan["seconds_of_all_reduce"](parameters, gpus, gbit) == pytest.approx(seconds)


def test_operations_of_the_text_tower_are_six_a_weight_and_token(plan):
    needs = plan["work"]({}, "distill", 32)
    layers = 24 * (4 * 1024**2 + 2 * 1024 * 4096)  # attention and feed-forward of XLM-R large
    teacher = 12 * (4 * 768**2 + 2 * 768 * 3072)  # CLIP-L's, forward alone
    assert needs.operations == pytest.approx((6 * layers + 2 * teacher) * 32, rel=0.03)
    assert needs.trained == pytest.approx(560e6, rel=0.01)


def test_checkpointing_computes_forward_twice(plan):
    once, twice = (plan["work"]({"gradient_checkpointing": each}, "distill", 8).operations for each in (False, True))
    assert 1.25 < twice / once < 1.34


def test_keys_and_values_are_what_concept_alignment_trains(plan):
    assert plan["work"]({"trainable": "kv", "resolution": 64}, "align", 8).trained == pytest.approx(19.2e6, rel=0.01)


def test_what_was_measured_takes_the_place_of_what_is_assumed(plan):
    given = plan["parser"].parse_args(["--gpus", "8", "--bandwidth-gbit", "1e9", "--hour-price", "2"])
    cells, hours, cost = plan["row"]("distill", given, {"distill": 128.0})  # 1,024 in a second on eight
    assert hours == pytest.approx(322000 / 3600, rel=0.001)
    assert cost == pytest.approx(hours * 8 * 2)
    assert "*" not in "".join(cells)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--gpus", "7"], "batches of 1024 can't be shared by 7 GPUs"),
        (["--samples-per-second", "align=3"], "there is no phase 'align'"),
    ],
)
def test_what_makes_no_sense_is_said(plan, monkeypatch, words, told):
    monkeypatch.setattr("sys.argv", ["plan_cluster.py", *words])
    with pytest.raises(SystemExit, match=told):
        plan["main"]()
