"""Single files of plain Stable Diffusion 1.x, 2.x and XL: the same images as the pipelines that they were written from."""

import logging

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from helpers import layouts
from helpers.english_models import TOKENIZER, english
from helpers.ldm_names import single_file
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from altdiffusion import AltDiffusionInpaintPipeline, AltDiffusionPipeline, InputError, convert, swap_text_encoder
from altdiffusion.pipelines.load import load_by_kind

KINDS = ("sd1", "sd2", "xl")
CALL = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "np"}


def draw(pipe, prompt="a red cat", **options):
    pipe.set_progress_bar_config(disable=True)
    return pipe(prompt, generator=torch.Generator().manual_seed(1), **CALL, **options).images


@pytest.fixture(scope="module")
def made():
    """The stock pipelines."""
    return {kind: english(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def files(made, tmp_path_factory):
    """made's, each in one file."""
    folder = tmp_path_factory.mktemp("files")
    for kind, pipe in made.items():
        save_file(single_file(pipe), folder / f"{kind}.safetensors")
    return folder


def load(path, **options):
    return load_by_kind(path, **({"tokenizer": TOKENIZER} | options))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_generates_what_its_pipeline_does(made, files, kind):
    loaded = load(files / f"{kind}.safetensors", scheduler=made[kind].scheduler)
    assert type(loaded) is (StableDiffusionXLPipeline if kind == "xl" else AltDiffusionPipeline)
    images = draw(loaded)
    assert images.std() > 0.05
    assert np.array_equal(images, draw(made[kind]))


def test_what_merging_tools_leave_of_clip_is_not_read(made, tmp_path):
    start = "cond_stage_model.transformer."
    left = {
        f"{start}{name}": torch.zeros(2) for name in ("text_projection.weight", "logit_scale", "vision_model.x.bias")
    }
    save_file(single_file(made["sd1"]) | left | {"model_ema.decay": torch.zeros(1)}, tmp_path / "x.safetensors")
    loaded = load(tmp_path / "x.safetensors")
    own = made["sd1"].text_encoder.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in loaded.text_encoder.state_dict().items())


@pytest.mark.parametrize("names", [{"old_names": True}, {"unread_layer": False}])
def test_other_names_of_the_same(made, tmp_path, names):
    kind = "sd1" if "old_names" in names else "sd2"
    save_file(single_file(made[kind], **names), tmp_path / "x.safetensors")
    loaded = load(tmp_path / "x.safetensors", scheduler=made[kind].scheduler)
    assert np.array_equal(draw(loaded), draw(made[kind]))


def test_sd_mini_in_a_file_and_behind_a_bridge(tmp_path):
    """Its proportions aren't the published ones, so its settings come from its folder."""
    folder = AltDiffusionPipeline.from_pretrained("sd-mini")
    save_file(single_file(folder), tmp_path / "dream.safetensors")
    loaded = AltDiffusionPipeline.from_single_file(tmp_path / "dream.safetensors", config="sd-mini")
    assert loaded.scheduler.config.prediction_type == "v_prediction"
    assert np.array_equal(draw(loaded), draw(folder))
    swapped = [draw(swap_text_encoder(pipe, bridge="mini"), "一只猫") for pipe in (loaded, folder)]
    assert np.array_equal(*swapped)


@pytest.mark.parametrize(
    ("kind", "name", "settings"),
    [
        ("sd1", "PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}),
        ("sd2", "DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
        ("xl", "EulerDiscreteScheduler", {"timestep_spacing": "leading", "interpolation_type": "linear"}),
    ],
)
def test_settings_that_no_tensor_tells_are_the_published_ones(files, kind, name, settings):
    loaded = load(files / f"{kind}.safetensors")
    config = loaded.scheduler.config
    common = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    assert type(loaded.scheduler).__name__ == name
    expected = common | settings | {"prediction_type": "epsilon"}
    assert {key: config[key] for key in expected} == expected
    assert loaded.vae.config.scaling_factor == (0.13025 if kind == "xl" else 0.18215)
    assert loaded.unet.config.sample_size == (128 if kind == "xl" else 64)
    assert loaded.tokenizer.pad_token_id == (0 if kind == "sd2" else 1)
    assert kind != "xl" or loaded.tokenizer_2.pad_token_id == 0


@pytest.mark.parametrize(
    ("kind", "marks", "yaml", "expected"),
    [
        ("xl", ["v_pred", "ztsnr"], "", {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
        ("sd1", ["v_pred", "ztsnr"], "", {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
        ("sd2", [], "parameterization: v", {"prediction_type": "v_prediction"}),
        ("sd2", [], "", {"prediction_type": "epsilon"}),
    ],
)
def test_the_scheduler_is_for_what_the_unet_predicts(made, tmp_path, caplog, kind, marks, yaml, expected):
    save_file(single_file(made[kind]) | {mark: torch.zeros(0) for mark in marks}, tmp_path / "x.safetensors")
    if yaml:
        (tmp_path / "x.yaml").write_text(f"model:\n  params:\n    {yaml}\n")
    caplog.set_level(logging.WARNING)
    loaded = load(tmp_path / "x.safetensors")
    assert {name: loaded.scheduler.config[name] for name in expected} == expected
    assert ("write 'parameterization: v' into x.yaml" in caplog.text) == (kind == "sd2" and not yaml)
    assert loaded.unet.config.sample_size == (96 if yaml else 128 if kind == "xl" else 64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_read_and_kept_by_convert(made, tmp_path, dtype):
    state = {
        key: value.to(dtype) if value.is_floating_point() else value for key, value in single_file(made["sd1"]).items()
    }
    save_file(state | {"v_pred": torch.zeros(0)}, tmp_path / "x.safetensors")
    loaded = load(tmp_path / "x.safetensors")
    own = made["sd1"].unet.state_dict()
    assert all(torch.equal(value, own[key].to(dtype).float()) for key, value in loaded.unet.state_dict().items())
    convert(tmp_path / "x.safetensors", tmp_path / "out", tokenizer=TOKENIZER)
    written = load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in written.values()} == {dtype}


@pytest.mark.parametrize("kind", KINDS)
def test_convert_writes_the_english_model_for_plain_diffusers(made, files, tmp_path, kind):
    convert(files / f"{kind}.safetensors", tmp_path / "out", tokenizer=TOKENIZER)
    stock = StableDiffusionXLPipeline if kind == "xl" else StableDiffusionPipeline
    plain = stock.from_pretrained(tmp_path / "out", scheduler=made[kind].scheduler)
    assert np.array_equal(draw(plain), draw(made[kind]))
    assert "BAAI" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert type(load_by_kind(tmp_path / "out").text_encoder) is type(made[kind].text_encoder)


def test_pickles_on_consent_with_averages_and_a_step(made, tmp_path):
    state = single_file(made["sd2"])
    averages = {key: value * 2 for key, value in state.items() if key.startswith("model.diffusion_model.")}
    torch.save({"state_dict": state, "state_dict_ema": averages, "global_step": 875000}, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="--allow-pickle"):
        load(tmp_path / "x.ckpt")
    for ema, factor in ((False, 1), (True, 2)):
        loaded = load(tmp_path / "x.ckpt", allow_pickle=True, ema=ema)
        own = made["sd2"].unet.state_dict()
        assert all(torch.equal(value, own[key] * factor) for key, value in loaded.unet.state_dict().items())


def test_an_inpainting_model_is_loaded_for_inpainting(tmp_path):
    pipe = english("sd1", in_channels=9)
    save_file(single_file(pipe), tmp_path / "x.safetensors")
    loaded = load(tmp_path / "x.safetensors")
    assert type(loaded) is AltDiffusionInpaintPipeline
    assert loaded.unet.config.in_channels == 9
    with pytest.raises(InputError, match=r"for inpainting.*AltDiffusionInpaintPipeline"):
        AltDiffusionPipeline.from_pretrained(tmp_path / "x.safetensors", tokenizer=TOKENIZER)


def test_a_file_without_a_vae_takes_one_that_is_passed(made, tmp_path):
    state = {key: value for key, value in single_file(made["sd1"]).items() if not key.startswith("first_stage_model.")}
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="holds no VAE: name one with --vae"):
        load(tmp_path / "x.safetensors")
    vae = layouts.small_vae()
    assert load(tmp_path / "x.safetensors", vae=vae).vae is vae


def test_xl_is_no_alt_diffusion_pipeline(files):
    with pytest.raises(InputError, match=r"Stable Diffusion XL: load it with altdiffusion\.load_pipeline"):
        AltDiffusionPipeline.from_pretrained(files / "xl.safetensors", tokenizer=TOKENIZER)


def test_a_tokenizer_of_another_vocabulary_is_refused(files):
    other = CLIPTokenizer().train_new_from_iterator([["a cat and a dog"] * 50], vocab_size=300)
    with pytest.raises(InputError, match=rf"knows {len(other)} tokens, the text encoder of .*sd1.safetensors 1360"):
        load(files / "sd1.safetensors", tokenizer=other)


def drop(*parts):
    return lambda state: [state.pop(key) for key in [key for key in state if any(part in key for part in parts)]]


@pytest.mark.parametrize(
    ("kind", "damage", "line"),
    [
        ("sd1", drop("layers.1.self_attn.q_proj.bias"), "missing encoder.layers.1.self_attn.q_proj.bias"),
        ("sd1", drop("encoder.layers.0"), "missing cond_stage_model.*layers.0.mlp.fc1.weight"),
        ("sd1", drop("middle_block.1.proj_out"), "missing mid_block.attentions.0.proj_out"),
        (
            "sd1",
            lambda state: state.update({"cond_stage_model.transformer.text_model.x": torch.zeros(2)}),
            "left over x",
        ),
        ("sd2", drop("attn.in_proj_bias"), "missing encoder.layers.0.self_attn.k_proj.bias"),
        ("xl", drop("embedders.1.model.text_projection"), "does not fit its layout"),
        ("xl", drop("label_emb"), "missing model.diffusion_model.label_emb.0.0.weight"),
        ("xl", drop("embedders.0."), "incomplete checkpoint: missing conditioner.embedders.0"),
        ("xl", drop("decoder.mid"), "missing decoder.mid_block"),
    ],
)
def test_what_is_missing_or_left_over_is_named_in_one_line(made, tmp_path, kind, damage, line):
    state = single_file(made[kind])
    damage(state)
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=line) as caught:
        load(tmp_path / "x.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [4, 100, -1000])
def test_a_truncated_file_is_one_line(files, tmp_path, cut):
    whole = (files / "sd1.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(whole[:cut])
    with pytest.raises(InputError, match="damaged or no safetensors file") as caught:
        load(tmp_path / "x.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(), (3,), (0, 0), (2, 2, 2, 2, 2)])
def test_shapes_that_cannot_be_are_one_line(made, tmp_path, shape):
    state = single_file(made["xl"])
    for name in ("input_blocks.0.0.weight", "label_emb.0.0.weight", "embedders.1.model.token_embedding.weight"):
        hostile = {key: torch.zeros(shape) if key.endswith(name) else value for key, value in state.items()}
        save_file(hostile, tmp_path / "x.safetensors")
        with pytest.raises(InputError) as caught:
            load(tmp_path / "x.safetensors")
        assert "\n" not in str(caught.value)


def test_config_is_for_single_files(made, tmp_path):
    with pytest.raises(InputError, match="config= is for single files"):
        AltDiffusionPipeline.from_pretrained("sd-mini", config="sd-mini")
    save_file(single_file(made["sd1"]), tmp_path / "x.safetensors")
    (tmp_path / "config" / "scheduler").mkdir(parents=True)
    with pytest.raises(InputError, match=r"config"):
        load(tmp_path / "x.safetensors", config=tmp_path / "config")


def test_parts_that_are_passed_take_the_place_of_the_files(files):
    scheduler = diffusers.DDIMScheduler()
    assert load(files / "xl.safetensors", scheduler=scheduler).scheduler is scheduler
    with pytest.raises(InputError, match="variant= can't be used with a single file"):
        load(files / "sd1.safetensors", variant="fp16")
