"""A pipeline's own tokenizer with soft tokens, and what keeps them: as diffusers, transformers and prompt tools call it."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from helpers.bridges import readable, small_entrance_bridge
from transformers import CLIPTokenizer

from altdiffusion import swap_text_encoder
from altdiffusion.errors import InputError
from altdiffusion.text_encoder import soft_prompts

ENGLISH = ["a cat", "", "a cat on a blue background, masterpiece, (best: quality)", "sks, 8k" * 40]
MIXED = ["一只猫", "一只猫, sks", "a cat, 蓝色背景", "猫，狗。鸟！", "кошка на синем фоне", "一只猫 `Studio Ghibli`"]


@pytest.fixture(scope="module")
def plain() -> Any:
    return readable().tokenizer


@pytest.fixture
def pipe(published) -> Any:
    stock = readable()
    return swap_text_encoder(stock, published("m9"), bridge=small_entrance_bridge(stock))


@pytest.fixture
def tokenizer(pipe) -> Any:
    return pipe.tokenizer


@pytest.mark.parametrize("text", ENGLISH)
@pytest.mark.parametrize(
    "asked",
    [
        {"padding": "max_length", "max_length": 77, "truncation": True, "return_tensors": "pt"},
        {"truncation": False, "padding": False},
        {"add_special_tokens": False, "return_offsets_mapping": True},
    ],
)
def test_english_is_tokenized_as_ever(tokenizer, plain, text, asked):
    ours, theirs = tokenizer([text], **asked), plain([text], **asked)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(theirs[name])) for name in ours)
    assert tokenizer.tokenize(text) == plain.tokenize(text)
    assert tokenizer.encode(text) == plain.encode(text)


@pytest.mark.parametrize("text", MIXED)
def test_what_is_not_english_has_ids_below_zero_between_begin_and_end(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert any(token < 0 for token in ids[1:-1])
    assert ids == tokenizer(text).input_ids == tokenizer.encode(text)
    assert tokenizer(text, add_special_tokens=False).input_ids == ids[1:-1]


def test_literal_parts_have_their_own_tokens_in_their_place(tokenizer, plain):
    ids = tokenizer("a cat, 蓝色背景, sks", add_special_tokens=False).input_ids
    before, after = (
        plain("a cat, ", add_special_tokens=False).input_ids,
        plain(", sks", add_special_tokens=False).input_ids,
    )
    assert ids[: len(before)] == before
    assert ids[-len(after) :] == after
    assert all(token < 0 for token in ids[len(before) : -len(after)])


def test_batches_are_padded_and_cut_as_ever(tokenizer, plain):
    texts = ["a cat", "一只猫", "a cat, 一只猫, " * 30]
    batch = tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    assert batch.input_ids.shape == batch.attention_mask.shape == (3, 77)
    assert torch.equal(
        batch.input_ids[0], plain("a cat", padding="max_length", max_length=77, return_tensors="pt").input_ids[0]
    )
    assert batch.input_ids[:, -1].tolist() == [tokenizer.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id]
    assert batch.attention_mask.sum(1).tolist() == [4, 5, 77]
    longest = tokenizer(texts, padding="longest", return_tensors="pt")
    assert longest.input_ids.shape[1] > 77
    assert len(tokenizer.batch_decode(longest.input_ids[:, 76:-1])) == 3


def test_places_of_tokens_lie_in_the_prompt(tokenizer):
    text = "a cat，蓝色背景，`sks`, red"
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert len(encoded.input_ids) == len(encoded.offset_mapping)
    for token, (start, end) in zip(encoded.input_ids, encoded.offset_mapping, strict=True):
        assert 0 <= start <= end <= len(text)
        if token < 0:
            assert text[start:end] == "蓝色背景"
    starts = [start for start, _ in encoded.offset_mapping]
    assert starts == sorted(starts)


def test_soft_tokens_are_shown_as_the_english_that_they_are_nearest_to(tokenizer):
    ids = tokenizer("一只猫, sks").input_ids
    names = tokenizer.convert_ids_to_tokens(ids)
    assert all(
        name.startswith("〈") and name.endswith("〉") for name, token in zip(names, ids, strict=True) if token < 0
    )
    assert tokenizer.tokenize("一只猫, sks") == names[1:-1]
    assert "sks" in tokenizer.decode(ids)
    assert isinstance(tokenizer.convert_ids_to_tokens(ids[1]), str)


@pytest.mark.parametrize(
    "text",
    [*MIXED, "猫" * 300, "`gato`, 一只猫", "`gato`", "a ``cat, 猫", "кошка на синем фоне, sks, 8k", "a cat, wow!"],
)
def test_what_is_decoded_is_read_again_as_the_same_tokens(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer(tokenizer.decode(ids), add_special_tokens=False).input_ids == ids


HOLES = [
    "画`sks`",
    "`sks`风格的猫",
    "蓝色背景上的`a cat`，red, 一只`sks`狗",
    "a dog, `gato`在桌上",
    "桌上的`gato`, a dog",
    "`gato, cat`狗",
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("text", HOLES)
def test_literal_words_stand_where_the_bridge_puts_them(published, plain, text, seed):
    stock = readable()
    bridge = small_entrance_bridge(stock, hole_word=plain.eos_token_id)
    torch.manual_seed(seed)
    torch.nn.init.normal_(bridge.words.weight)  # so that it says something else at each place
    tokenizer = swap_text_encoder(stock, published("m9"), bridge=bridge).tokenizer
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer(tokenizer.decode(ids), add_special_tokens=False).input_ids == ids
    assert sum(len(run.tokens) for run in tokenizer.understood(ids)) == sum(token < 0 for token in ids)
    for run in tokenizer.understood(ids):
        assert all(token < 0 for token in ids[run.first : run.first + len(run.tokens)])
    soft = tokenizer.soft_prompts.read(
        [part.text for part in tokenizer.soft_prompts.stretches(text, []) if part.inner is not None]
    )
    assert soft
    for each in soft:
        assert len(each.ids) == 2, "three tokens, of which one says where the literal words belong"
        literal = plain(text.split("`")[1 if each is soft[0] else 3], add_special_tokens=False).input_ids
        first = ids.index(each.ids[0]) + (each.hole or -len(literal))
        assert ids[first : first + len(literal)] == literal


def test_a_bridge_that_never_saw_holes_reads_what_stands_around_literal_words(tokenizer):
    parts = tokenizer.soft_prompts.stretches("蓝色背景上的`cat`", [])
    assert [(part.text, part.literal) for part in parts] == [("蓝色背景上的", False), ("cat", True)]


@pytest.mark.parametrize(("route", "text"), [("all", "一只猫, a cat `sks`"), ("none", "a cat, a dog")])
def test_what_is_decoded_is_read_again_by_any_route(tokenizer, route, text):
    tokenizer.soft_prompts.route = route
    test_what_is_decoded_is_read_again_as_the_same_tokens(tokenizer, text)


@pytest.mark.parametrize("text", ENGLISH)
def test_english_is_decoded_as_ever(tokenizer, plain, text):
    for special in (True, False):
        ids = plain(text, add_special_tokens=special).input_ids
        assert tokenizer.decode(ids) == plain.decode(ids)


@pytest.mark.parametrize(
    "asked", [{"return_overflowing_tokens": True}, {"text_pair": "猫"}, {"is_split_into_words": True}]
)
def test_what_soft_tokens_have_no_answer_to_is_refused(tokenizer, asked):
    with pytest.raises(InputError, match=f"no answer to {next(iter(asked))}"):
        tokenizer("一只猫", **asked)


def test_an_open_backquote_is_one_line(tokenizer):
    with pytest.raises(InputError, match="backquote") as error:
        tokenizer("一只猫 `sks")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("route", "text", "soft"),
    [("none", "一只猫", False), ("all", "a cat", True), ("all", "`a cat`", False), ("auto", "a cat", False)],
)
def test_routes(tokenizer, route, text, soft):
    tokenizer.soft_prompts.route = route
    assert any(token < 0 for token in tokenizer(text).input_ids) == soft


def test_literal_words_and_textual_inversions_stay(pipe):
    pipe.tokenizer.soft_prompts.literal_words.add("sks")
    pipe.load_textual_inversion({"emb_params": torch.randn(2, 32)}, token="<rune>")
    for text, last in (("一只sks猫", None), ("一只猫<rune>", "<rune>")):
        pieces = pipe.tokenizer.tokenize(text)
        assert last is None or pieces[-1] == last
        assert any(piece.startswith("〈") for piece in pieces)
    assert pipe.maybe_convert_prompt("一只猫 <rune>", pipe.tokenizer) == "一只猫 <rune> <rune>_1"


def test_it_is_saved_as_the_plain_one(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "ours")
    readable().tokenizer.save_pretrained(tmp_path / "plain")
    for file in (tmp_path / "plain").iterdir():
        assert (tmp_path / "ours" / file.name).read_bytes() == file.read_bytes()
    assert isinstance(tokenizer, CLIPTokenizer)
    assert type(tokenizer).__name__ == "CLIPTokenizer"


def test_a_copy_reads_alike(tokenizer):
    text = "一只猫, a dog"
    assert copy.deepcopy(tokenizer)(text).input_ids == tokenizer(text).input_ids
    assert copy.copy(tokenizer)(text).input_ids == tokenizer(text).input_ids


def test_texts_that_are_read_again_keep_their_ids_and_old_ones_are_dropped_aloud(pipe, monkeypatch):
    monkeypatch.setattr(soft_prompts, "MAX_KEPT", 6)
    tokenizer, encoder = pipe.tokenizer, pipe.text_encoder
    first = tokenizer("一只猫", return_tensors="pt").input_ids
    tokenizer(["狗", "鸟", "鱼"])
    assert encoder(tokenizer("鱼", return_tensors="pt").input_ids)[0].isfinite().all()
    with pytest.raises(InputError, match="tokenize it again"):
        encoder(first)
    again = tokenizer("一只猫", return_tensors="pt").input_ids
    assert not torch.equal(again, first)
    assert encoder(again)[0].isfinite().all()
    batch = [f"{number}只猫" for number in range(9)]  # more than are kept, at once
    assert encoder(tokenizer(batch, padding=True, return_tensors="pt").input_ids)[0].isfinite().all()


def test_long_texts_are_read_in_pieces(tokenizer):
    assert sum(token < 0 for token in tokenizer("一只猫坐在窗台上，" * 30).input_ids) > 6
    assert sum(token < 0 for token in tokenizer("猫" * 2000).input_ids) > 6


def test_threads_give_what_one_gives(pipe):
    texts = [f"{thing}，{number}" for thing in "猫狗鸟" for number in range(4)]
    ids: dict[str, list[Any]] = {text: [] for text in texts}
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for text in texts:
                encoded = pipe.tokenizer(
                    text, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
                )
                ids[text].append(pipe.text_encoder(encoded.input_ids)[0])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert all(torch.equal(states, some[0]) for some in ids.values() for states in some)


def test_the_encoder_refuses_ids_that_nobody_gave_out(pipe):
    with pytest.raises(InputError, match="tokenize it again"):
        pipe.text_encoder(torch.tensor([[0, -999_999, 1]]))
