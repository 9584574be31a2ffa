"""One call, the same images within rounding; what is not exact or not there says so."""

import copy
import logging

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, LCMScheduler
from helpers.bridges import stock

import altdiffusion.speed.optimize as module
from altdiffusion import AltDiffusionPipeline, InputError, generate, optimize
from altdiffusion.benchmark import models
from altdiffusion.benchmark.cases import generation
from altdiffusion.benchmark.models import SMALL
from altdiffusion.forward_override import install
from altdiffusion.speed.optimize import CudaGraphForward
from altdiffusion.training.models.lora import add_lora, lora_config, save_lora

CPU = torch.device("cpu")


@pytest.fixture
def pipe(published):
    pipe = AltDiffusionPipeline.from_pretrained(published("m9"), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe):
    return pipe("一只猫", num_inference_steps=2, generator=torch.Generator().manual_seed(1), output_type="np").images


@pytest.mark.parametrize("options", [{}, {"fuse_qkv": True}])
def test_pictures_are_the_same(pipe, options, monkeypatch):
    monkeypatch.setattr(module, "has_amx", lambda: False)
    expected = draw(pipe)
    assert pipe.optimize(**options) is pipe
    assert "forward" in vars(pipe.text_encoder.transformation)  # packed
    assert pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(draw(pipe), expected, atol=1e-4)


def test_pictures_are_the_same_within_bfloat16(pipe, monkeypatch):
    monkeypatch.setattr(module, "has_amx", lambda: True)
    expected = draw(pipe)
    optimize(pipe)
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.bfloat16}
    np.testing.assert_allclose(draw(pipe), expected, atol=0.1)


def test_compiled_by_request_gives_the_same(pipe, monkeypatch):
    """The real compiler takes a minute: PyTorch's "eager" backend traces as it does."""
    monkeypatch.setattr(module, "has_amx", lambda: False)
    expected = draw(pipe)
    blocks = pipe.unet.compile_repeated_blocks
    monkeypatch.setattr(pipe.unet, "compile_repeated_blocks", lambda **kwargs: blocks(backend="eager", **kwargs))
    optimize(pipe, compile=True)
    assert any(each._compiled_call_impl is not None for each in pipe.unet.modules())
    np.testing.assert_allclose(draw(pipe), expected, atol=1e-4)


def test_a_failing_compiler_is_said_and_the_exact_path_is_taken(pipe, monkeypatch, caplog):
    monkeypatch.setattr(module, "has_amx", lambda: False)
    expected = draw(pipe)

    def broken(graph, inputs):
        raise RuntimeError("no C++ compiler")

    blocks = pipe.unet.compile_repeated_blocks
    monkeypatch.setattr(pipe.unet, "compile_repeated_blocks", lambda **kwargs: blocks(backend=broken, **kwargs))
    with caplog.at_level(logging.WARNING):
        optimize(pipe, compile=True)
    assert "can't be compiled here" in caplog.text
    assert "no C++ compiler" in caplog.text
    np.testing.assert_allclose(draw(pipe), expected, atol=1e-4)


def test_a_failing_compiler_leaves_a_forward_that_was_there(pipe, monkeypatch):
    forward = pipe.unet.forward
    pipe.unet.forward = hooked = lambda *args, **kwargs: forward(*args, **kwargs)

    def broken(**kwargs):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(pipe.unet, "compile_repeated_blocks", broken)
    optimize(pipe, compile=True, dtype=torch.float32)
    assert pipe.unet.forward is hooked


def test_a_cuda_graph_gets_the_timestep_on_its_device(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda forward, **options: forward)
    unet, seen = Recording(), []
    install(CudaGraphForward(unet))
    for timestep in (torch.tensor(3), 3):
        seen.append(unet(torch.empty(2, device="meta"), timestep, encoder_hidden_states=None))
    assert seen == [("meta", ())] * 2


class Recording(torch.nn.Module):
    def forward(self, sample, timestep, encoder_hidden_states):
        return timestep.device.type, timestep.shape


def test_half_precision_on_a_cpu_without_amx_is_undone_aloud(pipe, monkeypatch, caplog):
    monkeypatch.setattr(module, "has_amx", lambda: False)
    with caplog.at_level(logging.WARNING):
        optimize(pipe.to(dtype=torch.bfloat16))
    assert pipe.unet.dtype == torch.float32
    assert "no AMX" in caplog.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"int8": True}, "exact=False"),
        ({"tiny_vae": "x"}, "exact=False"),
        ({"lcm": "x"}, "exact=False"),
        ({"tiny_vae": "no/such/vae", "exact": False}, "TAESD"),
        ({"lcm": "no/such/lora", "exact": False}, "can't be loaded as a LoRA"),
        ({"compile": "graphs"}, "CUDA"),
        ({"compile": "fast"}, "expected True, False or 'graphs'"),
        ({"dtype": torch.float16}, "slow on a CPU"),
    ],
)
def test_what_can_not_be_done_is_one_line_and_changes_nothing(pipe, options, says):
    before = draw(pipe)
    with pytest.raises(InputError, match=says) as raised:
        optimize(pipe, **options)
    assert "\n" not in str(raised.value)
    assert (draw(pipe) == before).all()


def test_int8_without_torchao_says_what_to_install(pipe, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install torchao"):
        optimize(pipe, int8=True, exact=False)


def test_int8_changes_the_picture_a_little_and_only_with_torchao(pipe):
    pytest.importorskip("torchao")
    expected = draw(pipe)
    optimize(pipe, int8=True, exact=False)
    assert any(type(each).__name__ == "Int8Tensor" for each in pipe.unet.parameters())
    assert 0 < np.abs(draw(pipe) - expected).max() < 0.05


def test_a_tiny_vae_takes_the_place_of_the_vae(tmp_path):
    AutoencoderTiny(encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4).save_pretrained(
        tmp_path
    )
    full = models.diffusion(SMALL, models.text_tower(SMALL, CPU), CPU, torch.float32)
    optimize(full, tiny_vae=tmp_path, exact=False, dtype=torch.float32)
    assert isinstance(full.vae, AutoencoderTiny)
    assert generation.make_generate(full, SMALL, 1)().shape == (1, SMALL.side, SMALL.side, 3)


def test_lcm_is_a_lora_and_its_scheduler(tmp_path):
    pytest.importorskip("peft")
    full = models.diffusion(SMALL, models.text_tower(SMALL, CPU), CPU, torch.float32)
    expected = generation.make_generate(full, SMALL, 1)()
    other = copy.deepcopy(full.unet)
    add_lora(other, lora_config(2, "attention"), seed=0)
    with torch.no_grad():
        for name, each in other.named_parameters():
            if ".lora_B." in name:
                each.normal_()
    save_lora(other, tmp_path)
    optimize(full, lcm=tmp_path, exact=False, dtype=torch.float32)
    assert isinstance(full.scheduler, LCMScheduler)
    assert list(full.unet.peft_config) == ["lcm"]
    assert np.abs(generation.make_generate(full, SMALL, 1)() - expected).max() > 1e-3


def test_any_stable_diffusion_can_be_optimized(monkeypatch):
    monkeypatch.setattr(module, "has_amx", lambda: False)
    pipe = optimize(stock("xl"))
    assert pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_generate_takes_it():
    (picture,) = generate("一只猫", steps=1, seed=1, device="cpu", optimize=True, dtype="float32")
    assert picture.image.size == (64, 64)
    with pytest.raises(InputError, match="optimize is for loading"):
        next(generate("一只猫", model=stock(), optimize=True))
