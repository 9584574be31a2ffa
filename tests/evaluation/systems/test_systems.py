"""The systems of the table: features as their own code gives them, preprocessing, and what does not fit."""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers import layouts, tiny
from helpers import small_systems as small
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer, CLIPImageProcessorPil, CLIPTokenizer, XLMRobertaTokenizer

from altdiffusion import InputError
from altdiffusion.evaluation.systems import load_system
from altdiffusion.evaluation.systems.loading import cropped_pixels, squashed_pixels

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """clip, chinese_clip and taiyi with their models; read them, never write into them."""
    root = tmp_path_factory.mktemp("systems")
    clip = tiny.save_clip(root / "clip")
    small.excite(clip).save_pretrained(root / "clip")
    small.add_position_ids(root / "clip", "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
    models = {"clip": clip, "chinese_clip": small.save_chinese_clip(root / "chinese_clip")}
    models["taiyi"] = small.save_taiyi(root / "taiyi", width=4)
    return root, models


def own_copy(folders, tmp_path, name):
    return shutil.copytree(folders[0] / name, tmp_path / name)


def load(name, **given):
    return load_system(name, device="cpu", **given)


def close(found, expected):
    assert found.dtype == torch.float32
    assert not found.is_inference()
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(found.shape[:-1]))
    torch.testing.assert_close(found, F.normalize(expected.detach().float(), dim=-1), atol=1e-5, rtol=0)


def same(system, one, other):
    """Whether two texts, or two images, are the same to a system."""
    features = system.text_features if isinstance(one, str) else system.image_features
    first, second = features([one])[0], features([other])[0]
    return torch.allclose(first, second, atol=1e-5)


# ---- CLIP


def test_clip_gives_what_transformers_class_gives(folders):
    root, models = folders
    tokens = CLIPTokenizer.from_pretrained(root / "clip")(
        small.TEXTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    pixels = CLIPImageProcessorPil.from_pretrained(root / "clip")(small.pictures(), return_tensors="pt")
    expected = models["clip"](**tokens, **pixels)
    system = load(root / "clip", batch_size=2)
    assert system.name == "CLIP"
    close(system.text_features(small.TEXTS), expected.text_embeds)
    close(system.image_features(small.pictures()), expected.image_embeds)


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


# ---- CN-CLIP


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
    close(system.text_features(small.TEXTS), expected.text_embeds)
    close(system.image_features(small.pictures()), expected.image_embeds)


def test_chinese_clip_squashes_lowers_and_cuts_at_52(folders):
    system = load(folders[0] / "chinese_clip")
    assert not same(system, small.stripes(), Image.new("RGB", (32, 32), "green"))
    assert same(system, small.stripes(), small.stripes().resize((32, 32), Image.Resampling.BICUBIC))
    assert same(system, "CATS “ON” A BED", 'cats "on" a bed')
    assert same(system, "猫" * 50 + "狗", "猫" * 50)
    assert not same(system, "猫" * 49 + "狗", "猫" * 50)


def test_chinese_clip_crops_nothing_whatever_the_folder_says(folders, tmp_path):
    folder = own_copy(folders, tmp_path, "chinese_clip")
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
    close(system.text_features([*small.TEXTS, "两只猫" * 40]), own.encode_text(cn_clip.tokenize(prepared)))
    pixels = torch.stack([transform(each) for each in small.pictures()])
    close(system.image_features(small.pictures()), own.encode_image(pixels))


# ---- Taiyi


@pytest.mark.parametrize("prefix", ["taiyi:", ""])
def test_taiyi_gives_the_logits_of_texts_padded_to_77_and_clips_pictures(folders, prefix):
    root, models = folders
    tokens = BertTokenizer(vocab=str(root / "taiyi" / "vocab.txt"))(
        small.TEXTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    system = load(f"{prefix}{root / 'taiyi'}+{root / 'clip'}", batch_size=3)
    assert system.name == "Taiyi"
    close(system.text_features(small.TEXTS), models["taiyi"](tokens["input_ids"]).logits)
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


# ---- AltCLIP


@pytest.fixture(scope="module")
def altclip(tmp_path_factory):
    """A full AltCLIP and its folder, where the embedded default has its own: mini/altclip."""
    folder = tmp_path_factory.mktemp("mini") / "altclip"
    model = layouts.save_altclip(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return model, folder


def test_altclip_gives_what_transformers_class_gives(altclip):
    model, folder = altclip
    tokens = XLMRobertaTokenizer.from_pretrained(folder)(
        small.TEXTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(small.pictures(), return_tensors="pt")
    expected = model(**tokens, **pixels)
    system = load(folder, batch_size=2)
    assert system.name == "AltCLIP"
    texts, images = system.text_features(small.TEXTS), system.image_features(small.pictures())
    close(texts, expected.text_embeds)
    close(images, expected.image_embeds)
    cosines = expected.logits_per_text.detach() / model.logit_scale.detach().exp()
    torch.testing.assert_close(system.similarity(texts, images), cosines, atol=1e-5, rtol=0)
    torch.testing.assert_close(system.image_to_text_similarity(texts, images), cosines, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [None, "mini", "altclip:mini"])
def test_the_embedded_default_is_its_altclip(altclip, monkeypatch, name):
    monkeypatch.setattr("altdiffusion.checkpoints.hub.mini_folder", lambda: altclip[1].parent)
    found = load(name).text_features(small.TEXTS)
    torch.testing.assert_close(found, load(altclip[1]).text_features(small.TEXTS))


# ---- open_clip


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
    close(
        system.text_features(["a", "bcd", "ef"]),
        torch.stack([table[[97 % 50, 1]], table[[98 % 50, 3]], table[[1, 2]]]).mean(1),
    )
    close(system.image_features([Image.new("RGB", (3, 4))]), torch.tensor([[3.0, 4.0]]))
    assert load("open_clip:hf-hub:laion/CLIP-ViT-L").name == "CLIP-ViT-L"
    assert calls[1][:2] == ("hf-hub:laion/CLIP-ViT-L", None)


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
    close(system.text_features(small.TEXTS), model.encode_text(open_clip.tokenize(small.TEXTS, context_length=20)))
    pixels = squashed_pixels(small.pictures(), small.SIDE)
    close(system.image_features(small.pictures()), model.encode_image(pixels))


# ---- preprocessing, by hand


def test_a_square_keeps_all_of_a_picture_a_crop_its_middle():
    green = (torch.tensor([0, 128, 0]) / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    crop = cropped_pixels([small.stripes()], 8)[0]
    torch.testing.assert_close(crop, green[:, None, None].expand(3, 8, 8), atol=1e-5, rtol=0)
    square = squashed_pixels([small.stripes()], 8)[0]
    red = square[0, 4] * DEVIATION[0] + MEAN[0]
    blue = square[2, 4] * DEVIATION[2] + MEAN[2]
    assert red[0] > 0.95
    assert red[-1] < 0.05
    assert blue[-1] > 0.95
    assert blue[0] < 0.05


def test_a_crop_is_torchvisions():
    transforms = pytest.importorskip("torchvision.transforms")
    own = transforms.Compose(
        [
            transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, DEVIATION),
        ]
    )
    pictures = [*small.pictures(), *(small.pictures()[1].resize(size) for size in ((33, 77), (71, 40), (35, 36)))]
    for picture in pictures:
        torch.testing.assert_close(cropped_pixels([picture], 32)[0], own(picture), atol=1e-6, rtol=0)


# ---- half precision


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


# ---- what does not fit


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("clip", "text_projection.weight"),
        ("clip", "vision_model.encoder.layers.0.mlp.fc1.weight"),
        ("chinese_clip", "text_model.encoder.layer.1.output.dense.bias"),
        ("taiyi", "classifier.weight"),
    ],
)
def test_a_missing_tensor_is_named_and_never_drawn_at_random(folders, tmp_path, name, tensor):
    folder = own_copy(folders, tmp_path, name)
    small.change_weights(folder, drop=tensor)
    asked = f"{folder}+{folders[0] / 'clip'}" if name == "taiyi" else folder
    with pytest.raises(InputError, match=f"missing {tensor}"):
        load(asked)


def test_a_tensor_left_over_is_named(folders, tmp_path):
    folder = own_copy(folders, tmp_path, "chinese_clip")
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


def test_a_pickle_must_be_allowed(folders, tmp_path):
    folder = own_copy(folders, tmp_path, "chinese_clip")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="--allow-pickle"):
        load(folder)
    found = load(folder, allow_pickle=True).text_features(small.TEXTS)
    torch.testing.assert_close(found, load(folders[0] / "chinese_clip").text_features(small.TEXTS))


@pytest.mark.parametrize("name", ["clip", "chinese_clip"])
def test_a_folder_without_tokenizer_is_refused(folders, tmp_path, name):
    folder = own_copy(folders, tmp_path, name)
    for file in (*folder.glob("tokenizer*"), *folder.glob("vocab*"), *folder.glob("merges*")):
        file.unlink()
    with pytest.raises(InputError, match="no tokenizer in"):
        load(folder)


def test_a_tokenizer_with_more_words_than_the_model_is_refused(folders, tmp_path):
    folder = own_copy(folders, tmp_path, "chinese_clip")
    with (folder / "vocab.txt").open("a") as file:
        file.write("more\n")
    with pytest.raises(InputError, match="they don't belong together"):
        load(folder)


def test_a_processor_that_makes_other_sizes_is_refused(folders, tmp_path):
    folder = own_copy(folders, tmp_path, "clip")
    CLIPImageProcessorPil(size={"shortest_edge": 9}, crop_size={"height": 9, "width": 9}).save_pretrained(folder)
    with pytest.raises(InputError, match="makes 9 x 9 pixels, expected 8"):
        load(folder)
    for file in folder.glob("*processor_config.json"):
        file.unlink()
    with pytest.raises(InputError, match=r"no preprocessor_config\.json"):
        load(folder)


def test_nothing_to_encode_and_a_batch_of_none(folders):
    with pytest.raises(InputError, match="at least one picture or text"):
        load(folders[0] / "clip").text_features([])
    with pytest.raises(InputError, match="batch_size 0"):
        load(folders[0] / "clip", batch_size=0)
