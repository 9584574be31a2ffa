"""Prompts as people write them, where a bridge at CLIP's entrance reads what is not English."""

import threading

import pytest
import torch
from helpers.bridges import readable, small_entrance_bridge

from altdiffusion import InputError, encode_prompts, swap_text_encoder
from altdiffusion.prompt_syntax import parse_weights
from altdiffusion.prompts.explain import explain, likely_words
from altdiffusion.prompts.states import chunks_of
from altdiffusion.prompts.tokens import prompt_tokens
from altdiffusion.text_encoder.soft_tokenizer import routed

MIXED = "一只猫, a dog, 蓝色背景"


def english():
    """A model whose states have a mean that A1111's way can restore."""
    pipe = readable()
    encoder = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)  # by version of transformers
    encoder.final_layer_norm.bias.data.fill_(1.0)
    return pipe


@pytest.fixture(scope="module")
def pipe(published):
    stock = english()
    return swap_text_encoder(stock, published("m9"), bridge=small_entrance_bridge(stock))


def states(pipe, prompt, **options):
    return encode_prompts(pipe, prompt, **options)["prompt_embeds"]


@pytest.mark.parametrize(
    ("prompt", "weights"),
    [
        ("(黑暗精灵:1.3), 月光", {"黑暗精灵": 1.3, ", ": 1, "月光": 1}),
        ("（红色：1.2）的[猫]", {"红色": 1.2, "的": 1, "猫": 1 / 1.1}),
        ("(一只猫, a dog:0.5)，蓝色背景", {"一只猫": 0.5, ", ": 0.5, "a": 0.5, "dog": 0.5, "，": 1, "蓝色背景": 1}),
        ("((кошка)) на синем (фоне:1)", {"кошка": 1.21, "на синем фоне": 1}),
        ("(`sks`风格:1.4)的猫", {"`sks`": 1.4, "风格": 1.4, "的猫": 1}),
    ],
)
def test_each_soft_token_has_the_weight_of_its_own_words(pipe, prompt, weights):
    parsed = parse_weights(prompt)
    tokens = prompt_tokens(pipe.tokenizer, parsed)
    assert any(token.id < 0 for token in tokens)
    for token in tokens:
        around = [words for words in weights if parsed.text[token.start : token.end].strip() in words]
        assert around
        assert token.weight == pytest.approx(weights[around[0]])


@pytest.mark.parametrize(
    ("prompt", "chunks"),
    [
        ("一只猫 BREAK 一只狗", ["一只猫", "一只狗"]),
        ("(一只猫 BREAK кошка:1.2)", ["一只猫", "кошка"]),
        ("红色的猫BREAK狗", ["红色的猫", "狗"]),
    ],
)
def test_break_ends_a_chunk_within_a_clause(pipe, prompt, chunks):
    text, found = chunks_of(pipe.tokenizer, prompt, "webui")
    assert [text[chunk[0].start : chunk[-1].end].strip() for chunk in found] == chunks


@pytest.mark.parametrize("weighting", [None, "a1111", "no-norm", "comfyui", "masked"])
def test_weights_act_on_soft_tokens_as_on_any(pipe, weighting):
    plain = states(pipe, MIXED, weighting=weighting)
    assert torch.equal(states(pipe, "(一只猫:1.0), a dog, (蓝色背景:1)", weighting=weighting), plain)
    assert not torch.allclose(states(pipe, "(一只猫:1.4), a dog, 蓝色背景", weighting=weighting), plain)


def test_the_default_weighting_is_that_of_the_models_own_clip(pipe):
    heavy = "(一只猫:1.4), a dog"
    assert torch.equal(states(pipe, heavy), states(pipe, heavy, weighting="a1111"))


def test_a_route_holds_for_its_call(pipe):
    by_route = {route: states(pipe, MIXED, route=route) for route in ("auto", "all", "none")}
    assert torch.equal(by_route["auto"], states(pipe, MIXED))
    assert not torch.allclose(by_route["all"], by_route["auto"])
    plain = english()
    assert torch.equal(by_route["none"], states(plain, MIXED))
    assert torch.equal(states(pipe, "a (red:1.2) cat", route="auto"), states(plain, "a (red:1.2) cat"))
    assert torch.equal(states(pipe, MIXED), by_route["auto"])


def test_literal_words_hold_for_their_call_beside_the_pipelines_own(pipe):
    def soft(prompt, **options):
        return [token.id < 0 for token in prompt_tokens(routed(pipe.tokenizer, **options), parse_weights(prompt))]

    assert all(soft("sks风格的猫, ohwx", route="all"))
    kept = soft("sks风格的猫", route="all", literal=["sks"])
    assert kept == sorted(kept)
    assert not kept[0]
    assert all(soft("sks风格的猫", route="all"))


def test_threads_take_routes_of_their_own(pipe):
    expected = {route: states(pipe, MIXED, route=route) for route in ("auto", "all", "none")}
    wrong = []

    def read(route):
        for _ in range(5):
            if not torch.equal(states(pipe, MIXED, route=route), expected[route]):
                wrong.append(route)

    threads = [threading.Thread(target=read, args=(route,)) for route in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"route": "all"}, "^route: this model has no bridge at CLIP's entrance"),
        ({"literal": ["sks"]}, "^literal: this model has no bridge"),
        ({"route": "none", "literal": ["sks"]}, "^route and literal: this model has no bridge"),
    ],
)
def test_without_such_a_bridge_a_route_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        encode_prompts(readable(), "a cat", **options)


def test_another_route_is_refused(pipe):
    with pytest.raises(InputError, match="route: expected auto, all, none, got 'some'"):
        encode_prompts(pipe, "猫", route="some")


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        (MIXED, ["一只猫", "蓝色背景"]),
        ("(黑暗:1.2)精灵, 月光", ["黑暗", "精灵, 月光"]),
        ("猫, a dog, 猫", ["猫", "猫"]),
        ("a dog", []),
        ("`猫`", []),
    ],
)
def test_the_english_that_was_understood_is_told_for_each_stretch(pipe, prompt, texts):
    (part,) = explain(pipe.tokenizer, prompt)["prompts"][0]["parts"]
    assert [stretch["text"] for stretch in part["understood"]] == texts
    pieces = [piece for chunk in part["chunks"] for piece in chunk if piece["piece"].startswith("〈")]
    tokens = [token for stretch in part["understood"] for token in stretch["tokens"]]
    assert len(pieces) == len(tokens)
    for piece, token in zip(pieces, tokens, strict=True):
        shares = [word["share"] for word in token["words"]]
        assert piece["piece"][1:-1] == token["words"][0]["word"].removesuffix("-")
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1
        assert 0 <= token["rest"] <= 1


def test_without_a_bridge_nothing_is_told_of_it():
    assert "understood" not in explain(readable().tokenizer, "a cat")["prompts"][0]["parts"][0]


@pytest.mark.parametrize(
    ("shares", "shown"),
    [([0.97, 0.02, 0.01], 1), ([0.6, 0.35, 0.05], 2), ([0.5, 0.2, 0.1], 1), ([0.1, 0.09, 0.06], 3), ([0.8, 0.2, 0], 1)],
)
def test_a_doubtful_token_has_more_than_one_word(shares, shown):
    token = {"words": [{"word": f"w{place}", "share": share} for place, share in enumerate(shares)], "rest": 0.1}
    assert likely_words(token) == [(f"w{place}", share) for place, share in enumerate(shares[:shown])]
