"""pipelines/plan_cluster.py: its arithmetic by hand, and what it refuses."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "pipelines/plan_cluster.py"


@pytest.fixture(scope="module")
def plan():
    spec = importlib.util.spec_from_file_location("plan_cluster", SCRIPT)
    module = sys.modules["plan_cluster"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("parameters", "gpus", "gbit", "seconds"),
    [(1e9, 2, 32, 1.0), (1e9, 4, 32, 1.5), (2e9, 2, 64, 1.0), (1e9, 1, 32, 0.0)],  # 4 GB over 4 GB/s: once for two
)
def test_a_ring_sends_two_times_all_but_one_part(plan, parameters, gpus, gbit, seconds):
    assert plan.seconds_of_all_reduce(parameters, gpus, gbit) == pytest.approx(seconds)


def test_operations_of_the_text_tower_are_six_a_weight_and_token_and_eight_with_checkpointing(plan):
    layers = 24 * (4 * 1024**2 + 2 * 1024 * 4096)  # attention and feed-forward of XLM-R large
    teacher = 12 * (4 * 768**2 + 2 * 768 * 3072)  # CLIP-L's, forward alone
    for checkpointing, each in ((False, 6), (True, 8)):
        needs = plan.work({"gradient_checkpointing": checkpointing}, "distill", 32)
        assert needs.operations == pytest.approx((each * layers + 2 * teacher) * 32, rel=0.03)
        assert needs.trained == pytest.approx(560e6, rel=0.01)


@pytest.fixture
def nothing_counted(plan, monkeypatch):
    monkeypatch.setattr(plan, "work", lambda *_: plan.Work(10**9, 1e12))


def test_what_was_measured_takes_the_place_of_what_is_assumed(plan, nothing_counted):
    given = plan.parser.parse_args(["--gpus", "8", "--bandwidth-gbit", "1e9", "--hour-price", "2"])
    cells, hours, cost = plan.row("distill", given, {"distill": 128.0})  # 1,024 in a second on eight
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
def test_what_makes_no_sense_is_said(plan, nothing_counted, monkeypatch, words, told):
    monkeypatch.setattr("sys.argv", ["plan_cluster.py", *words])
    with pytest.raises(SystemExit, match=told):
        plan.main()
