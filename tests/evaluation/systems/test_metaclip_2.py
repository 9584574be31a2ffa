"""MetaCLIP 2: features as transformers' class gives them; images squashed, as its processor says."""

from __future__ import annotations

import pytest
from helpers import small_systems as small
from helpers import tiny
from helpers.small_systems import assert_features, load, same
from transformers import CLIPImageProcessorPil, MetaClip2Config, MetaClip2Model


@pytest.fixture(scope="module")
def metaclip_2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metaclip_2")
    tokenizer = tiny.roberta_tokenizer()
    tower = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, projection_dim=16)
    text = tower | dict(vocab_size=len(tokenizer), max_position_embeddings=20, eos_token_id=tokenizer.eos_token_id)
    vision = tower | dict(image_size=small.SIDE, patch_size=8)
    model = small.excite(MetaClip2Model(MetaClip2Config(text_config=text, vision_config=vision, projection_dim=16)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    side = {"height": small.SIDE, "width": small.SIDE}
    processor = CLIPImageProcessorPil(size=side, crop_size=side)
    processor.save_pretrained(folder)
    return folder, model, tokenizer, processor


def test_metaclip_2_gives_what_transformers_class_gives(metaclip_2):
    folder, model, tokenizer, processor = metaclip_2
    texts = ["a red cat", "Katze", "a", "black dog today " * 9]
    tokens = tokenizer(texts, padding="max_length", max_length=20, truncation=True, return_tensors="pt")
    expected = model(**tokens, **processor(small.pictures(), return_tensors="pt"))
    system = load(folder, batch_size=2)
    assert system.name == "MetaCLIP 2"
    assert system.protocol["padding"] == "to the longest text of a batch, cut at 20 tokens"
    assert_features(system.text_features(texts), expected.text_embeds)
    assert_features(system.image_features(small.pictures()), expected.image_embeds)
    assert same(system, small.stripes(), small.stripes().resize((small.SIDE, small.SIDE), 3))
