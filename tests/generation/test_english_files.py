"""A community's single files by `load_pipeline` and `generate`: their LoRAs' two halves, bridges, VAEs and inpainting."""

import copy
import itertools
import logging

import numpy as np
import pytest
import torch
from helpers.bridges import SIZES
from helpers.english_models import TOKENIZER, english
from helpers.ldm_names import ldm_vae, single_file
from PIL import Image
from safetensors.torch import save_file

from altdiffusion import InputError, generate
from altdiffusion.generation.load import load_pipeline
from altdiffusion.text_encoder.exit_bridge import ExitBridge, ExitBridgeConfig

ON = {"device": "cpu", "dtype": "float32", "tokenizer": str(TOKENIZER)}
SMALL = {"size": (16, 16), "steps": 2, "seed": 1}
_TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@pytest.fixture(scope="module")
def made():
    return {kind: english(kind) for kind in ("sd1", "xl")}


@pytest.fixture(scope="module")
def files(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for kind, pipe in made.items():
        save_file(single_file(pipe), folder / f"{kind}.safetensors")
    return folder


def image(model, prompt="a cat", **options):
    options = options if not isinstance(model, str) else ON | options
    return np.asarray(next(generate(prompt, model=model, **SMALL, **options)).image, np.int16)


def tuned(pipe, ranks):
    """(a kohya LoRA for UNet and text encoders, the models with it in their weights). ranks: (rank, alpha) by layers in turn."""
    parts = {"lora_unet": pipe.unet, "lora_te": pipe.text_encoder}
    if "text_encoder_2" in pipe.components:
        parts = {"lora_unet": pipe.unet, "lora_te1": pipe.text_encoder, "lora_te2": pipe.text_encoder_2}
    parts = {prefix: copy.deepcopy(part) for prefix, part in parts.items()}
    turns, state = itertools.cycle(ranks), {}
    for prefix, part in parts.items():
        for name, module in part.named_modules():
            if not name.endswith(("to_q", "to_v") if prefix == "lora_unet" else _TEXT):
                continue
            rank, alpha = next(turns)
            down, up = torch.randn(rank, module.weight.shape[1]) / 8, torch.randn(module.weight.shape[0], rank) / 8
            module.weight.data += alpha / rank * up @ down
            name = name.removeprefix("text_model.").replace(".", "_")
            key = f"{prefix}_{name}" if prefix == "lora_unet" else f"{prefix}_text_model_{name}"
            state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
    return state, list(parts.values())


@pytest.mark.parametrize("kind", ["sd1", "xl"])
@pytest.mark.parametrize("ranks", [[(4, 2.0)], [(2, 2.0), (4, 1.0), (4, 8.0)]], ids=["uniform", "resized"])
def test_both_halves_of_a_kohya_lora_act(made, files, tmp_path, kind, ranks):
    state, merged = tuned(made[kind], ranks)
    save_file(state, tmp_path / "ink.safetensors", metadata={"ss_network_module": "networks.lora"})
    pipe = load_pipeline(files / f"{kind}.safetensors", lora=str(tmp_path / "ink.safetensors"), **ON)
    ids = torch.tensor([[0, 258, 989, 1]])
    encoders = [getattr(pipe, name) for name in ("text_encoder", "text_encoder_2") if name in pipe.components]
    for encoder, expected in zip(encoders, merged[1:], strict=True):
        with torch.no_grad():
            torch.testing.assert_close(encoder(ids)[0], expected(ids)[0], atol=1e-5, rtol=1e-4)
    own = load_pipeline(files / f"{kind}.safetensors", **ON)
    before = image(own)
    names = ("unet", "text_encoder", "text_encoder_2")
    own.register_modules(**dict(zip(names, merged, strict=False)))
    assert np.abs(image(pipe) - image(own)).max() <= 1
    assert np.abs(image(pipe) - before).max() > 5
    assert np.abs(image(pipe, "a cat <lora:ink:0>") - before).max() <= 1


@pytest.mark.parametrize("kind", ["sd1", "xl"])
def test_a_bridge_takes_the_place_of_the_files_clip_and_brings_its_tokenizer(published, files, tmp_path, kind):
    widths = (64, 0) if kind == "sd1" else (64 + 128, 32)
    ExitBridge(ExitBridgeConfig(32, *widths, **SIZES)).save_pretrained(tmp_path / "bridge")
    options = {
        "text_encoder": str(published("m9")),
        "bridge": str(tmp_path / "bridge"),
        "device": "cpu",
        "dtype": "float32",
    }
    (tmp_path / "bridge" / "tokenizer").symlink_to(TOKENIZER)
    pipe = load_pipeline(files / f"{kind}.safetensors", **options)
    assert type(pipe.text_encoder_2 if kind == "xl" else pipe.text_encoder).__name__ == "BridgedTextEncoder"
    assert image(pipe, "一只猫").std() > 5


def test_vaes_controlnets_and_inpainting(made, files, tmp_path):
    inpainting = tmp_path / "inpaint.safetensors"
    save_file(single_file(english("sd1", in_channels=9)), inpainting)
    with pytest.raises(InputError, match=r"inpaint\.safetensors is for inpainting: give it an init image and a mask"):
        image(str(inpainting))
    photo, mask = Image.new("RGB", (16, 16), "red"), Image.new("L", (16, 16), 255)
    assert image(str(inpainting), init_image=photo, mask=mask).std() > 5
    with pytest.raises(InputError, match="for which ControlNets aren't supported"):
        load_pipeline(files / "xl.safetensors", controlnet="c", **ON)
    state = single_file(made["sd1"])
    save_file({key: state[key] for key in state if "first_stage" not in key}, tmp_path / "bare.safetensors")
    save_file(ldm_vae(made["sd1"].vae.state_dict(), 2), tmp_path / "vae.safetensors")
    with pytest.raises(InputError, match="holds no VAE"):
        load_pipeline(tmp_path / "bare.safetensors", **ON)
    with pytest.raises(InputError, match=r"pixels a side 2, those of .*bare.safetensors 8"):
        load_pipeline(tmp_path / "bare.safetensors", vae=tmp_path / "vae.safetensors", **ON)


@pytest.mark.parametrize("kind", ["sd1", "xl"])
def test_the_command_line_converts_and_generates(files, tmp_path, monkeypatch, capsys, kind):
    from altdiffusion.cli.main import main

    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    file, options = str(files / f"{kind}.safetensors"), ["--tokenizer", str(TOKENIZER)]
    assert main(["convert", file, str(tmp_path / "out"), *options]) == 0
    once = ["--steps", "1", "--size", "16x16", "--seed", "1", "--device", "cpu"]
    for number, model in enumerate(([file, *options], [str(tmp_path / "out")])):
        target = str(tmp_path / f"{number}.png")
        assert main(["generate", "a cat!", "--model", *model, *once, "--out", target]) == 0
    images = [np.asarray(Image.open(tmp_path / f"{number}.png")) for number in (0, 1)]
    assert kind == "xl" or np.array_equal(*images)
    assert main(["tokens", "a cat", "--model", file, *options]) == 0
    assert "a</w> cat</w>" in capsys.readouterr().out


def test_a_lora_named_as_a_model_says_what_to_do(tmp_path, caplog):
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(1, 1)}, tmp_path / "ink.safetensors")
    caplog.set_level(logging.WARNING)
    with pytest.raises(InputError, match="seems to be a LoRA: name a model, and this with --lora"):
        load_pipeline(tmp_path / "ink.safetensors", **ON)
