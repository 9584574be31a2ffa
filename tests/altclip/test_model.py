"""The full AltCLIP: every layout, tensors as features, strict loading, what it saves stays stock."""

import json
import shutil

import pytest
import torch
import transformers
from helpers import layouts
from helpers.small_altclip import save_small
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AltCLIPModel

from altdiffusion import AltCLIP, AltCLIPProcessor, InputError


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """({name: folder}, {name: oracle}) of the two layouts."""
    root = tmp_path_factory.mktemp("altclip")
    return {name: root / name for name in ("m9", "m18")}, {
        name: save_small(root / name, m18=name == "m18") for name in ("m9", "m18")
    }


@pytest.fixture
def own_copy(small, tmp_path):
    """A folder to damage."""
    return shutil.copytree(small[0]["m9"], tmp_path / "own")


def edit(folder, change):
    """Change the tensors of a folder."""
    state = {key: value.clone() for key, value in load_file(folder / "model.safetensors").items()}
    change(state)
    save_file(state, folder / "model.safetensors")


@pytest.fixture(scope="module")
def picture():
    return Image.effect_noise((40, 50), 90).convert("RGB")


def test_seeds_example_runs_with_only_its_imports_changed(small, picture):
    folders, oracles = small
    image = picture
    # --- the example of BAAI/AltCLIP's model card, but for where it finds model and image
    model = AltCLIP.from_pretrained(folders["m9"])
    processor = AltCLIPProcessor.from_pretrained(folders["m9"])
    inputs = processor(text=["a photo of a cat", "a photo of a dog"], images=image, return_tensors="pt", padding=True)
    outputs = model(**inputs)
    logits_per_image = outputs.logits_per_image  # this is the image-text similarity score
    probs = logits_per_image.softmax(dim=1)  # we can take the softmax to get the label probabilities
    # ---
    with torch.no_grad():
        expected = oracles["m9"](**inputs).logits_per_image.softmax(dim=1)
    torch.testing.assert_close(probs, expected, atol=1e-5, rtol=0)
    assert abs(probs[0, 0].item() - 0.5) > 1e-3


@pytest.mark.parametrize("layout", ["m9", "m18"])
def test_every_layout_gives_stock_features_as_tensors(small, picture, layout):
    folders, oracles = small
    model, processor = AltCLIP.from_pretrained(folders[layout]), AltCLIPProcessor.from_pretrained(folders[layout])
    inputs = processor(text=list(layouts.GREETINGS.values()), images=picture, return_tensors="pt", padding=True)
    pixels = inputs.pop("pixel_values")
    with torch.no_grad():
        texts, images = model.get_text_features(**inputs), model.get_image_features(pixel_values=pixels)
        expected_texts = oracles[layout].get_text_features(**inputs).pooler_output
        expected_images = oracles[layout].get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(texts, expected_texts, atol=1e-5, rtol=0)
    torch.testing.assert_close(images, expected_images, atol=1e-5, rtol=0)
    assert not torch.allclose(texts.norm(dim=1), torch.ones(len(texts)), atol=1e-2)


@pytest.mark.parametrize("layout", ["m9", "m18"])
def test_what_is_saved_loads_in_plain_transformers(small, picture, layout, tmp_path):
    folders, oracles = small
    AltCLIP.from_pretrained(folders[layout]).save_pretrained(tmp_path)
    AltCLIPProcessor.from_pretrained(folders[layout]).save_pretrained(tmp_path)
    plain, report = AltCLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["AltCLIPModel"]
    processor = transformers.AltCLIPProcessor.from_pretrained(tmp_path)
    inputs = processor(text=["一只猫"], images=picture, return_tensors="pt")
    with torch.no_grad():
        logits = plain(**inputs).logits_per_image
        torch.testing.assert_close(logits, oracles[layout](**inputs).logits_per_image, atol=1e-4, rtol=0)
        again = AltCLIP.from_pretrained(tmp_path)
        torch.testing.assert_close(again(**inputs).logits_per_image, logits, atol=1e-4, rtol=0)


def test_what_plain_transformers_saves_is_read(small, picture, tmp_path):
    """transformers 5 gives the image tower's layers another name than was published."""
    folders, oracles = small
    oracles["m9"].save_pretrained(tmp_path)
    assert any("vision_model.encoder.layer." in key for key in load_file(tmp_path / "model.safetensors"))
    inputs = AltCLIPProcessor.from_pretrained(folders["m9"])(text="a cat", images=picture, return_tensors="pt")
    with torch.no_grad():
        got, expected = AltCLIP.from_pretrained(tmp_path)(**inputs), oracles["m9"](**inputs)
    torch.testing.assert_close(got.logits_per_image, expected.logits_per_image, atol=1e-4, rtol=0)


def test_padding_is_trimmed_and_nothing_changes(small):
    folders, oracles = small
    model, processor = AltCLIP.from_pretrained(folders["m9"]), AltCLIPProcessor.from_pretrained(folders["m9"])
    inputs = processor(text=["一只猫", "a cat, please"], return_tensors="pt", padding="max_length", max_length=77)
    lengths = []
    model.text_model.roberta.embeddings.register_forward_hook(lambda module, args, out: lengths.append(out.shape[1]))
    with torch.no_grad():
        got, expected = model.get_text_features(**inputs), oracles["m9"].get_text_features(**inputs).pooler_output
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert inputs.input_ids.shape[1] == 77
    assert lengths == [int(inputs.attention_mask.sum(1).max()) + 1]


def test_configs_of_2022_are_read(small, own_copy, picture):
    """The two towers' settings under the old names, no type, and settings that no longer exist."""
    config = json.loads((own_copy / "config.json").read_text())
    config["text_config_dict"] = config.pop("text_config") | {"model_type": "xlm-roberta", "pooler_fn": "cls"}
    config["vision_config_dict"] = config.pop("vision_config") | {"torchscript": False, "num_beams": 1}
    del config["model_type"]
    (own_copy / "config.json").write_text(json.dumps(config))
    inputs = AltCLIPProcessor.from_pretrained(own_copy)(text="a cat", images=picture, return_tensors="pt")
    with torch.no_grad():
        got, expected = AltCLIP.from_pretrained(own_copy)(**inputs), small[1]["m9"](**inputs)
    torch.testing.assert_close(got.logits_per_image, expected.logits_per_image, atol=1e-4, rtol=0)


def test_float32_unless_asked_otherwise(own_copy):
    edit(own_copy, lambda state: state.update({key: value.half() for key, value in state.items()}))
    assert AltCLIP.from_pretrained(own_copy).dtype == torch.float32
    assert AltCLIP.from_pretrained(own_copy, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("part", [AltCLIP, AltCLIPProcessor])
def test_the_first_argument_has_its_stock_name_too(own_copy, part):
    assert isinstance(part.from_pretrained(pretrained_model_name_or_path=own_copy), part)
    assert isinstance(part.from_pretrained(pretrained_model_name_or_path=None), part)
    with pytest.raises(InputError, match="pass one of them"):
        part.from_pretrained(own_copy, pretrained_model_name_or_path=own_copy)


def test_pickle_is_read_only_where_allowed(own_copy):
    torch.save(load_file(own_copy / "model.safetensors"), own_copy / "pytorch_model.bin")
    (own_copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match="allow_pickle=True"):
        AltCLIP.from_pretrained(own_copy)
    assert AltCLIP.from_pretrained(own_copy, allow_pickle=True).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("visual_projection.weight"), "missing visual_projection.weight"),
        (lambda state: state.pop("text_model.transformation.weight"), "no 'transformation.weight'"),
        (lambda state: state.pop("text_model.pre_LN.weight"), "no 'pre_LN.weight'"),
        (lambda state: state.pop("vision_model.pre_layrnorm.bias"), "missing vision_model.pre_layrnorm.bias"),
        (lambda state: state.update(surplus=torch.zeros(1)), "left over surplus"),
        (lambda state: state.update({"text_model.surplus": torch.zeros(1)}), "left over text_model.surplus"),
        (lambda state: state.update(logit_scale=torch.zeros(2)), r"logit_scale is \(2,\), expected \(\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(own_copy, change, expected):
    edit(own_copy, change)
    with pytest.raises(InputError, match=expected) as raised:
        AltCLIP.from_pretrained(own_copy)
    assert "\n" not in str(raised.value)


def test_another_architecture_is_refused(tiny_models):
    with pytest.raises(InputError, match="no AltCLIP text encoder here"):
        AltCLIP.from_pretrained(tiny_models / "clip")


def test_text_tower_alone_is_refused(tiny_models):
    with pytest.raises(InputError, match="missing logit_scale"):
        AltCLIP.from_pretrained(tiny_models / "student")


def test_stable_diffusion_is_refused(published):
    for load in (AltCLIP.from_pretrained, AltCLIPProcessor.from_pretrained):
        with pytest.raises(InputError, match="expected a full AltCLIP"):
            load(published("m9", "safetensors"))


@pytest.mark.parametrize("name", ["nonsense", "../nowhere", "missing.safetensors"])
def test_unknown_model_says_what_was_expected(name):
    for load in (AltCLIP.from_pretrained, AltCLIPProcessor.from_pretrained):
        with pytest.raises(InputError, match="unknown model"):
            load(name)


def test_file_and_folder_without_config_are_refused(small, tmp_path):
    for place in (tmp_path, small[0]["m9"] / "model.safetensors"):
        with pytest.raises(InputError, match=r"expected a folder with config\.json"):
            AltCLIP.from_pretrained(place)


def test_processor_without_image_settings_is_refused(own_copy):
    (own_copy / "preprocessor_config.json").unlink(missing_ok=True)
    (own_copy / "processor_config.json").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"preprocessor_config\.json"):
        AltCLIPProcessor.from_pretrained(own_copy)


def test_processor_cuts_at_77_tokens_unless_told_otherwise(small):
    processor = AltCLIPProcessor.from_pretrained(small[0]["m9"])
    assert processor(text=["cat " * 500]).input_ids[0][-1] == processor.tokenizer.eos_token_id
    assert len(processor(text=["cat " * 500]).input_ids[0]) == 77
    assert len(processor(text=["cat " * 500], truncation=False).input_ids[0]) > 500
    assert len(processor(text=["cat " * 500], text_kwargs={"truncation": False}).input_ids[0]) > 500


@pytest.mark.parametrize("name", [None, "mini"])
def test_mini_knows_a_cat_in_two_languages(name):
    model, processor = AltCLIP.from_pretrained(name), AltCLIPProcessor.from_pretrained(name)
    inputs = processor(text=["一只猫", "a cat"], return_tensors="pt", padding=True)
    with torch.no_grad():
        zh, en = torch.nn.functional.normalize(model.get_text_features(**inputs), dim=-1)
    assert float(zh @ en) > 0.9
