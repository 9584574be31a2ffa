"""Every system from its folder or file: in half precision too, and whatever doesn't fit is an error."""

from __future__ import annotations

import pytest
import torch
from helpers import small_systems as small
from helpers import tiny
from helpers.small_systems import load
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil

from altdiffusion import InputError


@pytest.mark.parametrize("name", ["clip", "chinese_clip", "taiyi"])
def test_in_bfloat16_features_are_near_and_still_float32(folders, name):
    root = folders[0]
    asked = f"{root / name}+{root / 'clip'}" if name == "taiyi" else root / name
    exact, near = load(asked), load(asked, dtype=torch.bfloat16)
    for found, expected in (
        (near.text_features(small.TEXTS), exact.text_features(small.TEXTS)),
        (near.image_features(small.pictures()), exact.image_features(small.pictures())),
    ):
        assert found.dtype == torch.float32
        assert not torch.equal(found, expected)
        assert (found * expected).sum(-1).min() > 0.99


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("clip", "text_projection.weight"),
        ("clip", "vision_model.encoder.layers.0.mlp.fc1.weight"),
        ("chinese_clip", "text_model.encoder.layer.1.output.dense.bias"),
        ("taiyi", "classifier.weight"),
    ],
)
def test_a_missing_tensor_is_named_and_never_drawn_at_random(folders, copy_of, name, tensor):
    folder = copy_of(name)
    small.change_weights(folder, drop=tensor)
    asked = f"{folder}+{folders[0] / 'clip'}" if name == "taiyi" else folder
    with pytest.raises(InputError, match=f"missing {tensor}"):
        load(asked)


def test_a_tensor_left_over_is_named(copy_of):
    folder = copy_of("chinese_clip")
    small.change_weights(folder, add="text_model.strange")
    with pytest.raises(InputError, match=r"unexpected text_model\.strange"):
        load(folder)


def test_another_architecture_is_named(folders, tmp_path):
    with pytest.raises(InputError, match="is of type 'chinese_clip', expected 'clip'"):
        load(f"clip:{folders[0] / 'chinese_clip'}")
    tiny.save_roberta(tmp_path / "xlm-r")
    with pytest.raises(InputError, match=r"XLMRobertaForMaskedLM of type 'xlm-roberta': expected CLIPModel"):
        load(tmp_path / "xlm-r")
    save_file({"a.weight": torch.zeros(1)}, tmp_path / "strange.safetensors")
    with pytest.raises(InputError, match=r"neither Wukong nor R2D2: its tensors are named like a\.weight"):
        load(tmp_path / "strange.safetensors")
    with pytest.raises(InputError, match="unknown model 'nothing here'"):
        load("nothing here")


def test_a_pickle_must_be_allowed(folders, copy_of):
    folder = copy_of("chinese_clip")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="--allow-pickle"):
        load(folder)
    found = load(folder, allow_pickle=True).text_features(small.TEXTS)
    torch.testing.assert_close(found, load(folders[0] / "chinese_clip").text_features(small.TEXTS))


@pytest.mark.parametrize("name", ["clip", "chinese_clip"])
def test_a_folder_without_tokenizer_is_refused(copy_of, name):
    folder = copy_of(name)
    for file in (*folder.glob("tokenizer*"), *folder.glob("vocab*"), *folder.glob("merges*")):
        file.unlink()
    with pytest.raises(InputError, match="no tokenizer in"):
        load(folder)


def test_a_tokenizer_with_more_words_than_the_model_is_refused(copy_of):
    folder = copy_of("chinese_clip")
    with (folder / "vocab.txt").open("a") as file:
        file.write("more\n")
    with pytest.raises(InputError, match="they don't belong together"):
        load(folder)


def test_a_processor_that_makes_other_sizes_is_refused(copy_of):
    folder = copy_of("clip")
    CLIPImageProcessorPil(size={"shortest_edge": 9}, crop_size={"height": 9, "width": 9}).save_pretrained(folder)
    with pytest.raises(InputError, match="makes 9 x 9 pixels, expected 8"):
        load(folder)
    for file in folder.glob("*processor_config.json"):
        file.unlink()
    with pytest.raises(InputError, match=r"no preprocessor_config\.json"):
        load(folder)


def test_nothing_to_encode_and_a_batch_of_none(folders):
    with pytest.raises(InputError, match="at least one image or text"):
        load(folders[0] / "clip").text_features([])
    with pytest.raises(InputError, match="batch_size 0"):
        load(folders[0] / "clip", batch_size=0)
