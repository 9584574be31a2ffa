"""open_clip: what it is asked for, and that its features are its own."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers import small_systems as small
from helpers.small_systems import assert_features, load
from PIL import Image
from safetensors.torch import save_file
from transformers import M2M100Config, NllbTokenizer

from altdiffusion import InputError
from altdiffusion.evaluation.systems.base import tell_language
from altdiffusion.evaluation.systems.pixels import squashed_pixels

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def stand_in(calls):
    """A module with the two functions of open_clip that are used."""
    table = torch.randn(50, 8)

    class Model(torch.nn.Module):
        def encode_image(self, pixels):
            return pixels.flatten(1)

        def encode_text(self, ids):
            return table[ids].mean(1)

    def create_model_from_pretrained(model_name, pretrained=None, precision="fp32", device="cpu", *, weights_only=True):
        calls.append((model_name, pretrained, precision, str(device), weights_only))
        if pretrained == "unknown":
            raise RuntimeError("Pretrained value 'unknown' is not a known tag or valid file path\nmore")
        return Model(), lambda image: torch.tensor(image.size).float()

    def get_tokenizer(model_name):
        return lambda texts: torch.tensor([[ord(text[0]) % 50, len(text)] for text in texts])

    return SimpleNamespace(
        create_model_from_pretrained=create_model_from_pretrained, get_tokenizer=get_tokenizer
    ), table


def test_open_clip_is_asked_for_model_weights_and_preprocessing(monkeypatch):
    calls = []
    module, table = stand_in(calls)
    monkeypatch.setitem(sys.modules, "open_clip", module)
    system = load("open_clip:ViT-H-14/some_tag", batch_size=2)
    assert calls == [("ViT-H-14", "some_tag", "fp32", "cpu", True)]
    assert system.name == "ViT-H-14"
    assert_features(
        system.text_features(["a", "bcd", "ef"]),
        torch.stack([table[[97 % 50, 1]], table[[98 % 50, 3]], table[[1, 2]]]).mean(1),
    )
    assert_features(system.image_features([Image.new("RGB", (3, 4))]), torch.tensor([[3.0, 4.0]]))
    assert load("open_clip:hf-hub:laion/CLIP-ViT-L").name == "CLIP-ViT-L"
    assert calls[1][:2] == ("hf-hub:laion/CLIP-ViT-L", None)


CODES = ["eng_Latn", "deu_Latn", "zho_Hans", "quy_Latn"]


class Nllb:
    """A tokenizer of open_clip around one with NLLB's languages: the first token of a text is the language's."""

    context_length = 77

    def __init__(self):
        self.tokenizer = SimpleNamespace(src_lang="eng_Latn", unk_token_id=3)
        self.tokenizer.convert_tokens_to_ids = lambda code: 40 + CODES.index(code) if code in CODES else 3

    def __call__(self, texts):
        first = self.tokenizer.convert_tokens_to_ids(self.tokenizer.src_lang)
        return torch.tensor([[first, len(text)] for text in texts])


def test_nllb_is_told_the_language_of_its_texts(monkeypatch):
    module, table = stand_in([])
    module.get_tokenizer = lambda name: Nllb()
    monkeypatch.setitem(sys.modules, "open_clip", module)
    system = load("open_clip:nllb-clip-base/v1")
    assert system.protocol["language"] == "texts as eng_Latn"
    for language, code in (("de", "deu_Latn"), ("zho_Hans", "zho_Hans"), ("zh", "zho_Hans"), ("quz", "quy_Latn")):
        tell_language(system, language)
        assert system.protocol["language"] == f"texts as {code}"
        assert_features(system.text_features(["abc"]), table[[40 + CODES.index(code), 3]].mean(0)[None])
    for language in ("und", "fr", "xx_Latn"):  # unknown, not among the tokenizer's, no language
        with pytest.raises(InputError, match=f"none that is called '{language}': name it, such as de or deu_Latn"):
            tell_language(system, language)


def test_other_models_are_told_no_language(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", stand_in([])[0])
    system = load("open_clip:ViT-H-14/some_tag")
    tell_language(system, "und")
    assert "language" not in system.protocol


def test_open_clips_nllb_itself_gives_the_same(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    words = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz", *CODES]
    vocabulary = {word: index for index, word in enumerate(words)}
    NllbTokenizer(vocabulary, [], extra_special_tokens=CODES).save_pretrained(tmp_path)
    tower = dict(d_model=64, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2)
    tower |= dict(encoder_ffn_dim=96, decoder_ffn_dim=96, vocab_size=len(words) + 4, pad_token_id=1)
    M2M100Config(**tower).save_pretrained(tmp_path)
    vision = dict(image_size=small.SIDE, layers=1, width=64, patch_size=8)
    text = dict(hf_model_name=str(tmp_path), hf_tokenizer_name=str(tmp_path), hf_proj_type="linear")
    text |= dict(hf_pooler_type="cls_pooler", hf_model_pretrained=False, context_length=20)
    settings = dict(embed_dim=16, vision_cfg=vision, text_cfg=text)
    model = small.excite(open_clip.CustomTextCLIP(**settings))
    prepare = dict(size=small.SIDE, mean=MEAN, std=DEVIATION, interpolation="bicubic", resize_mode="squash")
    about = json.dumps({"model_cfg": settings, "preprocess_cfg": prepare})
    (tmp_path / "open_clip_config.json").write_text(about)
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")

    system = load(f"open_clip:local-dir:{tmp_path}", batch_size=2)
    texts = ["ein rotes haus", "a", "katze"]
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(texts)
    found = {}
    for language, code in (("en", "eng_Latn"), ("de", "deu_Latn"), ("zh", "zho_Hans")):
        tell_language(system, language)
        ids[:, 0] = vocabulary[code]  # where NLLB's tokenizer puts the language
        found[language] = system.text_features(texts)
        assert_features(found[language], model.encode_text(ids))
    assert F.cosine_similarity(found["en"], found["de"]).max() < 0.99


def test_open_clip_without_weights_without_the_package_and_with_an_unknown_tag(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", stand_in([])[0])
    with pytest.raises(InputError, match="names no weights: expected open_clip:MODEL/TAG"):
        load("open_clip:ViT-H-14")
    with pytest.raises(InputError, match=r"can't load ViT-H-14/unknown: Pretrained value [^\n]*file path$"):
        load("open_clip:ViT-H-14/unknown")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(InputError, match="pip install open_clip_torch"):
        load("open_clip:ViT-H-14/some_tag")


def test_open_clip_itself_gives_the_same(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    vision = dict(image_size=small.SIDE, layers=2, width=64, patch_size=8)
    text = dict(context_length=20, vocab_size=49408, width=64, heads=2, layers=2)
    settings = dict(embed_dim=16, vision_cfg=vision, text_cfg=text)
    model = small.excite(open_clip.CLIP(**settings))
    prepare = dict(size=small.SIDE, mean=MEAN, std=DEVIATION, interpolation="bicubic", resize_mode="squash")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings, "preprocess_cfg": prepare}))
    with pytest.raises(InputError, match="could not be loaded"):
        load(tmp_path)  # no weights: open_clip would draw them
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")

    system = load(tmp_path, batch_size=2)
    assert system.name == tmp_path.name
    assert_features(
        system.text_features(small.TEXTS), model.encode_text(open_clip.tokenize(small.TEXTS, context_length=20))
    )
    pixels = squashed_pixels(small.pictures(), small.SIDE)
    assert_features(system.image_features(small.pictures()), model.encode_image(pixels))
