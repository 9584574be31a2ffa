"""`train align --trainable lora`: a LoRA from images with captions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from helpers.small_diffusion import SIDE, add_captions, assert_same, before_fit, save_diffusion, save_pictures, weights

from altdiffusion import AltDiffusionPipeline
from altdiffusion.errors import InputError
from altdiffusion.pipelines.load import load_diffusion
from altdiffusion.training.models.lora import add_lora, lora_config, save_lora
from altdiffusion.training.stage_settings import AlignSettings
from altdiffusion.training.stages.align import train_align


@pytest.fixture
def settings(published, tmp_path) -> AlignSettings:
    save_diffusion(tmp_path / "model", published("m9"))
    add_captions(save_pictures(tmp_path / "pictures", [(8, 8)] * 4))
    return AlignSettings(
        model=str(tmp_path / "model"), train_data=[str(tmp_path / "pictures")], output_dir=tmp_path / "out", resolution=SIDE,
        batch_size=4, max_train_steps=3, learning_rate=1e-2, device="cpu", trainable="lora", lora_rank=2,
    )  # fmt: skip


def draw(pipe: AltDiffusionPipeline) -> torch.Tensor:
    options = {"num_inference_steps": 2, "height": SIDE, "width": SIDE, "output_type": "pt"}
    return pipe("一只猫", generator=torch.Generator().manual_seed(1), **options).images


def test_only_the_lora_gets_gradients(settings):
    task = before_fit(train_align, settings).task
    names = {name for name, each in task.named_parameters() if each.requires_grad}
    assert names
    assert all(".lora_" in name for name in names)


@pytest.mark.parametrize("layers", ["attention", "all"])
def test_it_stands_beside_the_layers_that_were_asked_for(settings, layers):
    settings = settings.replace(lora_layers=layers)
    names = {name for name, each in before_fit(train_align, settings).task.named_parameters() if each.requires_grad}
    assert any(".attn2.to_k." in name for name in names)
    assert any(".conv1." in name for name in names) == (layers == "all")
    assert any(".proj_in." in name for name in names) == (layers == "all")


@pytest.mark.parametrize("layers", ["attention", "all"])
def test_the_lora_alone_is_saved_and_changes_what_the_untouched_model_draws(settings, layers):
    settings = settings.replace(lora_layers=layers)
    model = Path(settings.model)
    before = weights(model)
    train_align(settings)
    assert [path.name for path in (settings.output_dir / "model").iterdir()] == ["pytorch_lora_weights.safetensors"]
    assert_same(weights(model), before)
    pipe = AltDiffusionPipeline.from_pretrained(model)
    plain = draw(pipe)
    pipe.load_lora_weights(settings.output_dir / "model")
    assert not torch.equal(draw(pipe), plain)


@pytest.mark.parametrize("layers", ["attention", "all"])
def test_what_is_loaded_is_all_that_was_trained(layers, tmp_path):
    trained, loaded = load_diffusion("sd-mini"), load_diffusion("sd-mini")
    add_lora(trained.unet, lora_config(4, layers), seed=0)
    for name, each in trained.unet.named_parameters():
        if ".lora_B." in name:  # they begin at zero
            torch.nn.init.normal_(each, std=0.05)
    save_lora(trained.unet, tmp_path)
    loaded.load_lora_weights(tmp_path)
    given = (torch.randn(1, 4, 16, 16), 500, torch.randn(1, 77, 192))
    with torch.no_grad():
        torch.testing.assert_close(loaded.unet(*given).sample, trained.unet(*given).sample, rtol=1e-4, atol=1e-4)


def test_without_peft_it_is_refused_before_anything_is_loaded(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"needs the library peft: pip install"):
        train_align(settings)
