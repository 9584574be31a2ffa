"""Little memory: the same images, the tower's weights elsewhere but while it computes. The CPU plays the GPU too."""

import copy
import logging

import numpy as np
import pytest
import torch
from helpers.bridges import bridged, draw, readable, small_entrance_bridge, stock

import altdiffusion.devices
from altdiffusion import (
    AltDiffusionPipeline,
    InputError,
    generate,
    load_text_encoder,
    save_memory,
    swap_text_encoder,
)
from altdiffusion.forward_override import find
from altdiffusion.speed.low_memory import VisitingForward, compute_on


@pytest.fixture
def tower(published):
    return load_text_encoder(published("m9"))[0]


IDS = torch.tensor([[0, 7, 8, 2, 1, 1]])


@torch.no_grad()
def test_weights_visit_and_go_home(tower, monkeypatch):
    """Copies stand for what is on a GPU: all but the word embeddings are there while the tower computes, and only then."""

    def addresses():
        return {name: each.data_ptr() for name, each in (*tower.named_parameters(), *tower.named_buffers())}

    expected = tower(IDS)[0]
    home, seen = addresses(), []
    monkeypatch.setattr(VisitingForward, "bring", lambda self, data: data.clone())
    compute_on(tower, torch.device("cpu"))
    layers = type(tower.roberta.encoder)
    forward = layers.forward
    monkeypatch.setattr(layers, "forward", lambda *args, **kwargs: seen.append(addresses()) or forward(*args, **kwargs))
    torch.testing.assert_close(tower(IDS)[0], expected, atol=1e-6, rtol=0)
    assert addresses() == home
    assert [name for name in home if seen[0][name] == home[name]] == ["roberta.embeddings.word_embeddings.weight"]


@torch.no_grad()
def test_an_earlier_layer_is_projected_on_the_visit_too(tower):
    expected = tower.text_model.final_layer_norm(tower(IDS, output_hidden_states=True).hidden_states[-2])
    compute_on(tower, torch.device("cpu"))
    got = tower.text_model.final_layer_norm(tower(IDS, output_hidden_states=True).hidden_states[-2])
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_visiting_tower_can_be_copied(tower):
    compute_on(tower, torch.device("cpu"))
    twin = copy.deepcopy(tower)
    override = find(twin, VisitingForward)
    assert override is not None
    assert override.model is twin
    assert torch.equal(twin(IDS)[0], tower(IDS)[0])


def picture(pipe):
    return pipe("一只猫", num_inference_steps=2, generator=torch.Generator().manual_seed(1), output_type="np").images


@pytest.mark.parametrize("low_memory", [True, "stream"])
def test_pictures_are_the_same_and_a_cpu_says_what_it_does_not_do(published, low_memory, caplog, monkeypatch):
    monkeypatch.setattr(altdiffusion.devices, "available_devices", lambda: ["cpu"])
    expected = picture(AltDiffusionPipeline.from_pretrained(published("m9"), safety_checker=None))
    with caplog.at_level(logging.WARNING):
        pipe = AltDiffusionPipeline.from_pretrained(published("m9"), safety_checker=None, low_memory=low_memory)
    np.testing.assert_allclose(picture(pipe), expected, atol=1e-5)
    assert "low memory on a CPU" in caplog.text
    assert pipe.vae.use_slicing


def test_behind_a_bridge_pictures_are_the_same(published):
    pipe = bridged(published)
    expected = draw(pipe)
    np.testing.assert_allclose(draw(save_memory(pipe, "cpu")), expected, atol=1e-5)


def test_generate_takes_it():
    (picture,) = generate("一只猫", steps=1, seed=1, device="cpu", low_memory=True)
    assert picture.image.size == (64, 64)


def test_another_encoder_is_refused():
    with pytest.raises(InputError, match="AltCLIP"):
        save_memory(stock(), "cpu")


def test_a_device_that_is_not_there_is_refused(published):
    with pytest.raises(InputError, match="isn't there"):
        save_memory(bridged(published), "cuda:7")


def test_a_device_map_is_refused():
    with pytest.raises(InputError, match="device_map"):
        AltDiffusionPipeline.from_pretrained(low_memory=True, device_map="balanced")


def test_a_bridge_at_clips_entrance_computes_on_the_cpu(published):
    stock = readable()
    pipe = swap_text_encoder(stock, published("m9"), bridge=small_entrance_bridge(stock))
    expected = pipe.encode_prompt("一只猫", "cpu", 1, False)[0]
    save_memory(pipe, "cpu")
    assert pipe.tokenizer.soft_prompts.device == torch.device("cpu")
    pipe.tokenizer.soft_prompts.read(["新的"])
    assert torch.equal(pipe.encode_prompt("一只猫", "cpu", 1, False)[0], expected)
    assert pipe.vae.use_slicing
