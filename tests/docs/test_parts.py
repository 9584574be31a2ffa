"""The Python of docs/parts.md runs, on small stand-ins for the files that it names."""

import re
from pathlib import Path

import pytest
import torch
from helpers import loras
from helpers.controlnet import save_controlnet
from helpers.ip_adapter import save_ip_adapter
from helpers.ldm_names import ldm_vae
from PIL import Image
from safetensors.torch import save_file

from altdiffusion import AltDiffusionPipeline
from altdiffusion.generation import settings

PAGE = Path(__file__).parents[2] / "docs" / "parts.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    pipe = AltDiffusionPipeline.from_pretrained("mini")
    loras.save_kohya(folder / "ink.safetensors", pipe.unet)
    loras.save_diffusers(folder / "sketch.safetensors", pipe.unet)
    vae = ldm_vae(pipe.vae.state_dict(), len(pipe.vae.config.block_out_channels))
    save_file({name: tensor.contiguous() for name, tensor in vae.items()}, folder / "vae-ft-mse.safetensors")
    save_controlnet(folder / "lllyasviel" / "sd-controlnet-canny", pipe.unet, pipe.vae_scale_factor)
    save_ip_adapter(folder / "h94" / "IP-Adapter" / "models", pipe.unet)
    width = pipe.text_encoder.get_input_embeddings().weight.shape[1]
    save_file({"<杯>": torch.randn(width)}, folder / "cup.safetensors")
    for name in ("edges", "style"):
        Image.effect_noise((64, 64), 50).convert("RGB").save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_the_lines_run(files, monkeypatch, code):
    monkeypatch.chdir(files)
    monkeypatch.setattr(settings, "DEFAULT_STEPS", 2)
    names = {}
    exec(code.replace('"webui")', '"webui", num_inference_steps=2)'), names)
    image = names.get("cat") or names["image"]
    assert image.getextrema() != ((0, 0),) * 3
    assert len(code.strip().splitlines()) <= 5
