"""The text half of a LoRA where AltCLIP's tower reads the prompts; what was made for CLIP is in test_alt_diffusion.py."""

import logging

import pytest
import torch
from helpers.clip_pipeline import clip_pipeline

from altdiffusion import InputError, load_text_encoder
from altdiffusion.pipelines.adapters import load_lora_into_text_encoder

QUERY = "roberta.encoder.layers.0.attention.self.query"


@pytest.fixture
def encoder(published):
    pytest.importorskip("peft")
    return load_text_encoder(published("m9"))[0]


def text_half(prefix="text_encoder"):
    return {f"{prefix}.{QUERY}.lora_A.weight": torch.ones(2, 64), f"{prefix}.{QUERY}.lora_B.weight": torch.ones(64, 2)}


@pytest.mark.parametrize(("prefix", "keys"), [(None, ["unet.a"]), ("text_encoder_2", ["text_encoder.a"]), (None, [])])
@pytest.mark.parametrize("reader", ["AltCLIPTextModel", "CLIPTextModel"])
def test_a_lora_without_a_text_half_warns_as_diffusers_does(encoder, caplog, monkeypatch, reader, prefix, keys):
    text_encoder = encoder if reader == "AltCLIPTextModel" else clip_pipeline().text_encoder
    logger = logging.getLogger("diffusers.loaders.lora_base")
    monkeypatch.setattr(logger, "filters", [])  # the command line's, where one ran in this process
    logger.addHandler(caplog.handler)  # diffusers' own loggers don't propagate
    with caplog.at_level(logging.WARNING, logger.name):
        load_lora_into_text_encoder({key: torch.ones(1) for key in keys}, None, text_encoder, prefix)
    logger.removeHandler(caplog.handler)
    assert f"No LoRA keys associated to {reader} found with the prefix='{prefix or 'text_encoder'}'" in caplog.text


def test_a_text_half_is_not_hotswapped(encoder):
    with pytest.raises(InputError, match="hotswap=True"):
        load_lora_into_text_encoder(text_half(), None, encoder, hotswap=True)
    assert not any("lora" in name for name in encoder.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_text_half_takes_the_encoders_dtype(encoder, dtype):
    encoder.to(dtype)
    load_lora_into_text_encoder(text_half(), None, encoder)
    loaded = {name: value.dtype for name, value in encoder.state_dict().items() if "lora" in name}
    assert list(loaded.values()) == [dtype, dtype], loaded
