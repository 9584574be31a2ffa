"""AltCLIP's processor: what it saves it loads, and what transformers' own takes it takes."""

import pytest
import torch
import transformers
from PIL import Image

from altdiffusion import AltCLIPProcessor

TEXTS = ["a cat", "一只猫 " * 60, ""]


def image():
    return Image.linear_gradient("L").resize((300, 240)).convert("RGB")


def assert_same(ours, theirs):
    got, expected = (
        processor(text=TEXTS, images=image(), return_tensors="pt", padding=True, truncation=True)
        for processor in (ours, theirs)
    )
    assert torch.equal(got.input_ids, expected.input_ids)
    assert torch.equal(got.attention_mask, expected.attention_mask)
    assert got.pixel_values.shape == expected.pixel_values.shape


SETTINGS = [
    {},
    {"size": {"shortest_edge": 180}},
    {"crop_size": {"height": 96, "width": 96}, "do_normalize": False},
    {"image_mean": [0.1, 0.2, 0.3], "model_max_length": 32, "padding_side": "left"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_saved_and_loaded_it_is_the_same(tmp_path, settings):
    first = AltCLIPProcessor.from_pretrained(**settings)
    first.save_pretrained(tmp_path)
    ours, stock = AltCLIPProcessor.from_pretrained(tmp_path), transformers.AltCLIPProcessor.from_pretrained(tmp_path)
    assert ours.image_processor.to_dict() == first.image_processor.to_dict() == stock.image_processor.to_dict()
    for part in ("model_max_length", "padding_side"):
        assert getattr(ours.tokenizer, part) == getattr(first.tokenizer, part) == getattr(stock.tokenizer, part)
    assert_same(ours, first)
    assert_same(ours, stock)


@pytest.mark.parametrize("settings", SETTINGS[1:])
def test_settings_are_those_that_stock_makes_of_them(tmp_path, settings):
    AltCLIPProcessor.from_pretrained().save_pretrained(tmp_path)
    ours = AltCLIPProcessor.from_pretrained(tmp_path, **settings)
    stock = transformers.AltCLIPProcessor.from_pretrained(tmp_path, **settings)
    assert ours.image_processor.to_dict() == stock.image_processor.to_dict()
    assert_same(ours, stock)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("texts", "padding", "multiple", "tokens"),
    [
        (["a cat"], True, 8, 8),
        (["a cat", "一只猫 " * 60], True, 8, 80),
        (["cat " * 200], "longest", 64, 128),
        (["a cat", "a dog"], "max_length", 8, 80),
        ("a cat", True, 8, 8),
    ],
)
def test_texts_are_cut_at_77_and_then_padded_to_a_multiple(texts, padding, multiple, tokens, nested):
    processor = AltCLIPProcessor.from_pretrained()
    options = {"padding": padding, "pad_to_multiple_of": multiple}
    given = (
        {"text_kwargs": options, "common_kwargs": {"return_tensors": "pt"}}
        if nested
        else options | {"return_tensors": "pt"}
    )
    got = processor(text=texts, **given)
    cut = processor(text=texts, padding=padding, return_tensors="pt")
    assert got.input_ids.shape[1] == tokens
    width = min(tokens, cut.input_ids.shape[1])
    assert torch.equal(got.input_ids[:, :width], cut.input_ids[:, :width])
    assert got.attention_mask.sum() == cut.attention_mask.sum() <= 77 * len(got.input_ids)


def test_a_multiple_beside_images_and_as_lists():
    processor = AltCLIPProcessor.from_pretrained()
    both = processor(text=TEXTS, images=image(), padding=True, pad_to_multiple_of=16, return_tensors="pt")
    assert both.input_ids.shape == (3, 80)
    assert torch.equal(both.pixel_values, processor(images=image(), return_tensors="pt").pixel_values)
    assert [len(row) for row in processor(text=TEXTS, padding=True, pad_to_multiple_of=16)["input_ids"]] == [80] * 3
