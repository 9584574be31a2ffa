"""`train bridge`: AltCLIP's states of a text in any language become soft tokens, which CLIP reads as the English text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from helpers import layouts
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from altdiffusion import swap_text_encoder
from altdiffusion.errors import InputError, TrainingStopped
from altdiffusion.text_encoder.bridge import load_bridge
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
        "batch_size": 8, "max_train_steps": 4, "logging_steps": 1, "learning_rate": 1e-2, "device": "cpu", **SIZES,
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
    pipe = saved_xl(tokenizer, tmp_path)
    states, _, pooled, _ = pipe.encode_prompt("a big tree", device="cpu", do_classifier_free_guidance=False)
    clip = ClipStates(tmp_path, torch.device("cpu"), torch.float32)
    given = clip.joined([tokenizer("a big tree")["input_ids"]])
    assert (clip.width, clip.pooled_width) == (32, 12)
    torch.testing.assert_close(given[:, :77], states)
    torch.testing.assert_close(given[:, 77, :12], pooled)


def saved_xl(tokenizer: Any, folder: Path) -> diffusers.StableDiffusionXLPipeline:
    """XL with two small CLIPs and no UNet; its text encoders and tokenizers are in the folder."""
    torch.manual_seed(0)
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=layouts.small_vae(), text_encoder=clip_tower(tokenizer, 8), text_encoder_2=clip_tower(tokenizer, 24, 12),
        tokenizer=tokenizer, tokenizer_2=tokenizer, unet=None, scheduler=diffusers.DDIMScheduler(), add_watermarker=False,
    )  # fmt: skip
    for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        getattr(pipe, name).save_pretrained(folder / name)
    return pipe


def log(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if kind in line]


def test_it_learns_and_its_bridge_swaps_into_the_pipeline(settings, sd1):
    train_bridge(BridgeSettings(**settings | {"max_train_steps": 80}))
    steps = log(settings["output_dir"], "loss")
    for name in ("mse", "words", "length"):
        assert steps[-1][name] < 0.6 * steps[0][name]
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(sd1)
    wanted = pipe.encode_prompt("a cat", "cpu", 1, False)[0]
    plain = (pipe.encode_prompt("一只猫", "cpu", 1, False)[0] - wanted).square().mean()
    pipe = swap_text_encoder(pipe, "mini", bridge=settings["output_dir"] / "model")
    given = pipe.encode_prompt("一只猫", "cpu", 1, False)[0]
    assert (given - wanted).square().mean() < 0.5 * plain
    assert torch.equal(pipe.encode_prompt("a cat", "cpu", 1, False)[0], wanted)


def test_it_learns_where_literal_words_belong_in_a_clause(settings, sd1, texts):
    things = [("cat", "猫"), ("dog", "狗"), ("apple", "苹果"), ("tree", "树"), ("sun", "太阳")]
    lines = [
        f"{name} on a red {en}\t红{zh}上的{name}\n"
        for en, zh in things
        for name in ("apple", "tree", "sun")
        if en != name
    ]
    texts.with_name("names.tsv").write_text("en\tzh\n" + "".join(lines), encoding="utf-8")
    names = {"train_data": [str(texts.with_name("names.tsv"))], "languages": ["zh"], "literal": 1.0}
    train_bridge(BridgeSettings(**settings | names | {"max_train_steps": 60}))
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(sd1)
    pipe = swap_text_encoder(pipe, "mini", bridge=settings["output_dir"] / "model")
    for zh in ("猫", "狗"):
        ids = pipe.tokenizer(f"红{zh}上的`big`", add_special_tokens=False).input_ids
        literal = pipe.tokenizer("`big`", add_special_tokens=False).input_ids
        assert ids[: len(literal)] == literal, "English has first what Chinese has last"
        assert all(token < 0 for token in ids[len(literal) :])


def test_the_folder_has_the_bridge_and_clips_tokenizer(settings, sd1):
    train_bridge(BridgeSettings(**settings))
    saved = load_bridge(settings["output_dir"] / "model")
    assert (saved.config.input_width, saved.config.embedding_widths) == (192, [16])
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(sd1)
    assert torch.equal(saved.token_embeddings[0], pipe.text_encoder.get_input_embeddings().weight)
    tokenizer = CLIPTokenizer.from_pretrained(settings["output_dir"] / "model" / "tokenizer")
    assert tokenizer("a red apple").input_ids == pipe.tokenizer("a red apple").input_ids


def test_xl_learns_both_encoders_and_the_pooled_vector(tmp_path, tokenizer, settings):
    saved_xl(tokenizer, tmp_path / "xl")
    train_bridge(BridgeSettings(**settings | {"model": str(tmp_path / "xl"), "max_train_steps": 60}))
    steps = log(settings["output_dir"], "loss")
    for name in ("mse", "pooled"):
        assert steps[-1][name] < 0.6 * steps[0][name]
    assert load_bridge(settings["output_dir"] / "model").config.embedding_widths == [8, 24]


@pytest.mark.parametrize("literal", [0.0, 1.0])
def test_the_losses_add_up_with_and_without_literal_parts(settings, literal):
    train_bridge(
        BridgeSettings(
            **settings
            | {
                "literal": literal,
                "cross_attention_weight": 1.0,
                "prediction_weight": 2.0,
                "gradient_checkpointing": True,
            }
        )
    )
    for step in log(settings["output_dir"], "loss"):
        assert step["prediction"] > 0
        parts = step["mse"] + step["cross_attention"] + 2 * step["prediction"]
        assert step["loss"] == pytest.approx(parts + 0.3 * step["words"] + 0.05 * step["length"], rel=1e-4)


def test_states_behind_the_text_that_are_left_out_change_nothing_before_them(settings, tmp_path):
    first = {"max_train_steps": 1, "padding_weight": 0.0, "literal": 0.0}
    runs = [settings | first | {"padding_positions": count, "output_dir": tmp_path / str(count)} for count in (0, 20)]
    for run in runs:
        train_bridge(BridgeSettings(**run))
    short, long = (log(run["output_dir"], "loss")[0] for run in runs)
    assert short["words"] == pytest.approx(long["words"])


def test_it_goes_on_from_a_trained_bridge(settings, tmp_path):
    train_bridge(BridgeSettings(**settings | {"max_train_steps": 60}))
    on = {"bridge": str(settings["output_dir"]), "output_dir": tmp_path / "on", "max_train_steps": 1}
    kept = {name: value for name, value in settings.items() if name not in SIZES}
    train_bridge(BridgeSettings(**kept | on))
    assert losses(tmp_path / "on")[0] < 0.6 * losses(settings["output_dir"])[0]
    tables = [load_bridge(folder).token_embeddings[0] for folder in (settings["output_dir"], tmp_path / "on")]
    assert torch.equal(*tables), "CLIP's own, which no training changes"


def test_a_model_without_clip_is_refused(settings):
    with pytest.raises(InputError, match="a bridge leads to CLIP's"):
        train_bridge(BridgeSettings(**settings | {"model": "mini"}))


def test_validation_tells_each_languages_error(settings, texts):
    train_bridge(BridgeSettings(**settings | {"validation_data": [str(texts)], "max_train_steps": 1}))
    metrics = log(settings["output_dir"], "validation")[0]["validation"]
    assert set(metrics) == {f"{language} {what}" for language in ("en", "zh") for what in ("mse", "R@1", "length")}
    assert all(0 <= metrics[f"zh {what}"] <= 1 for what in ("R@1", "length"))


def test_gates_end_the_run_with_a_line_a_language_and_the_bridge_is_saved(settings, texts, capfd):
    gates = {"minimum_retrieval": 1.0, "maximum_prediction_error": 0.01, "validation_data": [str(texts)]}
    with pytest.raises(TrainingStopped, match="2 of 2 languages are below the gates"):
        train_bridge(BridgeSettings(**settings | gates | {"max_train_steps": 1}))
    lines = capfd.readouterr().err
    assert all(f"{language}: " in lines and "prediction error" in lines for language in ("en", "zh"))
    folder = settings["output_dir"] / "model"
    metrics = log(settings["output_dir"], "validation")[0]["validation"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{metrics['zh prediction error']:.3g}" in card
    assert str(settings["output_dir"].parent) not in card + (folder / "config.json").read_text()
    assert load_bridge(folder).config.languages == ["en", "zh"]


def test_what_passes_the_gates_ends_well(settings, texts):
    gates = {"minimum_retrieval": 0.01, "maximum_prediction_error": 1e6, "validation_data": [str(texts)]}
    train_bridge(BridgeSettings(**settings | gates | {"max_train_steps": 40}))
    metrics = log(settings["output_dir"], "validation")[-1]["validation"]
    assert all(metrics[f"{language} R@1"] >= 0.01 for language in ("en", "zh"))
