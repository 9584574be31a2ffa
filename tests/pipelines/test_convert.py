"""`convert` writes what plain diffusers and transformers load, whole or not at all."""

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers import layouts
from helpers.clip_pipeline import clip_pipeline
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import AltCLIPTextModel, AutoTokenizer

from altdiffusion import AltDiffusionPipeline, InputError, convert, load_text_encoder
from altdiffusion.checkpoints.hub import sd_mini_folder

DRAW = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "np"}

_PLAIN = """
    import sys
    sys.modules["altdiffusion"] = None
    import numpy as np, torch
    from diffusers import StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
    np.save(sys.argv[2], pipe("一只猫", num_inference_steps=2, height=16, width=16, output_type="np",
                              generator=torch.Generator().manual_seed(1)).images[0])
"""


def draw(pipe):
    return pipe("一只猫", generator=torch.Generator().manual_seed(1), **DRAW).images[0]


def stored_dtype(file):
    with safe_open(file, "pt") as tensors:
        return tensors.get_tensor(next(iter(tensors.keys()))).dtype


@pytest.mark.parametrize("weights", ["bin", "safetensors"])
def test_folder_becomes_stock_and_draws_the_same(published, tmp_path, weights, plain_diffusers):
    source = published("m9", weights)
    convert(source, tmp_path / "out", allow_pickle=True)
    assert not list((tmp_path / "out").rglob("*.bin"))
    expected = draw(AltDiffusionPipeline.from_pretrained(source, allow_pickle=True))
    done = plain_diffusers.run_script(textwrap.dedent(_PLAIN), tmp_path / "out", tmp_path / "x.npy")
    assert done.status == [0], done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-4)
    np.testing.assert_array_equal(draw(AltDiffusionPipeline.from_pretrained(tmp_path / "out")), expected)


def test_what_was_written_says_nothing_of_this_machine(published, tmp_path):
    convert(published("m9"), tmp_path / "out")
    for file in (tmp_path / "out").rglob("*"):
        if file.suffix in (".json", ".md"):
            assert str(tmp_path.parent.parent) not in file.read_text(), file


def test_single_file_keeps_its_dtype(published, tmp_path):
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in layouts.single_file_state("m9").items()
    }
    save_file(state, tmp_path / "x.safetensors")
    convert(tmp_path / "x.safetensors", tmp_path / "out", tokenizer=published("m9"))
    assert stored_dtype(next((tmp_path / "out" / "unet").glob("*.safetensors"))) == torch.float16
    plain = StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    assert {part.dtype for part in (plain.unet, plain.vae, plain.text_encoder)} == {torch.float32}
    convert(tmp_path / "x.safetensors", tmp_path / "wide", tokenizer=published("m9"), dtype=torch.float32)
    assert stored_dtype(next((tmp_path / "wide" / "text_encoder").glob("*.safetensors"))) == torch.float32


@pytest.mark.parametrize("m18", [False, True])
def test_altclip_becomes_an_encoder_for_plain_transformers(tmp_path, m18):
    layouts.save_altclip(tmp_path / "altclip", m18)
    convert(tmp_path / "altclip", tmp_path / "out")
    plain, report = AltCLIPTextModel.from_pretrained(
        tmp_path / "out", subfolder="text_encoder", output_loading_info=True
    )
    assert not any(report.values()), report
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", subfolder="tokenizer")
    encoder, _ = load_text_encoder(tmp_path / "altclip")
    again, _ = load_text_encoder(tmp_path / "out")
    inputs = tokenizer("一只猫", padding="max_length", return_tensors="pt")
    assert inputs.input_ids.shape == (1, 77)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(**inputs)[0], encoder(**inputs)[0], atol=1e-5, rtol=0)
        assert torch.equal(again(**inputs)[0], encoder(**inputs)[0])


def test_card_names_languages_source_and_licence(published, tmp_path):
    folder = tmp_path / "AltDiffusion-m9"
    folder.symlink_to(published("m9"))
    card = (convert(folder, tmp_path / "out") / "README.md").read_text()
    assert "AltDiffusion-m9" in card
    assert "en, zh, es, fr, ru, ja, ko, ar, it" in card
    assert "OpenRAIL-M" in card


def test_destination_that_is_taken_is_left_alone(published, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="there already"):
        convert(published("m9"), tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_failure_leaves_nothing_behind(own_copy, tmp_path):
    (own_copy / "unet" / "config.json").write_text("{")
    with pytest.raises(InputError):
        convert(own_copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("Error while serializing: No space left on device")],
)
def test_full_disk_is_one_clear_line(published, tmp_path, monkeypatch, error):
    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr(AltDiffusionPipeline, "save_pretrained", full)
    with pytest.raises(InputError, match="No space left"):
        convert(published("m9"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_plain_stable_diffusion_is_refused(own_copy, tmp_path):
    stock = clip_pipeline()
    stock.register_modules(tokenizer=AltDiffusionPipeline.from_pretrained(own_copy).tokenizer)
    stock.save_pretrained(tmp_path / "sd")
    index = json.loads((tmp_path / "sd" / "model_index.json").read_text())
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]
    with pytest.raises(InputError, match="nothing to convert"):
        convert(tmp_path / "sd", tmp_path / "out")


@pytest.mark.parametrize("name", ["mini", "sd-mini", Path("sd-mini"), sd_mini_folder()])
def test_the_embedded_models_become_whole_stock_folders(tmp_path, name):
    stock = StableDiffusionPipeline.from_pretrained(convert(name, tmp_path / "out"))
    np.testing.assert_allclose(draw(stock), draw(AltDiffusionPipeline.from_pretrained(name)), atol=1e-4)
