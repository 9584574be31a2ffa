"""Grids and choices: which images they ask for, and what is refused before any model is loaded."""

import pytest

from altdiffusion import InputError
from altdiffusion.generation.grid import parse_grid, variants
from altdiffusion.generation.settings import ImageSettings


def test_every_combination_is_there_the_last_axis_changing_fastest():
    found = variants(ImageSettings(prompt="a", seed=3), parse_grid("steps=10,20 guidance_scale=3,7"))
    assert found.axes == (("steps=10", "steps=20"), ("guidance_scale=3", "guidance_scale=7"))
    assert [(each.steps, each.guidance_scale) for each in found.settings] == [(10, 3), (10, 7), (20, 3), (20, 7)]
    assert {each.seed for each in found.settings} == {3}


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("scheduler=ddim,'DPM++ 2M Karras'", "scheduler", ["ddim", "DPM++ 2M Karras"]),
        ('negative_prompt="模糊, 噪点",狗', "negative_prompt", ["模糊, 噪点", "狗"]),
        ("negative-prompt='',x", "negative_prompt", ["", "x"]),
        ("seed=1, 2 , 3", "seed", [1, 2, 3]),
        ("size=64x64,96x32", "width", [64, 96]),
        ("weighting=a1111,comfyui", "weighting", ["a1111", "comfyui"]),
        ("strength=0.5,1", "strength", [0.5, 1]),
        ("scheduler=none,ddim", "scheduler", [None, "ddim"]),
    ],
)
def test_values_are_quoted_as_in_a_shell(text, name, values):
    (axis,) = parse_grid(text)
    assert [change[name] for change in axis.changes] == values


@pytest.mark.parametrize(
    ("prompt", "syntax", "prompts"),
    [
        ("{red|blue} {cat|dog}", "webui", ["red cat", "red dog", "blue cat", "blue dog"]),
        ("一只｛猫｜狗｝", "webui", ["一只猫", "一只狗"]),
        ("{cat|dog", "lenient", ["{cat|dog"]),
        ("{cat|dog}", "none", ["{cat|dog}"]),
    ],
)
def test_choices_are_the_first_axis(prompt, syntax, prompts):
    found = variants(ImageSettings(prompt=prompt, prompt_syntax=syntax), parse_grid("seed=1,2"))
    assert [each.prompt for each in found.settings[::2]] == prompts
    assert found.axes == ((tuple(prompts),) if len(prompts) > 1 else ()) + (("seed=1", "seed=2"),)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("stepz=1,2", "stepz is no setting of a grid: do you mean steps?"),
        ("steps=1,x", "steps: expected a whole number or none, got 'x'"),
        ("steps=1,0", "steps: expected 1 to 999, got 0"),
        ("size=64x64,12", "size: expected WIDTHxHEIGHT"),
        ("width=64,12", "width: expected a multiple of 8, got 12"),
        ("steps=1,,2", "a comma without a value"),
        ("steps=1,2,", "a comma without a value"),
        ("steps", "'steps' is no NAME=VALUES"),
        ("", "names of settings with their values"),
        ("steps='1", "no closing quotation: close the quote"),
        ("steps=1,1", "1 is there twice"),
        ("steps=1 steps=2", "steps is there twice"),
        ("size=8x8 width=8", "width is there twice"),
        ("prompt=a,b", "write {a|b}"),
        ("score=1", "score is no setting of a grid"),
        (f"seed={','.join(map(str, range(101)))} steps=1,2,3,4,5,6,7,8,9,10", "1010 combinations"),
    ],
)
def test_a_wrong_grid_is_one_line(text, reason):
    with pytest.raises(InputError) as error:
        parse_grid(text)
    assert reason in str(error.value)
