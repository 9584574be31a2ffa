"""Taiyi: the logits of padded texts, and a CLIP's images of the same width."""

from __future__ import annotations

import pytest
import torch
from helpers import small_systems as small
from helpers.small_systems import assert_features, load, same
from transformers import BertTokenizer

from altdiffusion import InputError


@pytest.mark.parametrize("prefix", ["taiyi:", ""])
def test_taiyi_gives_the_logits_of_texts_padded_to_77_and_clips_pictures(folders, prefix):
    root, models = folders
    tokens = BertTokenizer(vocab=str(root / "taiyi" / "vocab.txt"))(
        small.TEXTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    system = load(f"{prefix}{root / 'taiyi'}+{root / 'clip'}", batch_size=3)
    assert system.name == "Taiyi"
    assert_features(system.text_features(small.TEXTS), models["taiyi"](tokens["input_ids"]).logits)
    pictures = small.pictures()
    torch.testing.assert_close(system.image_features(pictures), load(root / "clip").image_features(pictures))


def test_taiyi_lowers_and_cuts_at_77(folders):
    root = folders[0]
    system = load(f"taiyi:{root / 'taiyi'}+{root / 'clip'}")
    assert same(system, "CATS", "cats")
    assert same(system, "猫" * 75 + "狗", "猫" * 75)
    assert not same(system, "猫" * 74 + "狗", "猫" * 75)


def test_taiyi_and_a_clip_of_another_width_do_not_go_together(folders, tmp_path):
    small.save_taiyi(tmp_path / "wide", width=6)
    with pytest.raises(InputError, match=r"6 dimensions, those of .*clip 4: name the CLIP"):
        load(f"{tmp_path / 'wide'}+{folders[0] / 'clip'}")
