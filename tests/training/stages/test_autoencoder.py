"""`train autoencoder`: a VAE from images alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from altdiffusion.checkpoints.hub import mini_folder
from altdiffusion.errors import InputError
from altdiffusion.training.stage_settings import AutoencoderSettings
from altdiffusion.training.stages.autoencoder import psnr, train_autoencoder


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), norm_num_groups=2, sample_size=16,
    )  # fmt: skip
    vae.save_pretrained(tmp_path / "vae")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    lines = []
    for number, colour in enumerate(["red", "green", "blue", "white"]):
        Image.new("RGB", (24, 16), colour).save(pictures / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "en": colour}))
    (pictures / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return {
        "model": str(tmp_path / "vae"), "train_data": [str(pictures)], "output_dir": tmp_path / "out", "batch_size": 4,
        "max_train_steps": 3, "logging_steps": 1, "learning_rate": 1e-2, "device": "cpu", "kl_weight": 0.0,
    }  # fmt: skip


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_it_learns_and_plain_diffusers_loads_it(settings):
    train_autoencoder(AutoencoderSettings(**settings | {"max_train_steps": 40}))
    curve = losses(settings["output_dir"])
    assert curve[-1] < 0.7 * curve[0]
    AutoencoderKL.from_pretrained(settings["output_dir"] / "model")


def test_its_scaling_factor_gives_latents_unit_variance(settings):
    train_autoencoder(AutoencoderSettings(**settings))
    vae = AutoencoderKL.from_pretrained(settings["output_dir"] / "model")
    colours = ((1, -1, -1), (-1, 1 / 255, -1), (-1, -1, 1), (1, 1, 1))  # red, green (128), blue, white
    pictures = [torch.tensor(colour).float()[:, None, None].expand(3, 16, 16) for colour in colours]
    latents = vae.encode(torch.stack(pictures)).latent_dist.mean
    assert (latents.std() * vae.config.scaling_factor).item() == pytest.approx(1, rel=1e-3)


def test_a_cut_batch_gives_the_same_losses(settings, tmp_path):
    train_autoencoder(AutoencoderSettings(**settings))
    train_autoencoder(
        AutoencoderSettings(**settings | {"gradient_accumulation_steps": 2, "output_dir": tmp_path / "cut"})
    )
    assert losses(tmp_path / "cut") == pytest.approx(losses(settings["output_dir"]), rel=1e-4)


def test_psnr_is_of_pixels_in_0_to_1():
    class Grey:
        device = torch.device("cpu")

        def encode(self, images):
            return type("Encoded", (), {"latent_dist": type("Distribution", (), {"mean": images})})

        def decode(self, latents):
            return type("Decoded", (), {"sample": torch.zeros_like(latents)})

    black = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)  # -1, and decoded 0: half of the range off
    assert psnr(Grey(), black) == pytest.approx(-10 * math.log10(0.25))


def test_validation_tells_the_psnr(settings):
    train_autoencoder(AutoencoderSettings(**settings | {"validation_data": settings["train_data"]}))
    last = json.loads((settings["output_dir"] / "log.jsonl").read_text().splitlines()[-1])
    assert 0 < last["validation"]["PSNR dB"] < 60


def test_a_folder_that_is_no_vae_is_refused(settings, tmp_path):
    with pytest.raises(InputError, match="can't be loaded"):
        train_autoencoder(AutoencoderSettings(**settings | {"model": str(tmp_path / "pictures")}))


@pytest.mark.parametrize("model", ["mini", "sd-mini", str(mini_folder())])
def test_it_starts_from_the_vae_of_a_pipeline(settings, model):
    few = {"model": model, "max_train_steps": 1, "batch_size": 1, "learning_rate": 1e-9}
    train_autoencoder(AutoencoderSettings(**settings | few))
    trained = AutoencoderKL.from_pretrained(settings["output_dir"] / "model")
    started = AutoencoderKL.from_pretrained(mini_folder() / "vae")
    assert torch.allclose(trained.decoder.conv_in.weight, started.decoder.conv_in.weight, atol=1e-6)
