"""Prompts by a bridge for ComfyUI's CLIP. See helpers/comfyui.py for what stands in for ComfyUI."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.bridges import readable, small_entrance_bridge
from helpers.comfyui import FakeCLIP, loaded_nodes
from torch import Tensor, nn

from altdiffusion import InputError, encode_prompts, swap_text_encoder

ENGLISH = [
    "",
    "a cat",
    "a (red:1.2) apple, ((blue)) background",
    "a \\(small\\) cat (cat",
    "a cat, a dog, " * 30,
    "embedding:cup on a table",
]
MIXED = ["一只猫", "a cat, 蓝色背景", "кошка на синем фоне, sks", "一只猫 `Studio Ghibli`，a dog", "猫\n狗"]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory) -> Any:
    with loaded_nodes(tmp_path_factory.mktemp("models")) as module:
        yield module


@pytest.fixture(scope="module", params=["sd1"])
def pipe(request) -> Any:
    return readable(request.param)


@pytest.fixture(scope="module")
def altclip(nodes, published) -> Any:
    return nodes.models.AltCLIP(str(published("m9")), "float32", False)


def loaded_bridge(nodes: Any, altclip: Any, folder: Any, pipe: Any, **settings: Any) -> Any:
    small_entrance_bridge(pipe, **settings).save_pretrained(folder)
    return nodes.models.LoadedBridge(str(folder), altclip)


@pytest.fixture(scope="module")
def bridge(nodes, altclip, pipe, tmp_path_factory) -> Any:
    return loaded_bridge(nodes, altclip, tmp_path_factory.mktemp("bridge"), pipe)


@pytest.fixture(scope="module")
def clip(pipe) -> FakeCLIP:
    return FakeCLIP(pipe, {"cup": torch.randn(2, 32)})


def read(
    nodes: Any, clip: FakeCLIP, bridge: Any, text: str, route: str = "auto", literal: tuple[str, ...] = ()
) -> list[Any]:
    """The tokens with their weights, of all chunks, without begins, ends and padding."""
    nodes.soft_conditioning.encode(clip, bridge, text, route, literal)
    special = {clip.hf.bos_token_id, clip.hf.eos_token_id}
    return [token for row in clip.read["l"] for token in row if isinstance(token[0], Tensor) or token[0] not in special]


def written(tokens: dict[str, Any]) -> str:
    """Tokens as text, vectors too: tensors don't compare to one truth."""
    return str(tokens)


def soft(tokens: list[Any]) -> list[float]:
    """The weights of those that are vectors."""
    return [weight for token, weight in tokens if isinstance(token, Tensor)]


@pytest.mark.parametrize("route", ["auto", "none"])
@pytest.mark.parametrize("text", ENGLISH)
def test_english_is_what_comfyui_makes_of_it(nodes, clip, bridge, text, route):
    conditioning, english = nodes.soft_conditioning.encode(clip, bridge, text, route, ())
    assert written(clip.read) == written(clip.tokenize(text))
    assert torch.equal(conditioning[0][0], clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0])
    assert english == text


@pytest.mark.parametrize("text", MIXED)
def test_states_are_those_of_a_pipeline(nodes, clip, bridge, altclip, published, text):
    conditioning, _ = nodes.soft_conditioning.encode(clip, bridge, text, "auto", ())
    theirs = readable()
    swap_text_encoder(theirs, published("m9"), bridge=small_entrance_bridge(theirs))
    assert torch.allclose(conditioning[0][0], encode_prompts(theirs, text)["prompt_embeds"], atol=1e-5)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("(一只猫:1.3), a dog", [1.3] * 3),
        ("((红苹果))", [1.1 * 1.1] * 3),
        ("（一只猫：0.8）", [0.8] * 3),
        ("(一只(猫:1.5):1.2)", [1.2] * 3 + [1.5] * 3),
        ("红苹果, (a dog:1.4)", [1.0] * 3),
        ("(一只猫:-0.5)", [-0.5] * 3),
    ],
)
def test_soft_tokens_have_the_weight_of_their_words(nodes, clip, bridge, text, weights):
    assert soft(read(nodes, clip, bridge, text)) == pytest.approx(weights)


def test_literal_words_keep_their_weights_and_brackets(nodes, clip, bridge):
    read(nodes, clip, bridge, "(一只猫:1.3), a \\(small\\) (dog:0.7)")
    literal = [
        *((token, 1.0) for token in clip.hf(", a (small)", add_special_tokens=False)["input_ids"]),
        *((token, 0.7) for token in clip.hf("dog", add_special_tokens=False)["input_ids"]),
    ]
    assert clip.read["l"][0][4 : 5 + len(literal)] == [*literal, (clip.hf.eos_token_id, 1.0)]


@pytest.mark.parametrize(
    ("text", "route", "literal", "texts"),
    [
        ("a cat", "all", (), 1),
        ("a cat, 一只猫", "none", (), 0),
        ("一只猫, sks风格", "auto", (), 1),
        ("一只猫, `红苹果`", "auto", (), 1),
        ("a cat, `a dog`", "all", (), 1),
        ("embedding:cup，一只猫", "all", (), 1),
        ("猫，(狗:1.2)，鸟", "auto", (), 3),
    ],
)
def test_what_goes_through_the_bridge(nodes, clip, bridge, text, route, literal, texts):
    vectors = soft(read(nodes, clip, bridge, text, route, literal))
    assert len(vectors) - 2 * ("embedding" in text) == 3 * texts


def test_literal_words_stay(nodes, clip, bridge):
    tokens = read(nodes, clip, bridge, "一只猫, 红色sks", literal=("sks",))
    sks = clip.hf("sks", add_special_tokens=False)["input_ids"]
    assert [token for token, _ in tokens if not isinstance(token, Tensor)][-len(sks) :] == sks


def test_textual_inversions_of_comfyui_stand_beside_soft_tokens(nodes, clip, bridge):
    tokens = read(nodes, clip, bridge, "一只猫 (embedding:cup:1.2), 红苹果")
    inversion = clip.inversions["cup"]
    places = [
        at for at, (token, weight) in enumerate(tokens) if any(token is vector for vector in inversion) or weight == 1.2
    ]
    assert len(places) == 2
    assert all(torch.equal(tokens[at][0], vector) for at, vector in zip(places, inversion, strict=True))
    assert len(soft(tokens)) == 2 + 6


# neighbours of one weight are one text: 红苹果，一只猫
@pytest.mark.parametrize(("weights", "texts"), [("{}", 16), ("({}:1.2)", 30)])
def test_no_soft_text_is_torn_by_the_end_of_a_chunk(nodes, clip, bridge, weights, texts):
    clauses = ["一只猫", "a dog in a house", "红苹果"]
    text = "，".join(weights.format(clauses[at % 3]) for at in range(45))
    tokens = read(nodes, clip, bridge, text)
    rows = clip.read["l"]
    assert len(rows) > 2
    assert all(len(row) == 77 for row in rows)
    assert all(len(soft(row)) % 3 == 0 for row in rows)
    assert len(soft(tokens)) == 3 * texts


def test_what_the_bridge_understood_is_told(nodes, clip, bridge):
    _, english = nodes.soft_conditioning.encode(clip, bridge, "a cat, (一只猫:1.2)", "auto", ())
    words = english.removeprefix("a cat, ")
    assert words
    assert words.isprintable()
    assert "</w>" not in words


def test_clips_of_xl_get_vectors_of_their_own_width_in_the_same_places(nodes, altclip, tmp_path):
    pipe = readable("xl")
    clip, text = FakeCLIP(pipe), "a dog, (一只猫:1.3)"
    nodes.soft_conditioning.encode(clip, loaded_bridge(nodes, altclip, tmp_path, pipe), text, "auto", ())
    first, second = clip.read["l"][0], clip.read["g"][0]
    places = [[at for at, (token, _) in enumerate(row) if isinstance(token, Tensor)] for row in (first, second)]
    assert places[0] == places[1]
    assert {first[at][0].shape for at in places[0]} == {torch.Size([32])}
    assert {second[at][0].shape for at in places[0]} == {torch.Size([48])}


def test_a_fine_tune_is_read_by_its_own_token_embeddings(nodes, altclip, pipe, tmp_path, published):
    bridge = loaded_bridge(nodes, altclip, tmp_path, pipe)
    tuned = readable()
    with torch.no_grad():
        tuned.text_encoder.get_input_embeddings().weight.mul_(1.05)
    conditioning, _ = nodes.soft_conditioning.encode(FakeCLIP(tuned), bridge, "一只猫", "auto", ())
    swap_text_encoder(tuned, published("m9"), bridge=small_entrance_bridge(readable()))
    assert torch.allclose(conditioning[0][0], encode_prompts(tuned, "一只猫")["prompt_embeds"], atol=1e-5)


def other_width(pipe: Any) -> FakeCLIP:
    return FakeCLIP(readable("xl"))


def other_words(pipe: Any) -> FakeCLIP:
    other = readable()
    nn.init.normal_(
        other.text_encoder.get_input_embeddings().weight, std=0.2, generator=torch.Generator().manual_seed(9)
    )
    return FakeCLIP(other)


def flux(pipe: Any) -> FakeCLIP:
    clip = FakeCLIP(pipe)
    clip.encoders = {"l": pipe.text_encoder, "t5xxl": pipe.text_encoder}
    return clip


@pytest.mark.parametrize(
    ("make", "text", "line"),
    [
        (other_width, "一只猫", "was trained with CLIPs of width 32"),
        (other_words, "一只猫", "was trained with another CLIP"),
        (flux, "一只猫", "reads prompts by l, t5xxl"),
        (FakeCLIP, "一只`猫", "this backquote isn't closed"),
        (FakeCLIP, "一只猫 <|startoftext|>", "leave it out"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(nodes, pipe, bridge, make, text, line):
    with pytest.raises(InputError, match=line) as error:
        nodes.soft_conditioning.encode(make(pipe), bridge, text, "auto", ())
    assert "\n" not in str(error.value)
