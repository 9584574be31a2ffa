"""R2D2: its layout with the authors' names, computed by transformers' classes; what of a checkpoint is not read."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import small_systems as small
from PIL import Image
from torch import nn
from transformers import BertConfig, BertModel, BertTokenizer, CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from altdiffusion import InputError
from altdiffusion.evaluation.systems.load import load_system

CROSS_ENCODER = ("text_joint_layer.encoder.layer.0.crossattention.self.query.weight", "img_joint_layer.embeddings.x",
                 "img_joint_proj.weight", "itm_head.weight", "itm_head_i.bias")  # fmt: skip


class R2D2(nn.Module):
    """The dual encoder as the authors put it together from transformers' classes."""

    def __init__(self, rows):
        super().__init__()
        vision = CLIPVisionConfig(**small.vision_settings(), hidden_act="quick_gelu")
        self.visual_encoder = CLIPVisionModel(vision)
        self.text_encoder = BertModel(BertConfig(**small.text_settings(rows)))
        self.vision_proj, self.text_proj = nn.Linear(128, 16), nn.Linear(128, 16)
        self.temp = nn.Parameter(torch.tensor(0.07))

    def images(self, pixels):
        return F.normalize(self.vision_proj(self.visual_encoder(pixels).last_hidden_state[:, 0]), dim=-1)

    def texts(self, tokens):
        states = self.text_encoder(tokens["input_ids"], tokens["attention_mask"]).last_hidden_state
        return F.normalize(self.text_proj(states[:, 0]), dim=-1)


@pytest.fixture
def r2d2(tmp_path):
    """(the authors' model, its .pth)"""
    model = small.excite(R2D2(small.save_vocabulary(tmp_path)))
    return model, save(model, tmp_path / "r2d2_pretrain_250m.pth")


def save(model, path, drop="", **more):
    state = {name: each.clone() for name, each in model.state_dict().items() if name != drop}
    state |= {name: torch.zeros(2) for name in CROSS_ENCODER}
    state |= {"visual_encoder.embeddings.position_ids": torch.arange(17)[None]}
    torch.save({"model": state | more, "epoch": 4, "config": {"image_size": 224}}, path)
    return path


def load(name, **given):
    return load_system(name, device="cpu", allow_pickle=True, **given)


@pytest.mark.parametrize("prefix", ["r2d2:", ""])
def test_r2d2_gives_what_the_authors_model_gives(r2d2, prefix):
    model, path = r2d2
    system = load(f"{prefix}{path}", batch_size=2)
    assert system.name == "R2D2"
    assert system.note.endswith("the printed figures may include re-ranking of the top 128")
    texts = [*small.TEXTS, "两只猫" * 40]
    tokens = BertTokenizer(vocab=str(path.parent / "vocab.txt"))(
        texts, padding="max_length", truncation=True, max_length=64, return_tensors="pt"
    )
    side = {"height": small.SIDE, "width": small.SIDE}
    pixels = CLIPImageProcessorPil(size=side, do_center_crop=False)(small.pictures(), return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(system.text_features(texts), model.texts(tokens), atol=1e-5, rtol=0)
        found = system.image_features(small.pictures())
        torch.testing.assert_close(found, model.images(pixels["pixel_values"]), atol=1e-5, rtol=0)


def test_r2d2_squashes_lowers_and_cuts_at_64(r2d2):
    system = load(r2d2[1])
    small_one = small.stripes().resize((32, 32), Image.Resampling.BICUBIC)
    stripes, same, green = system.image_features([small.stripes(), small_one, Image.new("RGB", (32, 32), "green")])
    torch.testing.assert_close(stripes, same)
    assert not torch.allclose(stripes, green, atol=1e-3)
    texts = ["CATS", "cats", "猫" * 62 + "狗", "猫" * 62, "猫" * 61 + "狗"]
    upper, lower, longer, long, other = system.text_features(texts)
    torch.testing.assert_close(upper, lower)
    torch.testing.assert_close(longer, long)
    assert not torch.allclose(long, other, atol=1e-4)


def test_in_bfloat16_features_are_near_and_still_float32(r2d2):
    exact, near = load(r2d2[1]), load(r2d2[1], dtype=torch.bfloat16)
    for found, expected in (
        (near.text_features(small.TEXTS), exact.text_features(small.TEXTS)),
        (near.image_features(small.pictures()), exact.image_features(small.pictures())),
    ):
        assert found.dtype == torch.float32
        assert not torch.equal(found, expected)
        assert F.cosine_similarity(found.flatten(1), expected.flatten(1)).min() > 0.99


@pytest.mark.parametrize(
    "name",
    ["visual_encoder.pre_layrnorm.weight", "text_encoder.encoder.layer.1.output.dense.weight", "text_proj.bias",
     "text_encoder.embeddings.word_embeddings.weight", "visual_encoder.encoder.layers.0.mlp.fc1.weight"],
)  # fmt: skip
def test_a_missing_tensor_is_an_error(r2d2, tmp_path, name):
    with pytest.raises(InputError, match="does not fit its layout: missing"):
        load(save(r2d2[0], tmp_path / "less.pth", drop=name))


def test_only_what_is_known_is_left_out(r2d2, tmp_path):
    path = save(r2d2[0], tmp_path / "more.pth", itm_headless=torch.zeros(1))
    with pytest.raises(InputError, match="left over itm_headless"):
        load(path)


def test_another_architecture_and_a_pickle_that_was_not_allowed(r2d2, tmp_path):
    torch.save({"model": {"a.weight": torch.zeros(1)}}, tmp_path / "strange.pth")
    with pytest.raises(InputError, match=r"expected visual_encoder\.\*.*named like a\.weight"):
        load(f"r2d2:{tmp_path / 'strange.pth'}")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(InputError, match="holds no tensors"):
        load(tmp_path / "empty.pth")
    with pytest.raises(InputError, match="--allow-pickle"):
        load_system(r2d2[1], device="cpu")
