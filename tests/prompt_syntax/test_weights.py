"""Weights and breaks: A1111's expected results, and what holds for any prompt."""

import random
from itertools import pairwise

import pytest

from altdiffusion import InputError
from altdiffusion.prompt_syntax import Span, parse_weights

WORDS = ["a cat", ", ", "黑暗精灵公主", "，森林。", "夜空と海", "قطة، كلب", "it's 4k", "BREAKS", "\n", "é"]
SYNTAX = [*r"()[]{}:|\（）［］：", "BREAK", "1.2", " "]
BRACKETS = [(1.1, "(", ")"), (1.3, "（", "：1.3）"), (0.5, "(", ":0.5)"), (1 / 1.1, "[", "]")]


def pieces(parsed):
    return [(parsed.text[span.start : span.end], span.weight) for span in parsed.spans]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
    ],
)
def test_a1111s_documented_results(prompt, expected):
    assert pieces(parse_weights(prompt)) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("(unbalanced", [("unbalanced", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                *[("a ", 1.0), ("house", 1.5730000000000004), (" ", 1.1), ("on", 1.0), (" a ", 1.1)],
                *[("hill", 0.55), (", sun, ", 1.1), ("sky", 1.4641000000000006), (".", 1.1)],
            ],
        ),
    ],
)
def test_a1111s_documented_results_for_malformed_prompts(prompt, expected):
    assert pieces(parse_weights(prompt, lenient=True)) == expected
    with pytest.raises(InputError):
        parse_weights(prompt)


@pytest.mark.parametrize("seed", range(20))
def test_text_without_syntax_is_plain_and_unchanged(seed):
    generator = random.Random(seed)
    prompt = "".join(generator.choices(WORDS, k=generator.randrange(12)))
    parsed = parse_weights(prompt)
    assert (parsed.text, parsed.is_plain, parsed.breaks) == (prompt, True, ())
    assert parsed.spans == ((Span(0, len(prompt), 1.0),) if prompt else ())


@pytest.mark.parametrize("seed", range(20))
def test_escaped_text_is_plain_and_comes_back(seed):
    generator = random.Random(seed)
    text = "".join(generator.choices(WORDS + SYNTAX, k=15))
    parsed = parse_weights("".join("\\" + character for character in text))
    assert (parsed.text, parsed.is_plain) == (text, True)


def weighted(generator, depth, weight):
    """A prompt and the weight of each of its characters, made from the grammar."""
    prompt, weights = "", []
    for _ in range(generator.randint(1, 3)):
        factor, left, right = generator.choice(BRACKETS)
        if depth:
            inner, own = weighted(generator, depth - 1, weight * factor)
            prompt, weights = prompt + left + inner + right, weights + own
        word = generator.choice(WORDS)
        prompt, weights = prompt + word, weights + [weight] * len(word)
    return prompt, weights


@pytest.mark.parametrize("seed", range(20))
def test_each_character_has_the_product_of_its_brackets(seed):
    prompt, weights = weighted(random.Random(seed), 3, 1.0)
    parsed = parse_weights(prompt)
    assert len(parsed.text) == len(weights)
    read = [span.weight for span in parsed.spans for _ in range(span.start, span.end)]
    assert read == pytest.approx(weights)


@pytest.mark.parametrize("seed", range(40))
def test_lenient_reads_anything_and_spans_cover_the_text(seed):
    generator = random.Random(seed)
    parsed = parse_weights("".join(generator.choices(WORDS + SYNTAX, k=20)), lenient=True)
    edges = [0, *(span.end for span in parsed.spans)]
    assert [span.start for span in parsed.spans] == edges[:-1]
    assert edges[-1] == len(parsed.text)
    assert all(before.weight != after.weight for before, after in pairwise(parsed.spans))


@pytest.mark.parametrize(
    ("prompt", "text", "breaks"),
    [
        ("a BREAK b BREAK c", "a b c", (2, 4)),
        ("a BREAK BREAK b", "a b", (2, 2)),
        ("BREAK a", "a", (0,)),
        ("a BREAK", "a ", (2,)),
        ("(a) BREAK (b)", "a b", (2,)),
        ("a,\nBREAK\nb", "a, b", (3,)),
        ("猫BREAK狗", "猫 狗", (2,)),
        ("BREAKS, aBREAK, BREAK_1", "BREAKS, aBREAK, BREAK_1", ()),
    ],
)
def test_breaks(prompt, text, breaks):
    parsed = parse_weights(prompt)
    assert (parsed.text, parsed.breaks, parsed.is_plain) == (text, breaks, not breaks)


@pytest.mark.parametrize("prompt", ["(cat:1)", "([cat]:1)", "(a:0.5) (b:2)", "(cat:0)"])
def test_only_weights_of_one_are_plain(prompt):
    assert parse_weights(prompt).is_plain == all(weight == 1 for _, weight in pieces(parse_weights(prompt)))
    assert parse_weights(prompt).is_plain == (prompt == "(cat:1)")
