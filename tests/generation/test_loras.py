"""LoRAs by flag, by tag and by name: each acts as if it were added to the weights, and nothing is copied."""

import copy
import logging

import numpy as np
import pytest
import torch
from helpers import loras

from altdiffusion import AltDiffusionPipeline, InputError, generate
from altdiffusion.generation.draw import GenerateRequest, draw_batch
from altdiffusion.generation.load import load_pipeline
from altdiffusion.generation.loras import NamedLora, loras_to_load, parse_lora
from altdiffusion.generation.settings import ImageSettings

COMMON = {"steps": 2, "size": (16, 16), "seed": 1, "device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def folder(published):
    return published("m9")


@pytest.fixture(scope="module")
def plain(folder):
    pipe = AltDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def files(plain, tmp_path_factory):
    """ink in kohya's format, v1.5 in diffusers', and below them one more that only a prompt names."""
    root = tmp_path_factory.mktemp("loras")
    loras.save_kohya(root / "ink.safetensors", plain.unet, 1)
    loras.save_diffusers(root / "v1.5.safetensors", plain.unet, 2)
    loras.save_kohya(root / "styles" / "水墨.safetensors", plain.unet, 3, clip=False)
    return root


@pytest.fixture(scope="module")
def merged(plain):
    """merged([(seed, weight, scale)]): the image of a pipeline with these in its weights."""

    def draw(*added):
        pipe = AltDiffusionPipeline(
            **{**plain.components, "unet": copy.deepcopy(plain.unet)}, requires_safety_checker=False
        )
        for each in added:
            loras.merge(pipe.unet, *each)
        return image(model=pipe)

    return draw


def image(prompt="一只猫", **options):
    common = {name: COMMON[name] for name in COMMON if not (options.get("model") and name in ("device", "dtype"))}
    options = ({} if not isinstance(options.get("model"), str) else COMMON) | common | options
    return np.asarray(next(generate(prompt, **options)).image, np.int16)


INK, V15, BRUSH = (1, loras.ALPHA / loras.RANK), (2, 1.0), (3, loras.ALPHA / loras.RANK)


@pytest.mark.parametrize(
    ("prompt", "options", "added"),
    [
        ("一只猫", {"lora": "{}/ink.safetensors:0.8"}, [(INK, 0.8)]),
        ("一只猫", {"lora": ["{}/ink.safetensors:-1", "{}/v1.5.safetensors"]}, [(INK, -1), (V15, 1)]),
        ("一只猫<lora:ink:0.5>", {"lora": ["{}/ink.safetensors", "{}/v1.5.safetensors:.5"]}, [(INK, 0.5), (V15, 0.5)]),
        ("<lora:v1.5:0.3>一只猫", {"lora_dir": "{}"}, [(V15, 0.3)]),
        ("一只猫＜lora：水墨：0.5＞", {"lora": ["{}/ink.safetensors"], "lora_dir": "{}"}, [(INK, 1), (BRUSH, 0.5)]),
        ("一只猫{<lora:ink:1>}", {"lora_dir": "{}", "prompt_syntax": "lenient"}, None),
        ("一只猫", {"lora": "{}/ink.safetensors:0"}, []),
    ],
)
def test_each_acts_as_if_it_were_in_the_weights(folder, files, merged, prompt, options, added):
    options = {
        name: [each.format(files) for each in value] if isinstance(value, list) else value.format(files)
        for name, value in options.items()
    }
    got = image(prompt, model=str(folder), **options)
    if added is not None:
        expected = merged(*((seed, weight, scale) for (seed, scale), weight in added))
        assert np.abs(got - expected).max() <= 1
        assert not added or np.abs(got - merged()).max() > 5


@pytest.fixture
def loaded(folder, files):
    named = loras_to_load([f"{files}/ink.safetensors:0.5"], files, ["<lora:v1.5>"], "webui")
    pipe = load_pipeline(folder, lora=named, device="cpu", dtype="float32")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_no_weight_of_the_unet_is_copied(folder, files, loaded):
    bare = AltDiffusionPipeline.from_pretrained(folder)
    own = sum(parameter.nbytes for parameter in bare.unet.parameters())
    added = sum(sum(matrix.nbytes for matrix in pair) for pair in loras.matrices(bare.unet, 0).values())
    assert sum(parameter.nbytes for parameter in loaded.unet.parameters()) == own + 2 * added
    storages = {parameter.data_ptr() for parameter in loaded.unet.parameters()}
    for prompt in ("<lora:ink:0.2>猫", "<lora:v1.5:0.7>猫", "猫"):
        image(prompt, model=loaded)
        assert {parameter.data_ptr() for parameter in loaded.unet.parameters()} == storages


def test_a_batch_shares_its_loras_and_every_image_has_its_own_weights(loaded):
    prompts = ["猫", "猫<lora:ink:0.1>", "猫<lora:v1.5:2>", "猫{<lora:ink:0>|<lora:ink:3>}"]
    requests = [
        GenerateRequest(ImageSettings(prompt=prompt, seed=seed, steps=2, width=16, height=16))
        for prompt in prompts
        for seed in (1, 2)
    ]
    keys = [request.batch_key for request in requests]
    assert [keys.index(key) for key in keys] == [0, 0, 2, 2, 4, 4, 6, 7]
    with pytest.raises(InputError, match="LoRAs"):
        draw_batch(loaded, requests[:3])
    (got, _) = draw_batch(loaded, requests[2:4])
    assert np.abs(np.asarray(got.image, np.int16) - image("猫<lora:ink:0.1>", model=loaded)).max() <= 1


@pytest.mark.parametrize("prompt", ["猫<lora:ink:0.9>", "猫<lora:v1.5:0.9:0.3>"])
def test_a_call_of_the_pipeline_sets_the_weights_and_restores_those_before(loaded, prompt):
    def draw(words):
        torch.manual_seed(0)
        return loaded(words, num_inference_steps=2, prompt_syntax="webui", output_type="np").images

    before = draw("猫")
    active, grads = loaded.get_active_adapters(), [part.requires_grad for part in loaded.unet.parameters()]
    named = draw(prompt)
    assert np.abs(named - before).max() > 0.01
    assert np.array_equal(draw("猫"), before)
    assert loaded.get_active_adapters() == active == ["ink"]
    assert [part.requires_grad for part in loaded.unet.parameters()] == grads
    loaded.set_adapters(["ink", "v1_5"], [0.5 if "v1.5" in prompt else 0.9, 0.3 if "v1.5" in prompt else 0.0])
    assert np.allclose(draw("猫"), named, atol=1e-5)
    loaded.disable_lora()
    off = draw("猫")
    draw(prompt)
    assert np.array_equal(draw("猫"), off)


@pytest.mark.parametrize(
    ("prompt", "negative", "line"),
    [
        ("猫<lora:inc>", "", "<lora:inc>: this model has no LoRA of that name, loaded: ink, v1_5"),
        (["猫<lora:ink:1>", "猫<lora:ink:2>"], "", "call the pipeline for each"),
        ("猫<lora:ink><lora:ink:2>", "", "names the LoRA ink twice"),
        ("猫", "<lora:ink:1>", "the negative prompt names the LoRA ink"),
    ],
)
def test_a_call_refuses_what_it_cannot_apply(loaded, prompt, negative, line):
    with pytest.raises(InputError, match=line):
        loaded(prompt, negative_prompt=negative or None, num_inference_steps=2, prompt_syntax="webui")
    if isinstance(prompt, str):
        with pytest.raises(InputError, match=line):
            next(generate(prompt, negative_prompt=negative, model=loaded, steps=2))


def test_a_fused_lora_is_refused(loaded):
    loaded.fuse_lora(adapter_names=["ink"])
    with pytest.raises(InputError, match="<lora:ink>: this LoRA was fused"):
        image("猫<lora:ink:0.2>", model=loaded)


@pytest.mark.parametrize(
    ("written", "name", "source", "weight"),
    [
        ("ink.safetensors:0.8", "ink", "ink.safetensors", 0.8),
        ("a/add.v2.safetensors:-1.5", "add.v2", "a/add.v2.safetensors", -1.5),
        ("someone/lora-ink:.5", "lora-ink", "someone/lora-ink", 0.5),
        ("C:\\ink.safetensors", "C:\\ink", "C:\\ink.safetensors", 1.0),
        ("ink:high", "ink:high", "ink:high", 1.0),
        (
            "out/my-cat/pytorch_lora_weights.safetensors:10",
            "my-cat",
            "out/my-cat/pytorch_lora_weights.safetensors",
            10.0,
        ),
    ],
)
def test_what_follows_the_last_colon_is_a_weight_if_it_is_a_number(written, name, source, weight):
    assert parse_lora(written) == NamedLora(name, source, weight)


@pytest.mark.parametrize(
    ("prompt", "options", "line"),
    [
        ("猫", {"lora": "{}/ink.safetensors:11"}, "expected a weight from -10 to 10, got 11"),
        (
            "猫<lora:inc:1>",
            {"lora": "{}/ink.safetensors"},
            "<lora:inc>: no LoRA of that name: do you mean ink.: known: ink",
        ),
        ("猫{|<lora:inc:1>}", {"lora_dir": "{}"}, "known: ink, v1.5, 水墨; name its file with --lora"),
        ("猫<lora:ink:1>", {}, "none is known"),
        ("猫<lora:ink:1>", {"lora_dir": "{}/nowhere"}, "expected a folder of .safetensors files"),
        ("猫", {"lora": ["{}/ink.safetensors", "{}/../loras0/ink.safetensors"]}, "are both called ink: rename"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(files, monkeypatch, prompt, options, line):
    monkeypatch.setattr(AltDiffusionPipeline, "from_pretrained", None)  # isn't asked
    options = {
        name: [each.format(files) for each in value] if isinstance(value, list) else value.format(files)
        for name, value in options.items()
    }
    with pytest.raises(InputError, match=line):
        next(generate(prompt, **options))


def test_two_of_one_name_in_a_folder_are_refused_where_they_are_meant(files, plain):
    loras.save_diffusers(files / "more" / "twin.safetensors", plain.unet)
    loras.save_diffusers(files / "twin.safetensors", plain.unet)
    assert [lora.name for lora in loras_to_load(None, files, ["<lora:ink>"], "webui")] == ["ink"]
    with pytest.raises(InputError, match="both called twin"):
        loras_to_load(None, files, ["<lora:twin>"], "webui")


def test_a_lora_for_another_kind_of_model_names_both(folder, plain, tmp_path):
    path = loras.save_kohya(tmp_path / "xl.safetensors", plain.unet, width=2048)
    with pytest.raises(InputError, match=r"xl.safetensors is a LoRA for Stable Diffusion XL .*2048.*, .* is .* 32\)"):
        load_pipeline(folder, lora=path, device="cpu")


def test_the_half_for_clip_alone_is_refused(folder, plain, tmp_path, caplog):
    unet = torch.nn.Module()
    path = loras.save_kohya(tmp_path / "words.safetensors", unet)
    with pytest.raises(InputError, match="nothing for this model"):
        load_pipeline(folder, lora=path, device="cpu")


def test_the_half_for_clip_is_left_out_and_said(folder, files, caplog):
    caplog.set_level(logging.WARNING)
    load_pipeline(folder, lora=f"{files}/ink.safetensors", device="cpu")
    assert "CLIP's text encoder were left out" in caplog.text
