"""Prompt editing: A1111's expected results, and what holds for any prompt."""

import random
from itertools import pairwise

import pytest

from altdiffusion import InputError
from altdiffusion.prompt_syntax import schedule


def parts(prompt, steps, **options):
    return [(part.until, part.prompt) for part in schedule(prompt, steps, **options)]


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("[a|(b:1.1)]", [(step, "(b:1.1)" if step % 2 == 0 else "a") for step in range(1, 11)]),
        ("[fe|]male", [(step, "male" if step % 2 == 0 else "female") for step in range(1, 11)]),
    ],
)
def test_a1111s_documented_results(prompt, expected, lenient):
    assert parts(prompt, 10, lenient=lenient) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[a:b:1.5]", [(10, "a")]),
        ("[a:b:-1]", [(10, "b")]),
        ("[a:b:c:3]", [(10, "[a:b:c:3]")]),
        ("x | y [a:b:3]", [(10, "x | y [a:b:3]")]),
    ],
)
def test_lenient_reads_as_a1111_does(prompt, expected):
    assert parts(prompt, 10, lenient=True) == expected


def test_a1111s_example_in_a_hundred_steps():
    prompt = (
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75]"
        "[ in foreground::0.6][ in background:0.25] [shoddy:masterful:0.5]"
    )
    assert parts(prompt, 100) == [
        (25, "fantasy landscape with a mountain and an oak in foreground shoddy"),
        (50, "fantasy landscape with a lake and an oak in foreground in background shoddy"),
        (60, "fantasy landscape with a lake and an oak in foreground in background masterful"),
        (75, "fantasy landscape with a lake and an oak in background masterful"),
        (100, "fantasy landscape with a lake and a christmas tree in background masterful"),
    ]


@pytest.mark.parametrize("steps", [1, 2, 25])
@pytest.mark.parametrize("prompt", ["a", "[a:b:0]", "[a:b:0.5]", "[a:b:1.0]", "[a|a]", "[a|b] [c:d:7]", "[猫｜狗]"])
def test_parts_rise_to_the_last_step_and_neighbours_differ(prompt, steps):
    found = parts(prompt, steps)
    assert [until for until, _ in found] == sorted({until for until, _ in found} | {steps})
    assert all(before[1] != after[1] for before, after in pairwise(found))


@pytest.mark.parametrize("seed", range(40))
def test_lenient_reads_anything(seed):
    generator = random.Random(seed)
    prompt = "".join(generator.choices([*r"()[]:|\（［］：", "[a:b:2]", "[a|b]", "3", "0.5", "猫"], k=15))
    assert parts(prompt, 5, lenient=True)[-1][0] == 5


@pytest.mark.parametrize("lenient", [False, True])
def test_brackets_too_deep_are_refused(lenient):
    with pytest.raises(InputError, match="brackets in brackets"):
        schedule("[" * 2000 + "a" + "]" * 2000, 10, lenient)


def test_no_steps_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        schedule("a", 0)
