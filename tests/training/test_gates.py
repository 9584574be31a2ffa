"""Gates: when a bridge is good enough, language by language."""

import math

import pytest
import torch

from altdiffusion.errors import TrainingStopped
from altdiffusion.training import gates

WANTED = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
EMPTY = torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (WANTED, 0.0),
        (EMPTY, 1.0),
        (2 * WANTED, 1.0),
        (-WANTED, 2.0),
        (WANTED / 2, 0.5),
        (WANTED + torch.tensor([[3.0, 0.0], [0.0, 0.0]]), math.sqrt(9 / 30)),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 100.0])
def test_the_error_is_beside_what_the_text_does(given, error, scale):
    assert gates.relative_error(scale * given, scale * WANTED, scale * EMPTY) == pytest.approx(error)


@pytest.mark.parametrize(("given", "error"), [(WANTED, 0.0), (EMPTY, math.inf)])
def test_where_the_text_does_nothing_any_error_is_infinite(given, error):
    assert gates.relative_error(given, WANTED, WANTED) == error


def test_a_text_without_effect_weighs_nothing():
    wanted, empty = torch.tensor([[2.0], [5.0]]), torch.tensor([[0.0], [5.0]])
    assert gates.relative_error(torch.tensor([[1.0], [5.0]]), wanted, empty) == pytest.approx(0.5)


METRICS = {
    "zh R@1": 0.95,
    "zh prediction error": 0.2,
    "ja R@1": 0.7,
    "ja prediction error": 0.6,
    "ar R@1": 0.99,
    "zh mse": 9.0,
}


@pytest.mark.parametrize(
    ("minimum", "maximum", "lines"),
    [
        (0.0, None, []),
        (0.7, None, []),
        (0.9, None, ["ja: R@1 0.7, expected at least 0.9"]),
        (0.0, 0.6, ["ar: prediction error not measured, expected at most 0.6"]),
        (
            0.96,
            0.5,
            [
                "zh: R@1 0.95, expected at least 0.96",
                "ja: R@1 0.7, expected at least 0.96; prediction error 0.6, expected at most 0.5",
                "ar: prediction error not measured, expected at most 0.5",
            ],
        ),
    ],
)
def test_each_language_below_a_gate_is_a_line_with_what_was_expected(minimum, maximum, lines):
    assert gates.failures(METRICS, ["zh", "ja", "ar"], minimum, maximum) == lines


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_is_not_a_number_is_not_good_enough(value):
    assert gates.failures({"zh R@1": value}, ["zh"], 0.1, None)
    assert gates.failures({"zh prediction error": math.nan}, ["zh"], 0.0, 0.1)


def test_below_a_gate_the_training_ends_with_one_line_and_says_that_the_bridge_is_saved():
    gates.stop_below([], ["zh"], "out/model")
    with pytest.raises(TrainingStopped, match=r"^1 of 3 languages .* the bridge in out/model is saved: "):
        gates.stop_below(["ja: R@1 0"], ["zh", "ja", "ar"], "out/model")


@pytest.mark.parametrize(
    ("now", "max_loss", "lines"),
    [
        ({"zh": 0.95, "ja": 0.7}, 0.5, []),
        ({"zh": 0.946, "ja": 0.9}, 0.5, []),
        ({"zh": 0.945, "ja": 0.695}, 0.5, []),
        ({"zh": 0.944, "ja": 0.7}, 0.5, ["zh: R@1 95.0 before, 94.4 now"]),
        ({"zh": 0.949, "ja": 0.2}, 0.0, ["zh: R@1 95.0 before, 94.9 now", "ja: R@1 70.0 before, 20.0 now"]),
        ({"zh": 0.0, "ja": 0.2}, 50.0, ["zh: R@1 95.0 before, 0.0 now"]),
    ],
)
def test_each_language_that_lost_too_much_is_a_line(now, max_loss, lines):
    measured = {f"{name} R@1": value for name, value in now.items()}
    assert gates.lost(METRICS, measured, ["zh", "ja"], max_loss) == lines


def test_a_language_that_lost_too_much_stops_the_training_with_one_line():
    gates.stop_lost([], 0.5, "step 7")
    with pytest.raises(TrainingStopped, match=r"^step 7: zh: R@1 95.0 before, 94.4 now: more than --max-loss 0.5\. "):
        gates.stop_lost(["zh: R@1 95.0 before, 94.4 now"], 0.5, "step 7")
