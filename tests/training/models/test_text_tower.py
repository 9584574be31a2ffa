"""Text towers of every layout, to be trained: without dropout, in float32, saved with what they came with."""

from __future__ import annotations

import shutil

import pytest
import torch
from helpers import layouts, tiny
from transformers import AltCLIPTextModel

from altdiffusion import AltCLIP, InputError, load_text_encoder
from altdiffusion.training.models.text_tower import load_text_tower


def test_mini_is_a_full_altclip_whose_tower_is_that_of_its_pipeline(tmp_path):
    tower = load_text_tower("mini")
    assert (tower.whole is not None, tower.calibrated) == (True, True)
    alone, _ = load_text_encoder("mini")
    for name, tensor in alone.state_dict().items():
        assert torch.equal(tensor, tower.model.state_dict()[name]), name
    tower.save(tmp_path / "saved")
    saved, former = (
        AltCLIP.from_pretrained(tmp_path / "saved").state_dict(),
        AltCLIP.from_pretrained("mini").state_dict(),
    )
    assert all(torch.equal(saved[name], former[name]) for name in former)


@pytest.mark.parametrize("kind", ["bilingual", "m9", "m18"])
def test_of_an_altdiffusion_there_is_the_tower_alone(published, tmp_path, kind):
    tower = load_text_tower(published(kind))
    assert (tower.whole, tower.processor, tower.calibrated) == (None, None, False)
    assert {parameter.dtype for parameter in tower.model.parameters()} == {torch.float32}
    assert not any(isinstance(module, torch.nn.Dropout) and module.p for module in tower.model.modules())
    tower.save(tmp_path / "saved")
    assert isinstance(AltCLIPTextModel.from_pretrained(tmp_path / "saved"), AltCLIPTextModel)


def test_an_altclip_without_its_images_settings_and_a_clip_are_one_line(tmp_path):
    layouts.save_altclip(tmp_path / "altclip")
    with pytest.raises(InputError, match=r"no preprocessor_config\.json"):
        load_text_tower(tmp_path / "altclip")
    tiny.save_clip(tmp_path / "clip")
    with pytest.raises(InputError, match="no AltCLIP text encoder here"):
        load_text_tower(tmp_path / "clip")
    shutil.rmtree(tmp_path / "clip")
    with pytest.raises(InputError, match="unknown model"):
        load_text_tower(tmp_path / "clip")
