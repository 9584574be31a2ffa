"""M-CLIP: the mean of a text tower's tokens through a linear layer, by transformers' classes and by the authors' package."""

from __future__ import annotations

import json

import pytest
import torch
from helpers import small_systems as small
from helpers import tiny
from helpers.small_systems import assert_features, load
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, BertTokenizer, XLMRobertaConfig, XLMRobertaModel

from altdiffusion import InputError

TEXTS = ["a red cat", "Katze", "two black dogs today, and a fish", "一只猫"]


@pytest.fixture(scope="module", params=["xlm-r", "bert"])
def m_clip(tmp_path_factory, request, folders):
    """(folder, text tower, linear layer, tokenizer), its CLIP's folder. BERT's is that of LABSE-Vit-L-14."""
    folder = tmp_path_factory.mktemp("m_clip")
    if request.param == "xlm-r":
        tokenizer = tiny.roberta_tokenizer()
        settings = small.text_settings(len(tokenizer)) | dict(type_vocab_size=1, pad_token_id=tokenizer.pad_token_id)
        tower = XLMRobertaModel(XLMRobertaConfig(**settings, layer_norm_eps=1e-5))
        tokenizer.save_pretrained(folder)
    else:
        rows = small.save_vocabulary(folder)
        tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"))
        tower = BertModel(BertConfig(**small.text_settings(rows)))
    head = torch.nn.Linear(128, 4)
    small.excite(tower)
    small.excite(head)
    save(folder, tower, head)
    return folder, tower, head, tokenizer, folders[0] / "clip"


def save(folder, tower, head):
    state = {f"transformer.{name}": tensor for name, tensor in tower.state_dict().items()}
    state |= {f"LinearTransformation.{name}": tensor for name, tensor in head.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    about = {"architectures": ["MultilingualCLIP"], "model_type": "M-CLIP", "modelBase": "xlm-roberta-large"}
    (folder / "config.json").write_text(json.dumps(about | {"numDims": 4, "transformerDimensions": 128}))


@pytest.mark.parametrize("prefix", ["m-clip:", ""])
def test_m_clip_gives_the_linear_layer_of_the_mean_of_all_tokens(m_clip, prefix):
    folder, tower, head, tokenizer, clip = m_clip
    means = [tower(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1) for text in TEXTS]  # no padding
    system = load(f"{prefix}{folder}+{clip}", batch_size=3)
    assert system.name == "M-CLIP"
    assert system.protocol["images"] == f"images by {clip}"
    assert_features(system.text_features(TEXTS), head(torch.cat(means)))
    pictures = small.pictures()
    torch.testing.assert_close(system.image_features(pictures), load(clip).image_features(pictures))
    assert system.text_features(["cat " * 500]).isfinite().all()  # cut where the tower's positions end


def test_m_clip_gives_what_the_authors_package_gives(m_clip, monkeypatch):
    package = pytest.importorskip("multilingual_clip.pt_multilingual_clip")
    folder, tower, head, tokenizer, clip = m_clip
    monkeypatch.setattr(package.transformers.AutoModel, "from_pretrained", lambda name: tower)
    config = package.Config_MCLIP.MCLIPConfig(transformerDimSize=128, imageDimSize=4)
    own = package.MultilingualCLIP(config)
    own.LinearTransformation.load_state_dict(head.state_dict())
    assert_features(load(f"{folder}+{clip}").text_features(TEXTS), own.eval()(TEXTS, tokenizer))


def test_m_clip_and_a_clip_of_another_width_or_none_do_not_go_together(m_clip, tmp_path):
    folder, tower, _, _, clip = m_clip
    with pytest.raises(InputError, match="has vectors of 4 dimensions: name the CLIP"):
        load(folder)
    (tmp_path / "wide").mkdir()
    for file in folder.iterdir():
        (tmp_path / "wide" / file.name).write_bytes(file.read_bytes())
    save(tmp_path / "wide", tower, small.excite(torch.nn.Linear(128, 6)))
    with pytest.raises(InputError, match=r"6 dimensions, those of .*clip 4: name the CLIP"):
        load(f"{tmp_path / 'wide'}+{clip}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "LinearTransformation.bias"}, r"missing LinearTransformation\.bias"),
        ({"drop": "transformer.encoder.layer.1.output.dense.bias"}, r"missing encoder\.layer\.1\.output\.dense\.bias"),
        ({"add": "strange"}, "left over strange"),
        ({"add": "transformer.strange"}, "left over strange"),
    ],
)
def test_a_tensor_missing_or_left_over_is_named(m_clip, tmp_path, change, message):
    for file in m_clip[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    small.change_weights(tmp_path, **change)
    with pytest.raises(InputError, match=message):
        load(f"{tmp_path}+{m_clip[4]}")
