"""`altdiffusion tokens`."""

import json
import re

import pytest
from helpers.bridges import readable, save_entrance_bridge, small_bridge


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


@pytest.fixture(scope="module")
def with_bridge(tmp_path_factory, published):
    folder = save_entrance_bridge(tmp_path_factory.mktemp("bridge") / "entrance", readable())
    return ["--bridge", folder, "--text-encoder", published("m9")]


def test_the_english_that_a_bridge_understood_is_told(run, with_bridge):
    lines = run("tokens", "(一只猫:1.2), a dog", *with_bridge).out.splitlines()
    assert lines[0].startswith("chunk 1 of 1: ")
    assert re.fullmatch(r"  (〈\S+〉\(1\.2\) )+,</w> a</w> dog</w>", lines[1])
    assert re.fullmatch(r"  一只猫 → (\S+ \d+%.* \(free rest \d+%\)( · )?)+", lines[2])
    assert len(lines) == 3
    document = json.loads(run("tokens", "猫, a dog", "--json", "--route", "all", *with_bridge).out)
    assert [each["text"] for each in document["prompts"][0]["parts"][0]["understood"]] == ["猫, a dog"]
    assert "→" not in run("tokens", "猫, a dog", "--literal", "猫", *with_bridge).out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--route", "all"], "--route needs --bridge: name one, or leave --route out"),
        (["--literal", "x"], "--literal needs --bridge"),
        (["--text-encoder", "mini"], "--text-encoder needs --bridge"),
        (["--bridge", "nowhere"], "--bridge: unknown model 'nowhere'"),
    ],
)
def test_what_a_bridge_is_needed_for(run, words, line):
    done = run("tokens", "猫", *words)
    assert done.status == 2
    assert line in done.err


def test_bridges_and_models_that_give_no_soft_tokens_are_one_line(run, with_bridge, tmp_path):
    small_bridge().save_pretrained(tmp_path / "exit")
    assert "stands at CLIP's exit and gives no soft tokens" in run("tokens", "猫", "--bridge", tmp_path / "exit").err
    assert "this tokenizer is a XLMRoberta" in run("tokens", "猫", "--model", "mini", *with_bridge).err
    assert "doesn't say which AltCLIP it reads: name it" in run("tokens", "猫", *with_bridge[:2]).err
    wrong = run("tokens", "猫", *with_bridge[:2], "--text-encoder", "mini")
    assert "this bridge reads text states of width 32, this AltCLIP gives 192" in wrong.err
