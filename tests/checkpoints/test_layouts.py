"""Every published layout becomes the stock encoder, with the outputs of the class it was published with."""

import pytest
import torch
from helpers import layouts
from safetensors.torch import load_file
from transformers import AltCLIPTextModel

from altdiffusion import InputError, load_text_encoder
from altdiffusion.checkpoints.layouts import ema_part, ldm_unet_config, text_encoder_part, to_stock
from altdiffusion.text_encoder.encoder import build_text_encoder


def token_ids(length: int = 77) -> torch.Tensor:
    """Two rows of full length, so that nothing is trimmed and comparisons can be exact."""
    ids = torch.randint(4, 160, (2, length), generator=torch.Generator().manual_seed(5))
    ids[:, 0], ids[:, -1] = 0, 2
    return ids


@pytest.mark.parametrize("kind", ["bilingual", "m9"])
@pytest.mark.parametrize("weights", ["bin", "safetensors"])
def test_bilingual_and_m9_equal_the_published_class(published, kind, weights):
    encoder, tokenizer = load_text_encoder(published(kind, weights), allow_pickle=True)
    inputs = tokenizer(list(layouts.GREETINGS.values()), padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = layouts.published_encoder(kind)(**inputs)[0]
        got = encoder(**inputs)[0]
    assert got.shape == (18, 77, 32)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("weights", ["bin", "safetensors"])
def test_m18_equals_the_published_class_exactly(published, weights):
    encoder, _ = load_text_encoder(published("m18", weights), allow_pickle=True)
    mask = torch.ones(2, 77, dtype=torch.long)
    with torch.no_grad():
        expected = layouts.published_encoder("m18")(token_ids(), attention_mask=mask)[0]
        got = encoder(token_ids(), attention_mask=mask)[0]
    assert torch.equal(got, expected)
    assert encoder.config.num_hidden_layers == 3


def test_altclip_text_tower_is_taken_as_it_is(tmp_path):
    model = layouts.save_altclip(tmp_path / "altclip")
    encoder, _ = load_text_encoder(tmp_path / "altclip")
    with torch.no_grad():
        assert torch.equal(encoder(token_ids())[0], model.text_model(token_ids())[0])


def test_altclip_m18_conditions_from_the_penultimate_layer(tmp_path):
    model = layouts.save_altclip(tmp_path / "altclip", m18=True)
    extra = load_file(tmp_path / "altclip" / "model.safetensors")
    encoder, _ = load_text_encoder(tmp_path / "altclip")
    with torch.no_grad():
        states = model.text_model(token_ids(), output_hidden_states=True).hidden_states[-2]
        weight, bias = (extra[f"text_model.transformation_pre.{name}"] for name in ("weight", "bias"))
        expected = torch.nn.functional.linear(model.text_model.pre_LN(states), weight, bias)
        assert torch.equal(encoder(token_ids())[0], expected)


def test_stock_state_stays_what_it_is(published):
    encoder, _ = load_text_encoder(published("m9"))
    settings, state = to_stock(encoder.state_dict())
    assert state.keys() == encoder.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in encoder.state_dict().items())
    assert settings["project_dim"] == 32


def test_the_result_is_a_stock_class_that_passes_the_mask(published):
    encoder, _ = load_text_encoder(published("m9"))
    assert type(encoder) is AltCLIPTextModel
    assert encoder.config.use_attention_mask is True


@pytest.mark.parametrize("kind", ["m9", "m18"])
def test_missing_tensor_is_named(kind):
    state = layouts.published_state(layouts.published_encoder(kind))
    del state["roberta.encoder.layer.1.attention.self.query.weight"]
    with pytest.raises(InputError, match=r"missing roberta\.encoder\.layers\.1\.attention\.self\.query\.weight"):
        build_text_encoder(state, what="it")


def test_left_over_tensor_is_named():
    state = layouts.published_state(layouts.published_encoder("m9")) | {"roberta.surprise.weight": torch.zeros(1)}
    with pytest.raises(InputError, match=r"left over roberta\.surprise\.weight"):
        build_text_encoder(state, what="it")


def test_wrong_shape_is_named():
    state = layouts.published_state(layouts.published_encoder("m9"))
    state["roberta.encoder.layer.0.output.dense.bias"] = torch.zeros(7)
    with pytest.raises(InputError, match=r"output\.dense\.bias is \(7,\), expected \(64,\)"):
        build_text_encoder(state, what="it")


def test_config_of_another_checkpoint_is_refused():
    state = layouts.published_state(layouts.published_encoder("m9"))
    with pytest.raises(InputError, match="hidden_size 1024"):
        build_text_encoder(state, {"hidden_size": 1024}, what="it")


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ({}, "nothing"),
        ({"text_model.encoder.layers.0.x": torch.zeros(1)}, "CLIP's own text encoder"),
        ({"cond_stage_model.transformer.x": torch.zeros(1)}, "CLIP's own text encoder"),
    ],
)
def test_no_altclip_encoder_says_what_was_found(state, found):
    with pytest.raises(InputError, match=found):
        text_encoder_part(state)


def test_plain_xlm_r_is_refused():
    state = layouts.published_state(layouts.published_encoder("m9"))
    state = {key: value for key, value in state.items() if not key.startswith("transformation")}
    with pytest.raises(InputError, match="plain XLM-R"):
        to_stock(text_encoder_part(state))


def test_ema_is_an_error_where_there_is_none():
    with pytest.raises(InputError, match="no EMA"):
        ema_part({"model.diffusion_model.out.2.weight": torch.zeros(1)})


def test_truncated_unet_names_what_is_missing():
    state = layouts.single_file_state("m9")
    del state["model.diffusion_model.out.2.weight"]
    with pytest.raises(InputError, match=r"missing model\.diffusion_model\.out\.2\.weight"):
        ldm_unet_config(state)
