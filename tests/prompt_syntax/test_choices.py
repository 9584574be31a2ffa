"""Choices: every combination once and in order, one by seed, and nothing without a bound."""

import pytest

from altdiffusion import InputError
from altdiffusion.prompt_syntax import choose, expand_choices

PROMPTS = ["a cat", "{a|b|c}", "{红|蓝}色的{猫|{大|小}狗}", "{a|}｛x｜[y|z]｝", r"\{a\} {b|c}"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_seed_gives_one_of_the_combinations_and_the_same_again(prompt):
    combinations = expand_choices(prompt)
    chosen = [choose(prompt, seed) for seed in range(100)]
    assert chosen == [choose(prompt, seed) for seed in range(100)]
    assert set(chosen) == set(combinations)


def test_choices_by_seed_stay_as_they_were_published():
    assert [choose("{a|b|c}", seed) for seed in range(12)] == list("cacaabcaabbb")


@pytest.mark.parametrize("count", [1, 9, 400])
def test_the_limit_is_kept_before_anything_is_built(count):
    prompt = "{a|b}" * count
    if count == 400:
        with pytest.raises(InputError, match="more than 1000 combinations"):
            expand_choices(prompt)
    else:
        assert len(expand_choices(prompt)) == 2**count
        with pytest.raises(InputError, match="more than 1 "):
            expand_choices(prompt, limit=1)


@pytest.mark.parametrize("prompt", ["{a", "a}", "{a}", "{{a}}", "{2$$a|b}", "{0.5::a|b}"])
def test_lenient_leaves_malformed_braces_as_text(prompt):
    assert expand_choices(prompt, lenient=True) == [prompt] == [choose(prompt, 1, lenient=True)]
    with pytest.raises(InputError):
        choose(prompt, 1)
