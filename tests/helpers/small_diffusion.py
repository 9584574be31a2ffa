"""Stable Diffusions that train in milliseconds, images for them, and ways into the middle of a training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from altdiffusion import load_text_encoder
from altdiffusion.training.losses.denoising import Denoising

SIDE = 8  # pixels; the UNet halves them twice


def save_diffusion(folder: Path, altclip: Path | None, **scheduler: Any) -> Path:
    """A Stable Diffusion of width 8 in the stock layout. altclip: where its text encoder is from; None: a CLIP."""
    torch.manual_seed(7)
    encoder: Any
    tokenizer: Any
    if altclip is not None:
        encoder, tokenizer = load_text_encoder(altclip)
        width = encoder.config.project_dim
    else:
        tokenizer = CLIPTokenizer().train_new_from_iterator([["a cat and a dog"] * 50], vocab_size=300)
        tokenizer.model_max_length = 77
        width = 16
        encoder = CLIPTextModel(
            CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=width, intermediate_size=16, num_hidden_layers=1,
                           num_attention_heads=2, eos_token_id=tokenizer.eos_token_id)
        )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=SIDE // 2, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width, attention_head_dim=2,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=SIDE,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=vae, text_encoder=encoder, tokenizer=tokenizer, unet=unet,
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
                                clip_sample=False, **scheduler),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_pictures(folder: Path, sizes: list[tuple[int, int]], seed: int = 0) -> Path:
    """Noise in these sizes (width, height), as 0.png, 1.png, ..."""
    folder.mkdir(parents=True)
    for number, (width, height) in enumerate(sizes):
        pixels = np.random.default_rng([seed, number]).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def add_captions(folder: Path) -> Path:
    """An English and a Chinese caption for each image."""
    lines = [json.dumps({"image": path.name, "en": f"a cat {path.stem}", "zh": f"一只猫 {path.stem}"})
             for path in sorted(folder.glob("*.png"))]  # fmt: skip
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def weights(folder: Path) -> dict[str, Tensor]:
    """All tensors in a folder and below, by file and name."""
    return {
        f"{path.relative_to(folder)}:{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], **tolerance: float) -> None:
    """Bit for bit by default."""
    torch.testing.assert_close(one, other, **({"rtol": 0, "atol": 0} | tolerance))


def log(folder: Path, name: str = "loss") -> list[float]:
    lines = map(json.loads, (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [line[name] for line in lines if name in line]


def before_fit(stage: Callable[[Any], None], settings: Any) -> SimpleNamespace:
    """What a stage hands to the loop: task, batches, and the number of records."""
    found = SimpleNamespace()

    class _Reached(Exception):
        pass

    def fit(task: Any, batches: Any, settings: Any, accelerator: Any, *, records: int, **kwargs: Any) -> None:
        found.task, found.batches, found.records = task, batches, records
        raise _Reached

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(stage.__globals__, "fit", fit)  # type: ignore[attr-defined]
        with pytest.raises(_Reached):
            stage(settings)
    return found


def interrupted(stage: Callable[[Any], None], settings: Any, passes: int) -> None:
    """Run a stage whose model fails after some passes forward."""
    done = 0
    forward = Denoising.forward

    def failing(self: Denoising, batch: Any) -> Any:
        nonlocal done
        if done == passes:
            raise KeyboardInterrupt
        done += 1
        return forward(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Denoising, "forward", failing)
        with pytest.raises(KeyboardInterrupt):
            stage(settings)
