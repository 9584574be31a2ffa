"""`train bridge`: AltCLIP's states of a text in any language become CLIP's of the English one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from helpers import layouts
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from altdiffusion import Bridge, swap_text_encoder
from altdiffusion.errors import InputError
from altdiffusion.training.inputs.clip_states import ClipStates
from altdiffusion.training.stage_settings import BridgeSettings
from altdiffusion.training.stages.bridge import train_bridge

PAIRS = [
    ("a cat", "一只猫"),
    ("a dog", "一只狗"),
    ("a red apple", "红苹果"),
    ("a big tree", "一棵大树"),
    ("the sun", "太阳"),
]
SIZES = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def clip_tower(tokenizer: Any, width: int, projection: int | None = None) -> Any:
    torch.manual_seed(width)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=projection or width, pad_token_id=tokenizer.pad_token_id, **ids,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    trained = CLIPTokenizer().train_new_from_iterator([[english for english, _ in PAIRS]], vocab_size=300)
    trained.model_max_length = 77
    return trained


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A Stable Diffusion whose CLIP gives states of width 16."""
    folder = tmp_path_factory.mktemp("sd1")
    diffusers.StableDiffusionPipeline(
        vae=layouts.small_vae(),
        text_encoder=clip_tower(tokenizer, 16),
        tokenizer=tokenizer,
        unet=layouts.small_unet(16),
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "pairs.tsv"
    path.write_text("en\tzh\n" + "".join(f"{en}\t{zh}\n" for en, zh in PAIRS), encoding="utf-8")
    return path


@pytest.fixture
def settings(sd1: Path, texts: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "text_encoder": "mini", "model": str(sd1), "train_data": [str(texts)], "output_dir": tmp_path / "out",
        "at": "exit", "batch_size": 8, "max_train_steps": 4, "logging_steps": 1, "learning_rate": 1e-2, "device": "cpu", **SIZES,
    }  # fmt: skip


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_the_target_is_what_the_pipeline_gives_its_unet(sd1, tokenizer):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(sd1)
    expected = pipe.encode_prompt("a red apple", "cpu", 1, False)[0]
    given = ClipStates(sd1, torch.device("cpu"), torch.float32).joined([tokenizer("a red apple")["input_ids"]])
    torch.testing.assert_close(given, expected)


def test_the_target_of_xl_is_what_its_pipeline_gives_its_unet(tmp_path, tokenizer):
    torch.manual_seed(0)
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=layouts.small_vae(), text_encoder=clip_tower(tokenizer, 8), text_encoder_2=clip_tower(tokenizer, 24, 12),
        tokenizer=tokenizer, tokenizer_2=tokenizer, unet=None, scheduler=diffusers.DDIMScheduler(), add_watermarker=False,
    )  # fmt: skip
    for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        getattr(pipe, name).save_pretrained(tmp_path / name)
    states, _, pooled, _ = pipe.encode_prompt("a big tree", device="cpu", do_classifier_free_guidance=False)
    clip = ClipStates(tmp_path, torch.device("cpu"), torch.float32)
    given = clip.joined([tokenizer("a big tree")["input_ids"]])
    assert (clip.width, clip.pooled_width) == (32, 12)
    torch.testing.assert_close(given[:, :77], states)
    torch.testing.assert_close(given[:, 77, :12], pooled)


def test_it_learns_and_its_bridge_swaps_into_the_pipeline(settings, sd1):
    train_bridge(BridgeSettings(**settings | {"max_train_steps": 60}))
    curve = losses(settings["output_dir"])
    assert curve[-1] < 0.5 * curve[0]
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(sd1)
    wanted = pipe.encode_prompt("a cat", "cpu", 1, False)[0]
    pipe = swap_text_encoder(pipe, "mini", bridge=settings["output_dir"] / "model")
    given = pipe.encode_prompt("一只猫", "cpu", 1, False)[0]
    assert (given - wanted).square().mean() < 0.5 * wanted.var()


def test_cached_states_give_the_same_losses(settings, tmp_path):
    settings |= {"empty": 0.3, "max_train_steps": 3}
    train_bridge(BridgeSettings(**settings))
    caches = {"student_cache": tmp_path / "students", "teacher_cache": tmp_path / "teachers"}
    train_bridge(BridgeSettings(**settings | caches | {"output_dir": tmp_path / "cached"}))
    assert losses(tmp_path / "cached") == pytest.approx(losses(settings["output_dir"]), rel=2e-3)


def test_both_encoders_stay_as_they_are_and_only_the_bridge_is_saved(settings):
    train_bridge(BridgeSettings(**settings))
    saved = Bridge.from_pretrained(settings["output_dir"] / "model")
    assert saved.config.input_width == 192
    assert saved.config.output_width == 16


def test_the_second_loss_and_the_padding_weight_are_in_the_loss(settings, tmp_path):
    train_bridge(BridgeSettings(**settings | {"max_train_steps": 1}))
    both = {"cross_attention_weight": 1.0, "padding_weight": 0.1, "output_dir": tmp_path / "both", "max_train_steps": 1}
    train_bridge(BridgeSettings(**settings | both))
    first = json.loads((tmp_path / "both/log.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(first["mse"] + first["cross_attention"])
    assert losses(tmp_path / "both") != losses(settings["output_dir"])


def test_the_third_loss_is_in_the_loss_and_needs_no_picture(settings, tmp_path):
    train_bridge(BridgeSettings(**settings | {"prediction_weight": 2.0, "gradient_checkpointing": True}))
    lines = map(json.loads, (settings["output_dir"] / "log.jsonl").read_text().splitlines())
    steps = [line for line in lines if "loss" in line]
    assert all(step["loss"] == pytest.approx(step["mse"] + 2 * step["prediction"]) for step in steps)
    assert all(step["prediction"] > 0 for step in steps)


def test_it_goes_on_from_a_trained_bridge(settings, tmp_path):
    train_bridge(BridgeSettings(**settings | {"max_train_steps": 60}))
    on = {"bridge": str(settings["output_dir"]), "output_dir": tmp_path / "on", "max_train_steps": 1}
    kept = {name: value for name, value in settings.items() if name not in SIZES}
    train_bridge(BridgeSettings(**kept | on))
    assert losses(tmp_path / "on")[0] < 0.5 * losses(settings["output_dir"])[0]


def test_a_bridge_between_others_is_refused(settings):
    kept = {name: value for name, value in settings.items() if name not in SIZES}
    with pytest.raises(InputError, match=r"--bridge mini leads from width 192 to 192, and mini to .* is 192 to 16"):
        train_bridge(BridgeSettings(**kept | {"bridge": "mini"}))


def test_sizes_beside_a_trained_bridge_are_refused(settings):
    with pytest.raises(InputError, match="keeps its own sizes: leave out --hidden-size, --num-layers"):
        BridgeSettings(**settings | {"bridge": "mini"})


def test_a_model_without_clip_is_refused(settings):
    with pytest.raises(InputError, match="a bridge leads to CLIP's"):
        train_bridge(BridgeSettings(**settings | {"model": "mini"}))


def test_heads_that_do_not_divide_the_width_are_refused(settings):
    with pytest.raises(InputError, match="--num-attention-heads 3"):
        BridgeSettings(**settings | {"num_attention_heads": 3})


def test_validation_tells_each_languages_error(settings, texts):
    train_bridge(BridgeSettings(**settings | {"validation_data": [str(texts)], "max_train_steps": 1}))
    lines = map(json.loads, (settings["output_dir"] / "log.jsonl").read_text().splitlines())
    metrics = next(line["validation"] for line in lines if "validation" in line)
    assert set(metrics) == {"en mse", "en R@1", "zh mse", "zh R@1"}
    assert 0 <= metrics["zh R@1"] <= 1
