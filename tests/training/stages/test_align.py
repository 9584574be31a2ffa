"""`train align`: a UNet learns a text encoder; and the parts that it shares with `train dreambooth`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_diffusion import (
    SIDE,
    add_captions,
    assert_same,
    before_fit,
    interrupted,
    log,
    save_diffusion,
    save_pictures,
    weights,
)
from PIL import Image

from altdiffusion import AltDiffusionPipeline
from altdiffusion.errors import InputError, TrainingStopped
from altdiffusion.pipelines.load import load_diffusion
from altdiffusion.training.inputs.captioned_images import CaptionedImages
from altdiffusion.training.stage_settings import AlignSettings
from altdiffusion.training.stages.align import train_align

SHAPES = [(8, 8), (16, 8), (8, 16), (12, 12), (9, 8), (20, 8)]  # squares, wide and high ones
BUCKETS = {"aspect_buckets": True, "resolution": 2 * SIDE}  # room for three of them


@pytest.fixture(scope="module")
def model(published, tmp_path_factory) -> Path:
    return save_diffusion(tmp_path_factory.mktemp("align") / "model", published("m9"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return add_captions(save_pictures(tmp_path_factory.mktemp("align") / "pictures", SHAPES))


@pytest.fixture
def given(model, pictures, tmp_path) -> dict[str, Any]:
    return {
        "model": str(model), "train_data": [str(pictures)], "output_dir": tmp_path / "out", "resolution": SIDE,
        "batch_size": 4, "max_train_steps": 2, "logging_steps": 1, "learning_rate": 1e-2, "device": "cpu",
        "lr_scheduler": "constant",
    }  # fmt: skip


def trained(given: dict[str, Any], **changes: Any) -> Path:
    settings = AlignSettings(**given | changes)
    train_align(settings)
    return settings.output_dir


CHOSEN = {
    "kv": lambda name: ".attn2.to_k." in name or ".attn2.to_v." in name,
    "attn2": lambda name: ".attn2." in name,
    "unet": lambda name: True,
}


@pytest.mark.parametrize("trainable", CHOSEN)
def test_exactly_the_chosen_weights_move(given, model, trainable):
    before, after = weights(model), weights(trained(given, trainable=trainable) / "model")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith("unet/") and CHOSEN[trainable](name)}
    assert moved


def test_a_scheduler_that_predicts_something_else_is_refused(published, given, tmp_path):
    odd = save_diffusion(tmp_path / "odd", published("m9"), prediction_type="sample")
    with pytest.raises(InputError, match="the scheduler predicts 'sample': expected epsilon or v_prediction"):
        trained(given, model=str(odd))


def test_dropping_every_caption_is_training_on_empty_ones(given, tmp_path, monkeypatch):
    dropped = trained(given, caption_dropout=1.0)
    monkeypatch.setattr(CaptionedImages, "caption", lambda self, number, language: "")
    empty = trained(given, caption_dropout=0.0, output_dir=tmp_path / "empty")
    assert_same(weights(dropped / "model"), weights(empty / "model"))


def test_a_share_of_the_captions_is_dropped(given):
    batches = before_fit(train_align, AlignSettings(**given | {"caption_dropout": 0.3, "batch_size": 400})).batches
    lengths = batches(0, 0, 1)["attention_mask"].sum(1)
    assert (lengths == 2).float().mean().item() == pytest.approx(0.3, abs=0.08)  # nothing but begin and end


def test_micro_batches_of_a_batch_are_the_batch(given):
    batches = before_fit(train_align, AlignSettings(**given | BUCKETS | {"random_flip": True})).batches
    for step in range(3):
        whole, halves = batches(step, 0, 1), [batches(step, index, 2) for index in range(2)]
        assert_same({name: torch.cat([half[name] for half in halves]) for name in whole}, whole)


def test_flips_mirror_about_half_of_the_pictures(given):
    plain, flipped = (
        before_fit(
            train_align, AlignSettings(**given | {"random_flip": flip, "batch_size": 60, "caption_dropout": 0})
        ).batches(0, 0, 1)["images"]
        for flip in (False, True)
    )
    mirrored = [torch.equal(one.flip(-1), other) and not torch.equal(one, other)
                for one, other in zip(plain, flipped, strict=True)]  # fmt: skip
    same = [torch.equal(one, other) for one, other in zip(plain, flipped, strict=True)]
    assert sum(mirrored) + sum(same) == 60
    assert 15 < sum(mirrored) < 45


def test_with_buckets_the_unet_sees_these_shapes(given):
    batches = before_fit(train_align, AlignSettings(**given | BUCKETS)).batches
    shapes = {tuple(batches(step, 0, 1)["images"].shape) for step in range(50)}
    assert len(shapes) > 1
    assert all(len(shape) == 4 and shape[2] * shape[3] <= (2 * SIDE) ** 2 for shape in shapes)


# Bad images


def damaged(folder: Path, *numbers: int, cut: bool = False) -> Path:
    """With broken images: no images at all, or cut off after the header."""
    for number in numbers:
        path = folder / f"{number}.png"
        path.write_bytes(path.read_bytes()[:-60] if cut else b"no picture")
    return folder


@pytest.mark.parametrize("changes", [{}, BUCKETS, {"latent_cache": "latents"}], ids=str)
@pytest.mark.parametrize("cut", [False, True])
def test_a_broken_picture_is_skipped_and_counted(given, tmp_path, capsys, changes, cut):
    folder = damaged(add_captions(save_pictures(tmp_path / "data", [(8, 8)] * 4)), 2, cut=cut)
    changes = {name: tmp_path / value if value == "latents" else value for name, value in changes.items()}
    settings = AlignSettings(**given | changes | {"train_data": [str(folder)], "max_skipped": 0.25, "batch_size": 8})
    found = before_fit(train_align, settings)
    batch = found.batches(0, 0, 1)
    assert len({tuple(each.flatten().tolist()) for each in batch["images"]}) == 3
    assert "metadata.jsonl:3 (2.png): " in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{}, BUCKETS, {"latent_cache": "latents"}], ids=str)
def test_too_many_broken_pictures_end_it(given, tmp_path, changes):
    folder = damaged(add_captions(save_pictures(tmp_path / "data", [(8, 8)] * 4)), 1, 2)
    changes = {name: tmp_path / value if value == "latents" else value for name, value in changes.items()}
    with pytest.raises(InputError, match=r"2 of 4 records can't be used, more than 25 %.*--max-skipped"):
        trained(given, train_data=[str(folder)], max_skipped=0.25, batch_size=8, **changes)


def test_the_caption_is_that_of_the_picture_that_takes_a_broken_ones_place(given, tmp_path):
    folder = damaged(add_captions(save_pictures(tmp_path / "data", [(8, 8)] * 3)), 0)
    for cache in (None, tmp_path / "latents"):
        changes = {"train_data": [str(folder)], "max_skipped": 0.5, "latent_cache": cache, "caption_dropout": 0.0}
        found = before_fit(train_align, AlignSettings(**given | changes | {"languages": ["en"], "batch_size": 6}))
        batch = found.batches(0, 0, 1)
        pairs = {
            (tuple(pixels.flatten().tolist()), tuple(ids.tolist()))
            for pixels, ids in zip(batch["images"], batch["input_ids"], strict=True)
        }
        assert len(pairs) == 2


# Caches


def test_cached_latents_and_states_give_the_same_losses(given, pictures, tmp_path):
    changes = BUCKETS | {"max_train_steps": 4}
    plain = trained(given, **changes)
    changes |= {"latent_cache": tmp_path / "latents", "text_cache": tmp_path / "states"}
    first = trained(given, output_dir=tmp_path / "first", **changes)
    again = trained(given, output_dir=tmp_path / "again", **changes)
    assert log(first) == pytest.approx(log(plain), rel=2e-3)  # float16
    assert log(again) == log(first)


def test_states_of_clip_are_cached_whole(given, tmp_path):
    changes = {"model": str(save_diffusion(tmp_path / "clip", None)), "languages": ["en"]}
    plain = trained(given, **changes)
    cached = trained(given, output_dir=tmp_path / "cached", text_cache=tmp_path / "states", **changes)
    assert log(cached) == pytest.approx(log(plain), rel=2e-3)


@pytest.mark.parametrize("name", ["mini", "sd-mini"])
def test_the_models_inside_the_package_can_be_trained(name):
    pipe = load_diffusion(name)
    assert type(pipe.text_encoder).__name__ == {"mini": "AltCLIPTextModel", "sd-mini": "CLIPTextModel"}[name]
    assert pipe.vae is not None


@pytest.mark.parametrize("other", ["data", "vae", "resolution", "buckets"])
def test_a_cache_of_latents_made_from_anything_else_is_refused(given, model, tmp_path, other):
    given |= {"latent_cache": tmp_path / "latents", "resolution": 2 * SIDE}
    before_fit(train_align, AlignSettings(**given))
    if other == "data":
        changes = {"train_data": [str(add_captions(save_pictures(tmp_path / "more", [(8, 8)] * 7)))]}
    elif other == "vae":
        pipe = load_diffusion(str(model))
        pipe.vae.encoder.conv_in.weight.data += 1
        pipe.save_pretrained(tmp_path / "other")
        changes = {"model": str(tmp_path / "other")}
    else:
        changes = {"resolution": SIDE} if other == "resolution" else BUCKETS
    with pytest.raises(InputError, match=r"the cache .* was made with .*: give another folder or remove it") as refused:
        train_align(AlignSettings(**given | changes))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("other", ["languages", "encoder"])
def test_a_cache_of_states_made_from_anything_else_is_refused(given, published, model, tmp_path, other):
    given |= {"text_cache": tmp_path / "states"}
    before_fit(train_align, AlignSettings(**given))
    if other == "encoder":
        pipe = load_diffusion(str(model))
        pipe.text_encoder.transformation.bias.data += 1
        pipe.save_pretrained(tmp_path / "other")
    changes = {"languages": ["en"]} if other == "languages" else {"model": str(tmp_path / "other")}
    with pytest.raises(InputError, match=r"the cache .* was made with .*: give another folder or remove it"):
        train_align(AlignSettings(**given | changes))


# The training


def test_the_moving_average_is_what_is_saved(given):
    """diffusers' average, by hand: its decay after step n is the smaller of ema_decay and n / (9 + n), n from 0."""
    folder = trained(
        given, ema_decay=0.15, max_train_steps=4, checkpointing_steps=1, checkpoints_total_limit=9, trainable="kv"
    )
    steps = [torch.load(folder / f"checkpoints/step-{step:08d}/state.pt")["model"] for step in range(1, 5)]
    name = next(iter(steps[0]))
    average = steps[0][name]  # after step 1 the decay is 0
    for step, values in enumerate(steps[1:], 1):
        decay = min(0.15, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * values[name]
    saved = weights(folder / "model")["unet/diffusion_pytorch_model.safetensors:" + name.removeprefix("unet.")]
    torch.testing.assert_close(saved, average)
    assert not torch.allclose(saved, steps[-1][name])


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(given, tmp_path):
    given |= {
        "max_train_steps": 4,
        "checkpointing_steps": 2,
        "ema_decay": 0.9,
        "random_flip": True,
        "trainable": "unet",
    }
    whole = trained(given)
    given["output_dir"] = tmp_path / "broken"
    interrupted(train_align, AlignSettings(**given), passes=3)
    resumed = trained(given, resume=True)
    assert_same(weights(resumed / "model"), weights(whole / "model"))
    assert log(resumed) == log(whole)


@pytest.mark.parametrize("move", ["renamed", "computed anew"])
def test_caches_and_data_may_lie_elsewhere_when_it_is_resumed(given, pictures, tmp_path, move):
    given |= {"max_train_steps": 3, "checkpointing_steps": 1}
    given |= {"latent_cache": tmp_path / "latents", "text_cache": tmp_path / "states"}
    whole = trained(given)
    given["output_dir"] = tmp_path / "broken"
    interrupted(train_align, AlignSettings(**given), passes=2)
    for name in ("latent_cache", "text_cache"):
        elsewhere = given[name].with_name(f"other-{given[name].name}")
        if move == "renamed":
            given[name].rename(elsewhere)
        given[name] = elsewhere
    data = shutil.copytree(pictures, tmp_path / "data elsewhere")
    resumed = trained(given, resume=True, train_data=[str(data)])
    assert_same(weights(resumed / "model"), weights(whole / "model"))
    assert log(resumed) == log(whole)


def test_accumulated_pieces_train_as_the_whole_batch(given, tmp_path):
    given |= BUCKETS | {"learning_rate": 1e-4}
    whole = trained(given)
    cut = trained(given, gradient_accumulation_steps=2, output_dir=tmp_path / "cut")
    assert_same(weights(cut / "model"), weights(whole / "model"), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_what_it_saves_draws_and_keeps_its_frozen_parts(given, model, precision):
    folder = trained(
        given, mixed_precision=precision, validation_prompts=["一只猫", "a cat"], validation_inference_steps=2
    )
    before, after = weights(model), weights(folder / "model")
    frozen = [name for name in before if not name.startswith("unet/")]
    assert_same({name: after[name] for name in frozen}, {name: before[name] for name in frozen})
    pipe = AltDiffusionPipeline.from_pretrained(folder / "model")
    assert pipe("一只猫", num_inference_steps=2, height=SIDE, width=SIDE).images[0].size == (SIDE, SIDE)
    with Image.open(folder / "samples" / "step-00000002.png") as sheet:
        assert sheet.size == (2 * SIDE, SIDE)


def test_an_altclip_is_swapped_into_a_plain_stable_diffusion(published, given, tmp_path):
    clip = save_diffusion(tmp_path / "clip", None)
    with pytest.raises(InputError, match="the UNet attends to text states of width 16, this encoder gives 32"):
        trained(given, model=str(clip), text_encoder=str(published("m9")))
    folder = trained(given, text_encoder=str(published("bilingual")))
    assert type(AltDiffusionPipeline.from_pretrained(folder / "model").text_encoder).__name__ == "AltCLIPTextModel"


def test_a_resolution_that_the_unet_cannot_halve_is_refused(given):
    with pytest.raises(InputError, match="--resolution 10: this model needs a multiple of 4"):
        trained(given, resolution=10)


def test_a_unet_that_takes_a_mask_is_refused(given, model, tmp_path):
    pipe = load_diffusion(str(model))
    settings = dict(pipe.unet.config) | {"in_channels": 9}
    pipe.unet = type(pipe.unet).from_config(settings)
    pipe.save_pretrained(tmp_path / "inpainting")
    with pytest.raises(InputError, match="takes 9 channels where the VAE gives 4, as inpainting's does"):
        trained(given, model=str(tmp_path / "inpainting"))


def test_a_loss_that_is_no_number_ends_it_in_one_line(given):
    with pytest.raises(TrainingStopped, match="the loss became nan at step 2: lower --learning-rate") as stopped:
        trained(given, learning_rate=1e30, trainable="unet")
    assert "\n" not in str(stopped.value)
