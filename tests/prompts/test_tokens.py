"""Tokens find their weights by character offsets; chunks end where a clause does, in any script."""

import pytest

from altdiffusion import InputError, load_text_encoder
from altdiffusion.prompt_syntax import parse_weights
from altdiffusion.prompts.tokens import CHUNK, in_chunks, prompt_tokens


@pytest.fixture(scope="module")
def tokenizer():
    return load_text_encoder("mini")[1]


def tokens(tokenizer, prompt):
    return prompt_tokens(tokenizer, parse_weights(prompt))


def chunk_texts(tokenizer, prompt):
    parsed = parse_weights(prompt)
    chunks = in_chunks(prompt_tokens(tokenizer, parsed), parsed)
    assert all(len(chunk) <= CHUNK for chunk in chunks)
    return [parsed.text[chunk[0].start : chunk[-1].end] if chunk else "" for chunk in chunks]


@pytest.mark.parametrize(
    "prompt",
    [
        "(一只猫:1.5)，月光",
        "a (red:1.3) house",
        "(猫が:1.2)いる",
        "قطة (حمراء:0.8) كبيرة",
        "（红色：1.2）的猫",
        "[кот] и (собака)",
    ],
)
def test_brackets_never_change_where_a_word_is_cut(tokenizer, prompt):
    weighted = tokens(tokenizer, prompt)
    text = parse_weights(prompt).text
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [token.id for token in weighted] == plain
    spans = parse_weights(prompt).spans
    for token in weighted:
        inside = [span.weight for span in spans if span.start <= token.start and token.end <= span.end]
        assert not inside or token.weight == inside[0]
    assert {round(token.weight, 4) for token in weighted} <= {round(span.weight, 4) for span in spans}


def test_a_token_over_two_weights_has_their_mean_by_characters(tokenizer):
    (token,) = [token for token in tokens(tokenizer, "(一:1.6)只猫") if token.end - token.start == 2]
    assert token.piece.endswith("一只")
    assert token.weight == pytest.approx((1.6 + 1) / 2)


@pytest.mark.parametrize(
    ("clause", "end"),
    [("a red cat on a beach", ", "), ("一只红色的猫", "，"), ("赤い猫がいる", "、"), ("قطة حمراء", "، "), ("красный кот", ". "),
     ("एक लाल बिल्ली", "। "), ("a cat", "\n"), ("一只猫", "；"), ("고양이 한 마리", "! ")],
)  # fmt: skip
def test_a_chunk_ends_with_a_clause(tokenizer, clause, end):
    prompt = (clause + end) * 30
    texts = chunk_texts(tokenizer, prompt)
    assert len(texts) > 1
    whole = (clause + end).strip()
    assert all(text.endswith(whole) for text in texts[:-1])
    assert all(text.startswith(clause) for text in texts)


def test_without_clauses_a_chunk_ends_with_a_word_and_else_when_it_is_full(tokenizer):
    assert all(text.endswith("cat") for text in chunk_texts(tokenizer, "a cat " * 60))
    assert [len(chunk) for chunk in in_chunks(tokens(tokenizer, "猫" * 100), parse_weights("猫" * 100))] == [75, 26]


@pytest.mark.parametrize("number", ["1.5", "1,000"])
def test_a_number_is_no_clause_end(tokenizer, number):
    texts = chunk_texts(tokenizer, f"size {number} " * 40)
    assert all(text.endswith(number) for text in texts)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat BREAK a dog", ["a cat", "a dog"]),
        ("一只猫 BREAK 一只狗 BREAK 月光", ["一只猫", "一只狗", "月光"]),
        ("(a cat BREAK a dog:1.2), a sun", ["a cat", "a dog, a sun"]),
        ("", [""]),
        ("a cat", ["a cat"]),
    ],
)
def test_break_ends_a_chunk(tokenizer, prompt, expected):
    assert chunk_texts(tokenizer, prompt) == expected


def test_more_than_510_tokens_are_refused_and_510_are_not(tokenizer):
    assert len(tokens(tokenizer, "猫" * 509)) == 510
    with pytest.raises(InputError, match=r"'猫猫.* has 511 tokens: expected at most 510"):
        tokens(tokenizer, "猫" * 510)


def test_what_the_vocabulary_lacks_is_told(tokenizer):
    assert [token.known for token in tokens(tokenizer, "猫 ☃")] == [True, True, True, False]
