"""The attention that is chosen is the attention that runs."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from altdiffusion import AltDiffusionPipeline, InputError, choose_attention
from altdiffusion.speed.attention import report_attention


@pytest.fixture
def pipe(published):
    return AltDiffusionPipeline.from_pretrained(published("m9"))


def draw(pipe):
    return pipe(
        "一只猫",
        num_inference_steps=2,
        height=16,
        width=16,
        output_type="np",
        generator=torch.Generator().manual_seed(1),
    ).images[0]


def test_auto_takes_sdpa_on_a_cpu_and_names_pytorchs_kernel(pipe):
    report = choose_attention(pipe)
    assert all(isinstance(processor, AttnProcessor2_0) for processor in pipe.unet.attn_processors.values())
    assert report.unet in ("sdpa/flash", "sdpa/math")
    assert report.vae.startswith("sdpa/")
    assert report.text_encoder.startswith("sdpa/")


def test_sliced_runs_sliced_and_gives_the_same(pipe):
    before = draw(pipe)
    assert choose_attention(pipe, "sliced").unet == "sliced"
    assert all(isinstance(processor, SlicedAttnProcessor) for processor in pipe.unet.attn_processors.values())
    assert abs(draw(pipe) - before).max() < 1e-4
    assert choose_attention(pipe).unet.startswith("sdpa")


def test_report_reads_back_what_others_set(pipe):
    pipe.unet.set_attn_processor(AttnProcessor())
    assert report_attention(pipe).unet == "math"


def test_processors_of_other_kinds_are_left_alone(pipe):
    class Custom(AttnProcessor2_0):
        pass

    pipe.unet.set_attn_processor(Custom())
    assert choose_attention(pipe, "sliced").unet == "Custom"


def test_xformers_without_a_gpu_is_one_clear_line(pipe):
    with pytest.raises(InputError, match="use 'sdpa'"):
        choose_attention(pipe, "xformers")


def test_unknown_method_lists_the_known(pipe):
    with pytest.raises(InputError, match="auto, xformers, sdpa, sliced"):
        choose_attention(pipe, "magic")


@pytest.mark.parametrize("kernel", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_each_of_pytorchs_kernels_gives_the_images_of_plain_attention_on_a_cpu(pipe, kernel):
    for model in (pipe.unet, pipe.vae):
        model.set_attn_processor(AttnProcessor())
    expected = draw(pipe)
    choose_attention(pipe, "sdpa")
    with sdpa_kernel(kernel), profile(activities=[ProfilerActivity.CPU]) as ran:
        found = draw(pipe)
    assert abs(found - expected).max() < 1e-4
    operator = {SDPBackend.MATH: "attention_math", SDPBackend.FLASH_ATTENTION: "flash_attention_for_cpu"}[kernel]
    assert any(operator in event.key for event in ran.key_averages())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", ["auto", "sdpa", "sliced"])
def test_kernels_agree_on_a_gpu(pipe, method):
    pipe.to("cuda", torch.float16)
    pipe.unet.set_attn_processor(AttnProcessor())
    expected = draw(pipe)
    choose_attention(pipe, method)
    assert abs(draw(pipe) - expected).max() < 2e-2
