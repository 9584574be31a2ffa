"""`altdiffusion tokens`."""

import json

import pytest


@pytest.mark.parametrize(
    ("prompt", "lines"),
    [
        ("(一只猫:1.2)，月亮", ["chunk 1 of 1: 5 of 75 tokens", "  ▁一只(1.2) 猫(1.2) ，"]),
        ("a cat BREAK a dog", ["chunk 1 of 2: 3 of 75 tokens", "chunk 2 of 2: 3 of 75 tokens"]),
        ("[猫:狗:0.5]", ["steps 1 to 12: 猫", "steps 13 to 25: 狗"]),
        ("<lora:ink:0.8> cat", ["LoRA ink, weight 0.8"]),
        ("a {red|blue} cat", ["a red cat", "a blue cat"]),
        (
            "猫" * 520,
            [
                "chunk 7 of 7: 71 of 75 tokens",
                "  521 tokens, and generate reads at most 510: leave out as much as “猫猫",
            ],
        ),
        ("☃", ["  ▁ ?☃?", "  not in the vocabulary: ☃"]),
    ],
)
def test_what_is_read_is_told(run, prompt, lines):
    printed = run("tokens", prompt).out.splitlines()
    for line in lines:
        assert any(each.startswith(line) for each in printed), printed


def test_a_model_with_clips_tokenizer(run):
    assert run("tokens", "(a cat:1.2)", "--model", "sd-mini").out.splitlines()[1] == "  a</w>(1.2) cat</w>(1.2)"


def test_json(run):
    document = json.loads(run("tokens", "(猫:1.2)", "--json").out)
    ((chunk,),) = (part["chunks"] for part in document["prompts"][0]["parts"])
    assert chunk[-1] == {"piece": "猫", "text": "猫", "weight": 1.2, "known": True}
    literal = json.loads(run("tokens", "(猫:1.2)", "--json", "--prompt-syntax", "none").out)
    assert "".join(piece["text"] for piece in literal["prompts"][0]["parts"][0]["chunks"][0][1:]) == "(猫:1.2)"


def test_what_is_malformed_is_one_line(run):
    done = run("tokens", "a (cat")
    assert done.status == 2
    assert "( isn't closed" in done.err
