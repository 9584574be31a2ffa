"""Tools that know nothing of soft tokens, on pipelines with a bridge at CLIP's entrance: compel, offloads, compiled encoders."""

from __future__ import annotations

import threading
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from helpers.bridges import draw, readable, small_entrance_bridge

from altdiffusion import swap_text_encoder
from altdiffusion.text_encoder.soft_tokenizer import routed

KINDS = ["sd1", "xl"]
CPU = torch.device("cpu")
ENGLISH = [
    "a cat playing with a ball++ in the forest",
    "a cat (red ball)0.4, night",
    '("a cat", "a dog").blend(0.7, 0.3)',
    "a cat, " * 60,
    "",
]
FOREIGN = ["一只猫在森林里玩 (球){}", "(一只猫){}, on a beach", "кошка на синем (фоне){}", "(一只猫，蓝色背景){} sks"]


@pytest.fixture(autouse=True)
def _quiet():
    diffusers.utils.logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def pipes(published) -> dict[str, tuple[Any, Any]]:
    """By kind, a pipeline and its like with a bridge; no test changes them."""
    return {kind: (readable(kind), bridged(published, kind)) for kind in KINDS}


def bridged(published: Any, kind: str = "sd1") -> Any:
    pipe = readable(kind)
    return swap_text_encoder(pipe, published("m9"), bridge=small_entrance_bridge(pipe))


def compel_of(kind: str, pipe: Any, **options: Any) -> Any:
    compel = pytest.importorskip("compel")
    return (compel.CompelForSDXL if kind == "xl" else compel.CompelForSD)(pipe, **options)


def tensors(conditioning: Any) -> list[torch.Tensor]:
    names = ("embeds", "pooled_embeds", "negative_embeds", "negative_pooled_embeds")
    return [value for name in names if (value := getattr(conditioning, name)) is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_compel_reads_english_as_without_a_bridge(pipes, kind):
    plain, ours = (compel_of(kind, pipe) for pipe in pipes[kind])
    for prompt in ENGLISH:
        expected = tensors(plain(prompt, negative_prompt="blurry, (low quality)1.2"))
        given = tensors(ours(prompt, negative_prompt="blurry, (low quality)1.2"))
        assert all(torch.equal(*pair) for pair in zip(given, expected, strict=True)), prompt


@pytest.mark.parametrize("kind", KINDS)
def test_compel_weights_other_languages(pipes, kind):
    compel = compel_of(kind, pipes[kind][1])
    for prompt in FOREIGN:
        states = [compel(prompt.format(weight), negative_prompt="模糊").embeds for weight in (1.1, 1.3, 1.6, 0.6)]
        moved = [float((state - states[0]).norm()) for state in states[1:]]
        assert 0 < moved[0] < moved[1], prompt
        assert moved[2] > 0, prompt


@pytest.mark.parametrize("kind", KINDS)
def test_compel_reads_long_prompts_batches_and_blends_in_other_languages(pipes, kind):
    pipe = pipes[kind][1]
    compel = compel_of(kind, pipe)
    long = compel("一只猫, sks, " * 40, negative_prompt="模糊")
    assert long.embeds.shape == long.negative_embeds.shape
    assert long.embeds.shape[1] > 77
    batch = compel(["一只猫++", "a dog wearing a hat++"], negative_prompt=["模糊", "painting"])
    single = compel("a dog wearing a hat++", negative_prompt="painting")
    torch.testing.assert_close(batch.embeds[1:], single.embeds)
    blend = compel('("一只猫", "一只狗").blend(0.7, 0.3)').embeds
    torch.testing.assert_close(blend, 0.7 * compel("一只猫").embeds + 0.3 * compel("一只狗").embeds)
    names = ("prompt_embeds", "pooled_prompt_embeds", "negative_prompt_embeds", "negative_pooled_prompt_embeds")
    words = ("embeds", "pooled_embeds", "negative_embeds", "negative_pooled_embeds")
    states = {
        name: value for name, word in zip(names, words, strict=True) if (value := getattr(long, word)) is not None
    }
    assert np.isfinite(draw(pipe, None, **states)).all()


@pytest.mark.parametrize("truncate", [True, False])
def test_compels_older_class_and_its_padding(pipes, truncate):
    compel = pytest.importorskip("compel")
    plain, ours = (
        compel.Compel(tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder, truncate_long_prompts=truncate)
        for pipe in pipes["sd1"]
    )
    for prompt in [*ENGLISH, '("a cat", "a red dog").and(1, 0.5)']:
        assert torch.equal(ours(prompt), plain(prompt)), prompt
    both = [ours.build_conditioning_tensor(text) for text in ("一只猫, sks, " * 40, "")]
    padded = ours.pad_conditioning_tensors_to_same_length(both)
    assert padded[0].shape == padded[1].shape == (1, 77 if truncate else padded[0].shape[1], 32)


def test_compels_older_way_with_two_encoders(pipes):
    compel = pytest.importorskip("compel")
    plain, ours = (
        compel.Compel(
            tokenizer=[pipe.tokenizer, pipe.tokenizer_2],
            text_encoder=[pipe.text_encoder, pipe.text_encoder_2],
            returned_embeddings_type=compel.ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED,
            requires_pooled=[False, True],
        )
        for pipe in pipes["xl"]
    )
    prompt = "a cat playing with a ball++ in the forest"
    assert all(torch.equal(*pair) for pair in zip(ours(prompt), plain(prompt), strict=True))
    (states, pooled), (heavier, _) = ours("一只猫"), ours("(一只猫)1.5")
    assert (states.shape, pooled.shape) == ((1, 77, 80), (1, 24))
    assert (states - heavier).abs().max() > 1e-4


@pytest.mark.parametrize(
    "text", ["一只猫", "一只猫++ 和一只狗", "一只猫, <rune>", "一只<rune>猫++", "`gato` azul, 一只猫"]
)
def test_compel_expands_textual_inversions_beside_other_languages(published, text):
    compel = pytest.importorskip("compel")
    pipe = bridged(published)
    pipe.load_textual_inversion({"emb_params": torch.randn(2, 32)}, token="<rune>")
    expanded = text.replace("<rune>", "<rune><rune>_1")
    manager = compel.DiffusersTextualInversionManager(pipe)
    with_manager = compel.CompelForSD(pipe, textual_inversion_manager=manager)(text).embeds
    torch.testing.assert_close(with_manager, compel.CompelForSD(pipe)(expanded).embeds)


def test_fragments_read_one_by_one_as_sd_embed_does_keep_their_tokens(pipes):
    tokenizer = pipes["sd1"][1].tokenizer
    for fragment in ("一只", "红色的", " 猫", "кошка на ", " azul, a cat"):
        inner = tokenizer(fragment, truncation=False).input_ids[1:-1]
        assert inner == tokenizer(fragment, add_special_tokens=False).input_ids
        assert inner


def offload(way: str, pipe: Any, folder: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    parts = [pipe.text_encoder, pipe.unet, pipe.vae]
    if way == "sequential":
        for part in parts:
            accelerate.cpu_offload(part, CPU, offload_buffers=True)
    elif way == "by model":
        for part in parts:
            accelerate.cpu_offload_with_hook(part, CPU)
    elif way == "disk":
        for number, part in enumerate(parts):
            accelerate.disk_offload(part, folder / str(number), CPU)
    else:
        blocks = {"num_blocks_per_group": 1} if way == "block_level" else {}
        pipe.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_type=way, **blocks)


@pytest.mark.parametrize("way", ["sequential", "by model", "disk", "leaf_level", "block_level"])
def test_offloaded_encoders_read_prompts_that_are_new_to_them(pipes, published, tmp_path, way):
    pipe = bridged(published)
    offload(way, pipe, tmp_path)
    np.testing.assert_allclose(draw(pipe), draw(pipes["sd1"][1]), atol=1e-5)


@pytest.mark.parametrize("first", ["a cat", "一只猫"])
def test_a_compiled_encoder_reads_both_kinds_of_prompts(pipes, published, first):
    reference = pipes["sd1"][1]
    pipe = bridged(published)
    torch._dynamo.reset()
    compiled = torch.compile(pipe.text_encoder, backend="eager")
    for prompt in sorted(["a cat", "一只猫"], key=lambda text: text != first):
        expected = reference.text_encoder(reference.tokenizer(prompt, return_tensors="pt").input_ids)[0]
        states = compiled(pipe.tokenizer(prompt, return_tensors="pt").input_ids)[0]
        torch.testing.assert_close(states, expected)


def test_an_encoder_compiled_as_one_graph_is_refused_never_wrong(published):
    pipe = bridged(published)
    torch._dynamo.reset()
    compiled = torch.compile(pipe.text_encoder, backend="eager", fullgraph=True)
    for prompt in ("a cat", "一只猫"):
        with pytest.raises(torch._dynamo.exc.Unsupported):
            compiled(pipe.tokenizer(prompt, return_tensors="pt").input_ids)


def test_threads_with_different_routes_read_each_by_its_own(pipes):
    pipe = pipes["sd1"][1]
    wrong: list[Any] = []

    def work(route: Any, text: str, is_soft: bool) -> None:
        try:
            tokenizer = routed(pipe.tokenizer, route)
            for number in range(20):
                ids = tokenizer(
                    text, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
                ).input_ids
                pipe.maybe_convert_prompt(text, tokenizer)
                if ids.shape != (1, 77) or bool((ids < 0).any()) != is_soft:
                    wrong.append((route, text, ids))
                if len(tokenizer.encode(f"{text} {number}")) < 4:
                    wrong.append((route, text, number))
        except Exception as error:
            wrong.append(error)

    kinds = [("all", "a cat", True), ("none", "一只猫", False), ("auto", "一只猫", True), ("auto", "a cat", False)]
    threads = [threading.Thread(target=work, args=kind) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
