"""Every row of the tables in docs/prompts.md holds."""

import re
from pathlib import Path

import pytest

from altdiffusion import InputError
from altdiffusion.prompt_syntax import check, expand_choices, parse_weights, schedule, take_loras

PAGE = Path(__file__).parents[2] / "docs" / "prompts.md"
_CELL = re.compile(r"(?<!\\)\|")


def rows(column):
    """(prompt, what the page says of it) in all tables whose second column has this name."""
    found = []
    inside = False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().replace(r"\|", "|") for cell in _CELL.split(line)[1:-1]]
        if len(cells) != 2 or cells[1] == "---":
            inside = inside and bool(cells)
        elif cells[0] == "prompt":
            inside = cells[1] == column
        elif inside:
            found.append((cells[0].removeprefix("`").removesuffix("`"), cells[1]))
    return found


def in_code(cell):
    return re.findall(r"`([^`]*)`", cell)


def test_the_page_has_every_table():
    tables = {column: len(rows(column)) for column in ("weights", "in 4 steps", "combinations", "LoRAs", "refused, as")}
    assert all(number >= 9 for number in tables.values()), tables


@pytest.mark.parametrize(("prompt", "said"), rows("weights"))
def test_weights_and_breaks(prompt, said):
    read = parse_weights(prompt)
    spans = ", ".join(f"`{read.text[span.start : span.end]}` × {round(span.weight, 4):g}" for span in read.spans)
    assert spans + "".join(f", break before `{read.text[start:]}`" for start in read.breaks) == said


@pytest.mark.parametrize(("prompt", "said"), rows("in 4 steps"))
def test_the_prompt_of_each_step(prompt, said):
    parts = schedule(prompt, 4)
    assert [next(part.prompt for part in parts if step < part.until) for step in range(4)] == in_code(said)


@pytest.mark.parametrize(("prompt", "said"), rows("combinations"))
def test_choices(prompt, said):
    assert expand_choices(prompt) == in_code(said)


@pytest.mark.parametrize(("prompt", "said"), rows("LoRAs"))
def test_loras(prompt, said):
    text, loras = take_loras(prompt)
    told = [f"`{text}`"]
    for lora in loras:
        told.append(f"LoRA `{lora.name}` {lora.weight:g}")
        if lora.text_encoder_weight is not None:
            told.append(f"text encoder {lora.text_encoder_weight:g}")
    assert ", ".join(told) == said


@pytest.mark.parametrize(("prompt", "said"), rows("refused, as"))
def test_refusals_are_one_line_that_says_why(prompt, said):
    with pytest.raises(InputError, match=re.escape(said)) as error:
        check(prompt, steps=4)
    assert str(error.value).startswith("prompt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("column", ["weights", "in 4 steps", "combinations", "LoRAs"])
def test_what_the_page_shows_is_well_formed(column):
    for prompt, _ in rows(column):
        check(prompt)
