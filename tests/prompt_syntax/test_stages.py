"""All stages together: the plain text for scoring, and errors that point into the prompt as it was written."""

import pytest

from altdiffusion import InputError
from altdiffusion.prompt_syntax import LoraTag, check, only_words, parse_weights, plain_text, stages, take_loras


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("一只猫", "一只猫"),
        ("a  b\nc", "a  b\nc"),
        ("(masterpiece:1.2), {cat|dog}, <lora:ink:0.8> BREAK [day:night:0.5]", "masterpiece, cat, night"),
        (r"rem \(re:zero\), \{x\}, \<lora:y>", "rem (re:zero), {x}, <lora:y>"),
        ("（黑暗精灵公主：1.2），｛红｜蓝｝", "黑暗精灵公主，红"),
    ],
)
def test_plain_text(prompt, text):
    assert plain_text(prompt) == text
    check(prompt)


@pytest.mark.parametrize(
    ("prompt", "place"),
    [
        ("<lora:ink:1> a (cat", "character 16"),
        ("{a long choice|b} (cat", "character 19"),
        ("[a:b:3] cat]", "character 12"),
        ("{a|(b} c)", "character 4"),
        ("a 猫（狗", "character 4"),
    ],
)
def test_brackets_are_named_by_their_place_in_the_whole_prompt(prompt, place):
    with pytest.raises(InputError, match=place):
        check(prompt)


@pytest.mark.parametrize("prompt", ["{a|(b:x)}", "{a|[b:c:9.5]}", "[a|(b:20)]", "[a:b <lora:x:y>:3]"])
def test_what_is_malformed_in_any_choice_or_step_is_refused(prompt):
    with pytest.raises(InputError):
        check(prompt)


@pytest.mark.parametrize("prompt", ["<lora:ink", "<lora::1>", "<lora:ink:x>", "<hypernet:x:1>", "<lora:a:1:1:8>"])
def test_lenient_leaves_unread_tags_as_text(prompt):
    assert take_loras(f"{prompt} <lora:b:2>", lenient=True)[1] in [(LoraTag("b", 2.0),), ()]
    assert prompt in take_loras(prompt, lenient=True)[0]


@pytest.mark.parametrize(
    "prompt",
    [
        "{a|(b:x)}",
        "{a|b} {c|d (e:11)}",
        "{a|{b|[c:d]}}",
        "[a:(b:x):0.5]",
        "[a|b|(c:x)]",
        "[a:[b|(c:99)]:3]",
        "{a|<lora:>}",
    ],
)
def test_check_reads_every_option_and_every_branch(prompt):
    with pytest.raises(InputError):
        check(prompt)


@pytest.mark.parametrize("prompt", ["{a|b} " * 9 + "[x|y] " * 150, "{a|b|c|d|e|f|g|h|i|j}" * 3 + "[q|w|e|r|t]" * 100])
def test_check_does_not_read_every_combination(prompt, monkeypatch):
    read = []
    monkeypatch.setattr(stages, "parse_weights", lambda part: read.append(part) or parse_weights(part))
    check(prompt, steps=999)
    assert 0 < len(read) <= stages.MAX_CHECKED + len(prompt)


@pytest.mark.parametrize("prompt", ["()", "(:1.2)", "（）", "{|}", "<lora:ink:1>", "( ) BREAK"])
def test_syntax_without_words_is_refused(prompt):
    with pytest.raises(InputError, match="has no words"):
        check(prompt)


@pytest.mark.parametrize("prompt", ["", " ", "{|cat}", "[cat::0.5]", "[cat:0.5]", "(cat:0)"])
def test_words_at_any_step_or_in_any_choice_will_do(prompt):
    check(prompt)  # an empty prompt is told by others: as a negative one it is fine


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a cat", "a cat"),
        (r"rem \(re:zero\)", "rem (re:zero)"),
        ("(cat:1.0)", "cat"),
        (r"`a` \` ``", "`a` `` ``"),
        ("<sks> cat", "<sks> cat"),
    ],
)
def test_only_words(prompt, text):
    assert only_words(prompt) == text


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("(cat:1.2)", "can't keep weights"),
        ("[猫]", "can't keep weights"),
        ("a BREAK b", "can't keep breaks"),
        ("a {red|blue} cat", "can't keep choices"),
        ("[猫:狗:0.5]", "can't keep words that change"),
        ("[猫|狗]", "can't keep words that change"),
        ("<lora:ink:0.8> cat", "can't keep LoRAs"),
        ("(cat", "isn't closed"),
        ("()", "has no words"),
    ],
)
def test_only_words_can_be_kept(prompt, message):
    with pytest.raises(InputError, match=message):
        only_words(prompt)
    assert only_words(prompt, "none") == prompt
