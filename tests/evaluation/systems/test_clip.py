"""CLIP: features as transformers' class gives them, its crop, its case and its 77 tokens."""

from __future__ import annotations

from helpers import small_systems as small
from helpers.small_systems import assert_features, load, same
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPTokenizer


def test_clip_gives_what_transformers_class_gives(folders):
    root, models = folders
    tokens = CLIPTokenizer.from_pretrained(root / "clip")(
        small.TEXTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    pixels = CLIPImageProcessorPil.from_pretrained(root / "clip")(small.pictures(), return_tensors="pt")
    expected = models["clip"](**tokens, **pixels)
    system = load(root / "clip", batch_size=2)
    assert system.name == "CLIP"
    assert_features(system.text_features(small.TEXTS), expected.text_embeds)
    assert_features(system.image_features(small.pictures()), expected.image_embeds)


def test_clip_crops_lowers_and_cuts_at_77(folders):
    system = load(folders[0] / "clip")
    assert same(system, small.stripes(), Image.new("RGB", (32, 32), "green"))
    assert same(system, "RED Cat", "red cat")
    assert not same(system, "red cat", "red dog")
    long = "red " * 76
    assert same(system, long + "cat", long + "dog")  # beyond the 77th token
    tokens = len(CLIPTokenizer.from_pretrained(folders[0] / "clip")("red")["input_ids"]) - 2
    fitting = "red " * (75 // tokens - 1)
    assert not same(system, fitting + "cat", fitting + "dog")


def test_a_picture_of_three_rows_is_a_picture(folders):  # and not one of three channels
    assert load(folders[0] / "clip").image_features([Image.new("RGB", (5, 3), "red")]).shape == (1, 4)
