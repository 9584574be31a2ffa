"""OpenVINO gives what PyTorch gives, for every size, and leaves to PyTorch what it was not told of."""

import copy
import importlib.util
import logging

import numpy as np
import peft
import pytest
import torch

from altdiffusion import AltDiffusionPipeline, InputError
from altdiffusion.forward_override import find
from altdiffusion.prompt_syntax import LoraTag
from altdiffusion.prompts.loras import lora_weights
from altdiffusion.speed.openvino_models import CompiledNetwork, UnetForward, use_openvino, use_pytorch
from altdiffusion.speed.optimize import optimize

openvino = pytest.importorskip("openvino")
pytestmark = pytest.mark.long


@pytest.fixture
def pipe(published):
    pipe = AltDiffusionPipeline.from_pretrained(published("m9"), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, side=16, output_type="np", **options):
    generator = torch.Generator().manual_seed(1)
    return pipe(
        "一只猫",
        num_inference_steps=2,
        height=side,
        width=side,
        generator=generator,
        output_type=output_type,
        **options,
    ).images


def latents(pipe):
    """What the UNet alone computes, so that no decoder is converted."""
    return draw(pipe, output_type="latent").numpy()


def test_pictures_of_any_size_are_the_same(pipe, monkeypatch):
    """UNet and decoder are converted, which takes longest, once for all sizes."""
    convert, converted = openvino.convert_model, []
    monkeypatch.setattr(openvino, "convert_model", lambda model: converted.append(model) or convert(model))
    expected = {side: draw(pipe, side) for side in (16, 24)}
    assert pipe.optimize(openvino=True, dtype=torch.float32) is pipe
    for side in (16, 24, 16):
        np.testing.assert_allclose(draw(pipe, side), expected[side], atol=1e-4)
    assert draw(pipe, guidance_scale=1.0).shape == (1, 16, 16, 3)  # a batch of one
    assert len(converted) == 2


def test_in_bfloat16_pictures_are_near_and_weights_stay_float32(pipe):
    expected = draw(pipe)
    optimize(pipe, openvino=True, dtype=torch.bfloat16)
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.float32}
    assert np.abs(draw(pipe) - expected).mean() < 0.02


@torch.no_grad()
def test_what_it_was_not_told_of_pytorch_computes_and_it_is_said_once(pipe, caplog):
    sample, states = torch.randn(2, 4, 4, 4), torch.randn(2, 77, pipe.unet.config.cross_attention_dim)
    mask = torch.ones(2, 77)
    mask[:, 40:] = 0
    expected = pipe.unet(sample, 3, states, encoder_attention_mask=mask).sample
    use_openvino(pipe.unet, pipe.vae, torch.float32)
    find(pipe.unet, UnetForward).network = None  # must not be asked
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(pipe.unet(sample, 3, states, encoder_attention_mask=mask).sample, expected)
    assert caplog.text.count("OpenVINO was not told of encoder_attention_mask") == 1


def test_gradients_go_through_pytorch(pipe):
    use_openvino(pipe.unet, pipe.vae, torch.float32)
    states = torch.randn(1, 77, pipe.unet.config.cross_attention_dim)
    pipe.unet(torch.randn(1, 4, 4, 4), 3, states).sample.sum().backward()
    assert pipe.unet.conv_in.weight.grad is not None


def test_what_is_saved_is_stock(pipe, tmp_path):
    expected = draw(pipe)
    optimize(pipe, openvino=True, dtype=torch.float32).save_pretrained(tmp_path)
    again = AltDiffusionPipeline.from_pretrained(tmp_path)
    assert "forward" not in vars(again.unet)
    np.testing.assert_allclose(draw(again), expected, atol=1e-4)


def test_a_copy_computes_with_its_own_weights(pipe):
    before = latents(optimize(pipe, openvino=True, dtype=torch.float32))
    unet = copy.deepcopy(pipe.unet)
    assert find(unet, UnetForward).model is unet
    with torch.no_grad():
        unet.conv_out.weight.mul_(2)
    pipe.unet, own = unet, pipe.unet
    assert np.abs(latents(pipe) - before).max() > 1e-3
    pipe.unet = own
    np.testing.assert_allclose(latents(pipe), before)


def test_changed_weights_are_seen(pipe):
    optimize(pipe, openvino=True, dtype=torch.float32)
    before = latents(pipe)
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(2)
    after = latents(pipe)
    assert np.abs(after - before).max() > 1e-3
    use_pytorch(pipe.unet, pipe.vae)
    np.testing.assert_allclose(latents(pipe), after, atol=1e-4)


def test_the_weight_that_a_prompt_gives_to_a_lora_is_seen(pipe):
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_v"], init_lora_weights=False), adapter_name="ink")
    optimize(pipe, openvino=True, dtype=torch.float32)
    before = latents(pipe)
    with lora_weights(pipe, [LoraTag("ink", -5.0)]):
        named = latents(pipe)
        use_pytorch(pipe.unet, pipe.vae)
        np.testing.assert_allclose(named, latents(pipe), atol=1e-4)
    assert np.abs(named - before).max() > 1e-3


def test_it_is_taken_back(pipe):
    expected = draw(pipe)
    use_openvino(pipe.unet, pipe.vae, torch.float32)
    use_pytorch(pipe.unet, pipe.vae)
    assert (draw(pipe) == expected).all()


def test_a_failure_is_said_and_the_exact_path_is_taken(pipe, monkeypatch, caplog):
    expected = draw(pipe)

    def broken(self, inputs):
        raise RuntimeError("no such operation\nmore")

    monkeypatch.setattr(CompiledNetwork, "compile", broken)
    with caplog.at_level(logging.WARNING):
        optimize(pipe, openvino=True, dtype=torch.float32)
    assert "exact and slower: no such operation" in caplog.text
    assert "forward" not in vars(pipe.unet)
    np.testing.assert_allclose(draw(pipe), expected, atol=1e-4)


def test_it_is_for_a_cpu_and_in_place_of_compile(pipe):
    with pytest.raises(InputError, match="in place of compile"):
        optimize(pipe, openvino=True, compile=True)


def test_without_the_package_it_says_what_to_install(pipe, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install openvino"):
        optimize(pipe, openvino=True)
