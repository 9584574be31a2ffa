"""Phase 2: the loss, what is trained and what stays, the mixing of weights, the cache."""

import json
import math
import shutil

import pytest
import torch
from helpers import tiny
from PIL import Image
from safetensors.torch import load_file
from transformers import AltCLIPModel, CLIPModel

from altdiffusion import InputError
from altdiffusion.altclip.model import load_similarity
from altdiffusion.training.stage_settings import ContrastSettings
from altdiffusion.training.stages.contrast import Contrast, train_contrast


def settings(models, folder, **changed):
    given = {"model": str(models / "clip"), "train_data": str(models / "pictures"), "output_dir": folder}
    given |= {"max_train_steps": 5, "batch_size": 8, "logging_steps": 1, "learning_rate": 0.01, "device": "cpu"}
    return ContrastSettings(**(given | changed))


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(folder):
    return load_file(folder / "model.safetensors")


def changed(models, run):
    before, after = weights(models / "clip"), weights(run / "model")
    assert set(before) == set(after)
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_the_image_tower_stays_as_it_is_with_the_text_alone_trained(tiny_models, tmp_path):
    train_contrast(settings(tiny_models, tmp_path / "run"))
    assert changed(tiny_models, tmp_path / "run") == {"text_model", "text_projection", "logit_scale"}
    loaded, _, processor = load_similarity(tmp_path / "run/model")
    assert isinstance(loaded, CLIPModel)
    assert processor.crop_size["height"] == 8


def test_both_towers_move_with_both_trained(tiny_models, tmp_path):
    train_contrast(settings(tiny_models, tmp_path / "run", trainable="both"))
    parts = {"text_model", "text_projection", "logit_scale", "vision_model", "visual_projection"}
    assert changed(tiny_models, tmp_path / "run") == parts


def test_minis_is_the_whole_altclip_inside_it():
    assert isinstance(load_similarity("mini")[0], AltCLIPModel)


def test_a_frozen_image_tower_is_in_eval_mode(tiny_models):
    model, _, _ = load_similarity(tiny_models / "clip")
    Contrast(model, train_images=False).train()
    assert model.text_model.training
    assert not any(module.training for module in model.vision_model.modules())
    Contrast(model, train_images=True).train()
    assert model.vision_model.training


def batch(models, same):
    model, tokenizer, _ = load_similarity(models / "clip")
    inputs = tokenizer([en for en, _ in tiny.PAIRS[:4]], padding=True, return_tensors="pt")
    torch.manual_seed(0)
    pixels = torch.randn(4, 3, 8, 8)
    return model, {**inputs, "pixel_values": pixels, "same": torch.tensor(same)}


def test_the_loss_is_clip_s_own(tiny_models):
    model, given = batch(tiny_models, [1, 2, 3, 4])
    found = Contrast(model, train_images=True)(given)
    given.pop("same")
    expected = model(**given, return_loss=True).loss
    torch.testing.assert_close(found["loss"], expected)


def test_one_picture_twice_is_no_negative_of_itself(tiny_models):
    model, given = batch(tiny_models, [7, 2, 7, 4])
    found = Contrast(model, train_images=True)(given)["loss"]
    given.pop("same")
    logits = model(**given).logits_per_image
    total = 0.0
    for matrix in (logits, logits.T):
        for row in range(4):
            others = [column for column in range(4) if {row, column} != {0, 2}]
            total += torch.logsumexp(matrix[row, others], 0) - matrix[row, row]
    torch.testing.assert_close(found, total / 8)


def test_the_scale_is_kept_at_100_and_can_come_down_again(tiny_models):
    model, given = batch(tiny_models, [1, 2, 3, 4])
    with torch.no_grad():
        model.logit_scale.fill_(10.0)
    found = Contrast(model, train_images=False)(given)
    assert found["scale"].item() == pytest.approx(100)
    found["loss"].backward()
    assert model.logit_scale.item() == pytest.approx(math.log(100))
    assert model.logit_scale.grad.abs() > 0


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_interpolation_mixes_the_trained_weights_with_the_former_ones(tiny_models, tmp_path, share):
    train_contrast(settings(tiny_models, tmp_path / "whole"))
    train_contrast(settings(tiny_models, tmp_path / "mixed", interpolation=share))
    before, after = weights(tiny_models / "clip"), weights(tmp_path / "whole/model")
    for name, found in weights(tmp_path / "mixed/model").items():
        expected = before[name] if share == 0 else after[name] if share == 1 else (before[name] + after[name]) / 2
        torch.testing.assert_close(found, expected, rtol=0 if share != 0.5 else 1e-5, atol=0 if share != 0.5 else 1e-6)


def test_cached_features_are_the_computed_ones_also_where_pictures_are_bad(tiny_models, tmp_path):
    pictures = shutil.copytree(tiny_models / "pictures", tmp_path / "pictures")
    (pictures / "3.png").write_bytes(b"no picture")
    (pictures / "4.png").write_bytes(b"no picture")
    given = {"train_data": str(pictures), "max_skipped": 0.5, "max_train_steps": 12}
    train_contrast(settings(tiny_models, tmp_path / "computed", **given))
    train_contrast(settings(tiny_models, tmp_path / "cached", image_cache=tmp_path / "cache", **given))
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "computed"), rel=5e-3)


def test_a_cache_of_another_image_tower_or_of_other_pictures_is_refused(tiny_models, tmp_path):
    train_contrast(settings(tiny_models, tmp_path / "a", image_cache=tmp_path / "cache", max_train_steps=1))
    tiny.save_clip(tmp_path / "other", seed=9)
    with pytest.raises(InputError, match="was made with vision = "):
        train_contrast(
            settings(tiny_models, tmp_path / "b", image_cache=tmp_path / "cache", model=str(tmp_path / "other"))
        )
    shutil.copytree(tiny_models / "clip", tmp_path / "grey")
    processor = json.loads((tmp_path / "grey/preprocessor_config.json").read_text())
    (tmp_path / "grey/preprocessor_config.json").write_text(json.dumps(processor | {"image_mean": [0.0, 0.0, 0.0]}))
    with pytest.raises(InputError, match="was made with processor = "):
        train_contrast(
            settings(tiny_models, tmp_path / "c", image_cache=tmp_path / "cache", model=str(tmp_path / "grey"))
        )


def test_the_gradient_crosses_checkpointed_layers_with_the_same_losses(tiny_models, tmp_path):
    for folder, on in (("plain", False), ("saving", True)):
        train_contrast(settings(tiny_models, tmp_path / folder, trainable="both", gradient_checkpointing=on))
    assert losses(tmp_path / "saving") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)


def test_bfloat16_stays_near_float32(tiny_models, tmp_path):
    train_contrast(settings(tiny_models, tmp_path / "exact"))
    train_contrast(settings(tiny_models, tmp_path / "half", mixed_precision="bf16"))
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "exact"), rel=0.1)


def test_validation_counts_any_record_of_the_same_picture_as_found(tiny_models, tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "0.png")
    lines = [json.dumps({"image": "0.png", "en": en, "de": de}) for en, de in tiny.PAIRS[:4]]
    (tmp_path / "same.jsonl").write_text("\n".join(lines))
    train_contrast(
        settings(tiny_models, tmp_path / "run", validation_data=[str(tmp_path / "same.jsonl")], languages=["de"])
    )
    last = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])["validation"]
    assert last == {"de text to image R@1": 1.0, "de image to text R@1": 1.0}


def test_a_processor_as_transformers_5_saves_it_is_read(tiny_models, tmp_path):
    clip = shutil.copytree(tiny_models / "clip", tmp_path / "clip")
    known = json.loads((clip / "preprocessor_config.json").read_text())
    (clip / "processor_config.json").write_text(
        json.dumps({"image_processor": known, "processor_class": "CLIPProcessor"})
    )
    (clip / "preprocessor_config.json").unlink()
    assert load_similarity(clip)[2].to_dict() == load_similarity(tiny_models / "clip")[2].to_dict()


def test_a_text_tower_alone_is_refused(tiny_models, tmp_path):
    with pytest.raises(InputError, match="expected a full AltCLIP or CLIP, with both towers"):
        train_contrast(settings(tiny_models, tmp_path / "run", model=str(tiny_models / "student")))
    shutil.copytree(tiny_models / "clip", tmp_path / "blind")
    (tmp_path / "blind/preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"no preprocessor_config\.json"):
        train_contrast(settings(tiny_models, tmp_path / "run", model=str(tmp_path / "blind")))
