"""Keywords of transformers' `from_pretrained`: each does what it does there, or is refused by its name."""

import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers.small_altclip import save_small
from transformers import AltCLIPModel

from altdiffusion import (
    AltCLIP,
    AltCLIPProcessor,
    AltDiffusionPipeline,
    InputError,
    PromptScorer,
    load_text_encoder,
    swap_text_encoder,
)
from altdiffusion.checkpoints import hub
from altdiffusion.text_encoder.bridge import load_bridge


def encoder_of(**options):
    return load_text_encoder(**options)[0]


def scorers_model(**options):
    return PromptScorer.from_pretrained(**options).model


def swapped_encoder(**options):
    return swap_text_encoder(AltDiffusionPipeline.from_pretrained(), **options).text_encoder


def bridge(**options):
    return load_bridge("mini", **options)


def bridged_encoder(**options):
    pipe = swap_text_encoder(AltDiffusionPipeline.from_pretrained("sd-mini"), bridge="mini", **options)
    return pipe.tokenizer.soft_prompts.tower


def pipelines_unet(**options):
    return AltDiffusionPipeline.from_pretrained(**options).unet


MODELS = [encoder_of, AltCLIP.from_pretrained, scorers_model, swapped_encoder, bridged_encoder]
ANYTHING = [*MODELS, AltCLIPProcessor.from_pretrained, bridge]


@pytest.mark.parametrize("load", [*MODELS, bridge, pipelines_unet])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, torch.float32),
        ({"torch_dtype": torch.float16}, torch.float16),
        ({"torch_dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": "float16"}, torch.float16),
        ({"dtype": "torch.bfloat16"}, torch.bfloat16),
        ({"dtype": None, "torch_dtype": torch.bfloat16}, torch.bfloat16),
        ({"dtype": torch.bfloat16, "torch_dtype": torch.float16}, torch.bfloat16),
    ],
)
def test_dtype_by_either_name_and_as_text(load, options, expected):
    model = load(**options)
    assert {parameter.dtype for parameter in model.parameters()} == {expected}


@pytest.mark.parametrize("load", [*MODELS, bridge, pipelines_unet])
@pytest.mark.parametrize("dtype", ["float17", "fp16", "int8", torch.int8, 16])
def test_what_is_no_dtype_is_refused(load, dtype):
    with pytest.raises(InputError, match=r"dtype=.*expected float32, float16, bfloat16"):
        load(dtype=dtype)


@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
def test_auto_is_the_dtype_that_is_stored(tmp_path, stored):
    AltCLIP.from_pretrained(dtype=stored).save_pretrained(tmp_path / "altclip")
    load_text_encoder(dtype=stored)[0].save_pretrained(tmp_path / "encoder")
    load_text_encoder()[1].save_pretrained(tmp_path / "encoder")
    bridge(dtype=stored).save_pretrained(tmp_path / "bridge")
    assert AltCLIP.from_pretrained(tmp_path / "altclip", dtype="auto").dtype == stored
    assert load_text_encoder(tmp_path / "encoder", torch_dtype="auto")[0].dtype == stored
    assert load_bridge(tmp_path / "bridge", "auto").dtype == stored


@pytest.mark.parametrize("load", MODELS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_passed_on(load, attention):
    model = load(attn_implementation=attention)
    config = getattr(model, "tower", model).config
    assert config._attn_implementation == attention
    assert getattr(config, "text_config", config)._attn_implementation == attention


@pytest.mark.parametrize("load", ANYTHING)
@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"nonsense": 1}, ["nonsense="]),
        ({"config": "another"}, ["config="]),
        ({"state_dict": {}, "from_tf": True}, ["state_dict=", "from_tf="]),
        ({"ignore_mismatched_sizes": True}, ["ignore_mismatched_sizes="]),
        ({"output_hidden_states": True}, ["output_hidden_states="]),
        ({"key_mapping": {}}, ["key_mapping="]),
        ({"revison": "main"}, ["revison=", "do you mean revision?"]),
        ({"cachedir": "x"}, ["cachedir=", "do you mean cache_dir?"]),
    ],
)
def test_what_nobody_would_read_is_refused_by_its_name(load, options, names):
    with pytest.raises(InputError) as error:
        load(**options)
    assert all(name in str(error.value) for name in names)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("load", "options"),
    [
        (encoder_of, {"size": 180}),
        (AltCLIP.from_pretrained, {"size": 180}),
        (scorers_model, {"size": 180}),
        (encoder_of, {"output_loading_info": True}),
        (scorers_model, {"output_loading_info": True}),
        (swapped_encoder, {"output_loading_info": True}),
        (AltCLIPProcessor.from_pretrained, {"torch_dtype": torch.float16}),
        (AltCLIPProcessor.from_pretrained, {"attn_implementation": "eager"}),
        (AltCLIPProcessor.from_pretrained, {"crop": 3}),
        (bridge, {"attn_implementation": "eager"}),
    ],
)
def test_what_is_for_another_class_is_refused(load, options):
    with pytest.raises(InputError, match=f"{next(iter(options))}="):
        load(**options)


@pytest.mark.parametrize("load", ANYTHING)
def test_what_is_so_anyway_and_what_the_hub_takes_do_no_harm(load):
    load(low_cpu_mem_usage=True, trust_remote_code=True, revision="main", token=None, local_files_only=True)


def test_loading_info_is_given_on_request():
    model, report = AltCLIP.from_pretrained(output_loading_info=True)
    assert isinstance(model, AltCLIP)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


@pytest.mark.parametrize("subfolder", ["altclip", "models/v2"])
def test_subfolder(tmp_path, subfolder):
    save_small(tmp_path / "small")
    folder = shutil.copytree(tmp_path / "small", tmp_path / "root" / subfolder).parents[subfolder.count("/")]
    expected = AltCLIP.from_pretrained(tmp_path / "small").state_dict()
    for load in (AltCLIP.from_pretrained, lambda *args, **kwargs: PromptScorer.from_pretrained(*args, **kwargs).model):
        got = load(folder, subfolder=subfolder).state_dict()
        assert all(torch.equal(got[name], expected[name]) for name in expected)
    encoder, tokenizer = load_text_encoder(folder, subfolder=subfolder)
    assert torch.equal(encoder.state_dict()["transformation.weight"], expected["text_model.transformation.weight"])
    assert len(tokenizer) == len(AltCLIPProcessor.from_pretrained(folder, subfolder=subfolder).tokenizer)


def test_subfolder_of_a_pipeline_as_transformers_takes_it(published):
    folder = published("m9")
    expected = load_text_encoder(folder)[0].state_dict()
    encoder, tokenizer = load_text_encoder(folder, subfolder="text_encoder")
    assert all(torch.equal(value, expected[name]) for name, value in encoder.state_dict().items())
    assert tokenizer("a cat").input_ids == load_text_encoder(folder)[1]("a cat").input_ids


@pytest.mark.parametrize("load", [AltCLIP.from_pretrained, AltCLIPProcessor.from_pretrained, encoder_of, scorers_model])
def test_subfolder_that_is_not_there(load):
    with pytest.raises(InputError, match="no folder 'nowhere' in mini"):
        load(subfolder="nowhere")


def test_bridge_in_a_subfolder(tmp_path):
    shutil.copytree(hub.mini_folder() / "bridge", tmp_path / "bridge")
    got = load_bridge(tmp_path, subfolder="bridge")
    assert torch.equal(got.queries, bridge().queries)


def test_nothing_is_changed_where_swap_refuses():
    pipe = StableDiffusionPipeline.from_pretrained(str(hub.mini_folder()))
    encoder = pipe.text_encoder
    with pytest.raises(InputError, match=r"swap_text_encoder takes no nonsense="):
        swap_text_encoder(pipe, bridge="mini", nonsense=1)
    assert pipe.text_encoder is encoder


def test_what_stock_loads_of_a_saved_model_is_the_same(tmp_path):
    AltCLIP.from_pretrained().save_pretrained(tmp_path)
    for options in ({"torch_dtype": torch.float16}, {"dtype": "bfloat16"}, {"attn_implementation": "eager"}):
        ours, stock = AltCLIP.from_pretrained(tmp_path, **options), AltCLIPModel.from_pretrained(tmp_path, **options)
        assert ours.dtype == stock.dtype
        assert ours.config._attn_implementation == stock.config._attn_implementation
