"""What the stages that train a UNet share: validation samples."""

import pytest
import torch
from accelerate import Accelerator
from helpers.small_diffusion import SIDE, save_diffusion
from PIL import Image

from altdiffusion.pipelines.load import load_diffusion
from altdiffusion.training.models.unet import sample_prompts
from altdiffusion.training.stage_settings import AlignSettings


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_samples_out_of_nan_are_one_line_and_not_saved(published, tmp_path, capsys, part):
    save_diffusion(tmp_path / "model", published("m9"))
    settings = AlignSettings(
        model=str(tmp_path / "model"), train_data=[str(tmp_path)], output_dir=tmp_path, resolution=SIDE,
        validation_prompts=["一只猫", "a dog"], validation_inference_steps=1,
    )  # fmt: skip
    pipe = load_diffusion(settings.model)
    validate = sample_prompts(pipe, settings, Accelerator(cpu=True))
    assert validate is not None
    assert validate(1) == {}
    sheet = tmp_path / "samples" / "step-00000001.png"
    assert Image.open(sheet).size == (2 * SIDE, SIDE)
    weight = pipe.unet.conv_out.weight if part == "unet" else pipe.vae.post_quant_conv.weight
    torch.nn.init.constant_(weight, float("nan"))
    assert validate(2) == {}
    assert list(sheet.parent.iterdir()) == [sheet]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "NaN" in line]
    assert line.startswith("step 2: 2 of 2 samples came out as NaN with --mixed-precision no, and none are saved")
