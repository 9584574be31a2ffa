"""CN-CLIP: features as transformers' class and the authors' package give them; it squashes, whatever the folder says."""

from __future__ import annotations

import pytest
import torch
from helpers import small_systems as small
from helpers.small_systems import assert_features, load, same
from PIL import Image
from transformers import BertTokenizer, CLIPImageProcessorPil


def test_chinese_clip_gives_what_transformers_class_gives(folders):
    root, models = folders
    prepared = [text.lower().replace("“", '"').replace("”", '"') for text in small.TEXTS]
    tokens = BertTokenizer(vocab=str(root / "chinese_clip" / "vocab.txt"))(
        prepared, padding="max_length", max_length=52, truncation=True, return_tensors="pt"
    )
    side = {"height": small.SIDE, "width": small.SIDE}
    pixels = CLIPImageProcessorPil(size=side, do_center_crop=False)(small.pictures(), return_tensors="pt")
    expected = models["chinese_clip"](**tokens, **pixels)
    system = load(root / "chinese_clip", batch_size=2)
    assert system.name == "CN-CLIP"
    assert_features(system.text_features(small.TEXTS), expected.text_embeds)
    assert_features(system.image_features(small.pictures()), expected.image_embeds)


def test_chinese_clip_squashes_lowers_and_cuts_at_52(folders):
    system = load(folders[0] / "chinese_clip")
    assert not same(system, small.stripes(), Image.new("RGB", (32, 32), "green"))
    assert same(system, small.stripes(), small.stripes().resize((32, 32), Image.Resampling.BICUBIC))
    assert same(system, "CATS “ON” A BED", 'cats "on" a bed')
    assert same(system, "猫" * 50 + "狗", "猫" * 50)
    assert not same(system, "猫" * 49 + "狗", "猫" * 50)


def test_chinese_clip_crops_nothing_whatever_the_folder_says(folders, copy_of):
    folder = copy_of("chinese_clip")
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    pictures = small.pictures()
    torch.testing.assert_close(
        load(folder).image_features(pictures), load(folders[0] / "chinese_clip").image_features(pictures)
    )


def test_chinese_clip_gives_what_the_authors_package_gives(tmp_path):
    cn_clip = pytest.importorskip("cn_clip.clip")  # pip install --no-deps cn_clip six; needs torchvision
    from cn_clip.clip.model import CLIP

    words = list(cn_clip._tokenizer.vocab)
    model = small.save_chinese_clip(tmp_path / "model", words)
    state = {name: each.clone() for name, each in model.state_dict().items()}
    text = small.text_settings(len(words))
    own = CLIP(
        embed_dim=16, image_resolution=small.SIDE, vision_layers=2, vision_width=128, vision_patch_size=8,
        vocab_size=len(words), text_attention_probs_dropout_prob=0.0, text_hidden_act="gelu", text_hidden_dropout_prob=0.0,
        text_hidden_size=128, text_initializer_range=0.02, text_intermediate_size=text["intermediate_size"],
        text_max_position_embeddings=96, text_num_attention_heads=2, text_num_hidden_layers=2, text_type_vocab_size=2,
    ).eval()  # fmt: skip
    theirs = {name.replace("text_model.", "bert."): each for name, each in state.items() if "text_model." in name}
    renamed = theirs | small.openai_vision(state, "vision_model.")
    renamed |= {"visual.proj": state["visual_projection.weight"].T, "logit_scale": state["logit_scale"]}
    renamed |= {"text_projection": state["text_projection.weight"].T}
    report = own.load_state_dict(renamed, strict=False)
    assert not report.unexpected_keys
    assert all("pooler" in name for name in report.missing_keys)

    system = load(tmp_path / "model")
    prepared = [text.lower().replace("“", '"').replace("”", '"') for text in [*small.TEXTS, "两只猫" * 40]]
    transform = cn_clip.image_transform(small.SIDE)
    assert_features(system.text_features([*small.TEXTS, "两只猫" * 40]), own.encode_text(cn_clip.tokenize(prepared)))
    pixels = torch.stack([transform(each) for each in small.pictures()])
    assert_features(system.image_features(small.pictures()), own.encode_image(pixels))
