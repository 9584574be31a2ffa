"""SigLIP, mSigLIP, SigLIP 2: lower case, padded to all positions; features as transformers' classes give them."""

from __future__ import annotations

import io

import pytest
import sentencepiece
import torch
from helpers import small_systems as small
from helpers.small_systems import assert_features, load, same
from transformers import (
    GemmaTokenizer,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTokenizer,
)

from altdiffusion import InputError

CONTEXT = 24
LONG = "a cat, two dogs. " * 20


def settings(rows):
    tower = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2)
    text = tower | dict(vocab_size=rows, max_position_embeddings=CONTEXT, projection_size=64)
    return dict(text_config=text, vision_config=tower | dict(patch_size=8))


def save_spiece(folder):
    """T5's kind of vocabulary: padding 0, </s> 1, <unk> 2; padding is written as </s>."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text.lower() for text in small.TEXTS] * 9),
        model_writer=model,
        vocab_size=90,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        character_coverage=1.0,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    tokenizer = SiglipTokenizer(str(folder / "spiece.model"), model_input_names=["input_ids"])
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_gemma(folder):
    """As SigLIP 2 is published: the tokenizer neither lowers nor ends a text."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += [
        "▁",
        *(chr(letter) for letter in range(ord("a"), ord("z") + 1)),
        *"ABCDEFGHIJKLMNOPQRSTUVWXYZ,.猫狗",
        "at",
    ]
    tokenizer = GemmaTokenizer({word: index for index, word in enumerate(words)}, [("a", "t")])
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    tokenizer = save_spiece(folder)
    config = settings(len(tokenizer))
    config["vision_config"]["image_size"] = small.SIDE
    model = small.excite(SiglipModel(SiglipConfig(**config)))
    model.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": small.SIDE, "width": small.SIDE}).save_pretrained(folder)
    return folder, model, tokenizer


@pytest.fixture(scope="module", params=["siglip", "siglip2"])
def siglip_2(tmp_path_factory, request):
    """At a fixed size, which is stored as a SigLIP, and NaFlex."""
    folder = tmp_path_factory.mktemp("siglip_2")
    tokenizer = save_gemma(folder)
    config = settings(len(tokenizer))
    if request.param == "siglip":
        config["vision_config"]["image_size"] = small.SIDE
        model = small.excite(SiglipModel(SiglipConfig(**config)))
        processor = SiglipImageProcessorPil(size={"height": small.SIDE, "width": small.SIDE}, resample=2)
    else:
        config["vision_config"]["num_patches"] = 16
        model = small.excite(Siglip2Model(Siglip2Config(**config)))
        processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=12)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, tokenizer, processor


def test_siglip_gives_what_transformers_classes_give(siglip):
    folder, model, tokenizer = siglip
    texts = [*small.TEXTS, LONG, "One. Two!"]
    ids = tokenizer(texts, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt")["input_ids"]
    pixels = SiglipImageProcessorPil.from_pretrained(folder)(small.pictures(), return_tensors="pt")["pixel_values"]
    system = load(folder, batch_size=2)
    assert system.name == "SigLIP"
    assert system.protocol["padding"] == f"to {CONTEXT} tokens"
    assert_features(system.text_features(texts), model.get_text_features(ids).pooler_output)
    assert_features(system.image_features(small.pictures()), model.get_image_features(pixels).pooler_output)
    assert same(system, "TWO cats!", "two cats")


def test_siglip_2_gives_what_transformers_classes_give_of_texts_in_lower_case_padded_to_the_end(siglip_2):
    folder, model, tokenizer, processor = siglip_2
    texts = [*small.TEXTS, LONG]
    ids = []
    for text in texts:  # big_vision: lower, tok(length, bos="no", eos="sticky"), padding 0
        tokens = [*tokenizer(text.lower(), add_special_tokens=False)["input_ids"][: CONTEXT - 1], 1]
        ids.append(tokens + [0] * (CONTEXT - len(tokens)))
    system = load(folder, batch_size=2)
    assert system.name == "SigLIP 2"
    assert_features(system.text_features(texts), model.get_text_features(torch.tensor(ids)).pooler_output)
    images = processor(small.pictures(), return_tensors="pt")
    assert_features(system.image_features(small.pictures()), model.get_image_features(**images).pooler_output)
    assert same(system, "TWO cats", "two cats")
    assert not same(system, "two cats,", "two cats")


def test_a_siglip_of_250000_tokens_is_the_multilingual_one(tmp_path):
    tokenizer = save_spiece(tmp_path)
    config = settings(250_000)
    config["text_config"] |= dict(hidden_size=4, intermediate_size=4, num_hidden_layers=1, projection_size=64)
    config["vision_config"]["image_size"] = small.SIDE
    SiglipModel(SiglipConfig(**config)).save_pretrained(tmp_path)
    SiglipImageProcessorPil(size={"height": small.SIDE, "width": small.SIDE}).save_pretrained(tmp_path)
    assert len(tokenizer) < 100
    assert load(tmp_path).name == "mSigLIP"


def test_a_siglip_without_its_tokenizer_is_refused(siglip, tmp_path):
    for file in siglip[0].iterdir():
        if file.name != "spiece.model":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match=r"no tokenizer in .*: expected spiece\.model"):
        load(tmp_path)
