"""The encoder in use: trimmed with equal output, clip_skip, eighteen languages, dtypes, compile, LoRA."""

import copy
import logging
import unicodedata

import accelerate
import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers import layouts
from transformers import AltCLIPTextModel

from altdiffusion import InputError, load_text_encoder
from altdiffusion.text_encoder.forward import patch_forward
from altdiffusion.text_encoder.tokenizer import load_tokenizer


@pytest.fixture
def loaded(published):
    return load_text_encoder(published("m9"))


def tokens(tokenizer, *texts):
    return tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")


def untrimmed(encoder):
    """The same weights in a plain transformers model, without our hooks."""
    plain = AltCLIPTextModel(encoder.config).eval()
    plain.load_state_dict(encoder.state_dict())
    return plain


@pytest.mark.parametrize("texts", [("",), ("一只猫",), ("a cat", "", "黑暗精灵公主"), ("cat " * 90,)])
def test_trimmed_states_equal_untrimmed_ones_in_every_layer(loaded, texts):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, *texts)
    with torch.no_grad():
        got = encoder(**inputs, output_hidden_states=True)
        expected = untrimmed(encoder)(**inputs, output_hidden_states=True)
    torch.testing.assert_close(got[0], expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(got.pooler_output, expected.pooler_output, atol=1e-5, rtol=0)
    for ours, theirs in zip(got.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_only_real_tokens_and_one_of_padding_are_computed(loaded):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫", "a")
    lengths = []
    encoder.roberta.embeddings.register_forward_hook(lambda module, args, output: lengths.append(output.shape[1]))
    encoder(**inputs)
    assert lengths == [int(inputs.attention_mask.sum(1).max()) + 1]


def test_mask_is_derived_where_a_pipeline_passes_none(loaded):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫")
    with torch.no_grad():
        assert torch.equal(encoder(inputs.input_ids)[0], encoder(**inputs)[0])


@pytest.mark.parametrize("texts", [("一只猫",), ("a cat", "", "cat " * 90)])
@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.float32])
@pytest.mark.parametrize("training", [False, True])
def test_padding_is_padding_where_the_mask_is_all_ones(loaded, texts, dtype, training):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, *texts)
    ones = torch.ones_like(inputs.input_ids, dtype=dtype)
    with torch.no_grad():
        expected = untrimmed(encoder)(**inputs)[0]
        got = encoder.train(training)(inputs.input_ids, ones)[0]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_a_mask_hides_real_tokens_too(loaded):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "a cat on a mat", "一只猫")
    inputs.attention_mask[0, 2:4] = 0
    with torch.no_grad():
        torch.testing.assert_close(encoder(**inputs)[0], untrimmed(encoder)(**inputs)[0], atol=1e-5, rtol=0)


def test_tuples_are_given_on_request(loaded):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫")
    with torch.no_grad():
        output = encoder(**inputs, return_dict=False)
        assert isinstance(output, tuple)
        torch.testing.assert_close(output[0], encoder(**inputs)[0], atol=1e-5, rtol=0)


def test_equipping_twice_changes_nothing(loaded):
    encoder, _ = loaded
    forward = encoder.forward
    assert patch_forward(encoder) is encoder
    assert encoder.forward is forward


def test_state_dict_and_config_stay_stock(loaded, tmp_path):
    encoder, _ = loaded
    assert encoder.state_dict().keys() == untrimmed(encoder).state_dict().keys()
    encoder.save_pretrained(tmp_path)
    _, report = AltCLIPTextModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report


def test_copy_works_on_its_own(loaded):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫")
    twin = copy.deepcopy(encoder)
    with torch.no_grad():
        twin.transformation.weight.zero_()
        skipped = twin.text_model.final_layer_norm(twin(**inputs, output_hidden_states=True)[-1][-2])
        assert torch.allclose(skipped, twin.transformation.bias.expand_as(skipped))
        assert not torch.allclose(encoder(**inputs)[0], twin(**inputs)[0])


def test_clip_skip_takes_an_earlier_layer_through_norm_and_projection(published, loaded):
    encoder, tokenizer = loaded
    pipe = StableDiffusionPipeline.from_pretrained(published("m9"), text_encoder=encoder, tokenizer=tokenizer)
    got, _ = pipe.encode_prompt("一只猫", "cpu", 1, False, clip_skip=1)
    with torch.no_grad():
        plain = untrimmed(encoder)
        layers = plain(**tokens(tokenizer, "一只猫"), output_hidden_states=True).hidden_states
        expected = plain.transformation(plain.pre_LN(layers[-2]))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("language", list(layouts.GREETINGS))
def test_prompts_in_all_eighteen_languages_tokenize(loaded, language):
    _, tokenizer = loaded
    ids = tokens(tokenizer, layouts.GREETINGS[language]).input_ids[0]
    assert ids.shape == (77,)
    assert tokenizer.unk_token_id not in ids
    # XLM-R's tokenizer normalises: a full-width comma becomes a plain one
    assert tokenizer.decode(ids, skip_special_tokens=True) == unicodedata.normalize("NFKC", layouts.GREETINGS[language])


@pytest.mark.parametrize("language", list(layouts.GREETINGS))
def test_long_prompts_are_cut_at_77_and_what_was_cut_is_shown(published, loaded, language, caplog):
    encoder, tokenizer = loaded
    pipe = StableDiffusionPipeline.from_pretrained(published("m9"), text_encoder=encoder, tokenizer=tokenizer)
    logging.getLogger("diffusers").propagate = True
    with caplog.at_level(logging.WARNING):
        states, _ = pipe.encode_prompt(layouts.GREETINGS[language] + " cat" * 90 + " 一只猫", "cpu", 1, False)
    assert states.shape == (1, 77, 32)
    assert "cat 一只猫" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(published, loaded, dtype):
    encoder, tokenizer = load_text_encoder(published("m9"), dtype=dtype)
    inputs = tokens(tokenizer, "一只猫")
    with torch.no_grad():
        got, expected = encoder(**inputs)[0], loaded[0](**inputs)[0]
    assert got.dtype == dtype
    assert (got.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_device_map(published):
    encoder, tokenizer = load_text_encoder(published("m9"), device_map="auto")
    with torch.no_grad():
        assert encoder(**tokens(tokenizer, "一只猫").to(encoder.device))[0].shape == (1, 77, 32)


def test_cpu_offload_does_not_disturb_the_hooks(loaded):
    """accelerate's offload wraps every module's forward and leaves the weights on the meta device between calls."""
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫")
    with torch.no_grad():
        expected = encoder(**inputs)[0]
        accelerate.cpu_offload(encoder, execution_device=torch.device("cpu"))
        assert encoder.device.type == "meta"
        torch.testing.assert_close(encoder(**inputs)[0], expected)


def test_compiled_encoder_gives_the_same(loaded):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫")
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(**inputs)[0], encoder(**inputs)[0], atol=1e-5, rtol=0)


def test_gradients_flow_with_checkpointing(loaded):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫")

    def gradient(checkpointing):
        encoder.zero_grad()
        encoder.train()
        (encoder.gradient_checkpointing_enable if checkpointing else encoder.gradient_checkpointing_disable)()
        encoder(**inputs)[0].square().sum().backward()
        return encoder.roberta.encoder.layers[0].attention.self.query.weight.grad.clone()

    torch.testing.assert_close(gradient(True), gradient(False))


def test_gradients_flow_through_trimmed_padding(loaded):
    """In eval mode, as textual inversion trains: the same gradient as without trimming."""
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫")
    plain = untrimmed(encoder)
    for model in (encoder, plain):
        model(**inputs)[0].square().sum().backward()
    ours, theirs = (model.roberta.embeddings.word_embeddings.weight.grad for model in (encoder, plain))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_peft_lora_on_the_tower(loaded):
    peft = pytest.importorskip("peft")
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫")
    before = encoder(**inputs)[0].detach()
    encoder.add_adapter(peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False))
    assert not torch.allclose(encoder(**inputs)[0], before)
    encoder.disable_adapters()
    torch.testing.assert_close(encoder(**inputs)[0], before)


def test_single_file_without_tokenizer_says_what_to_pass(tmp_path):
    (tmp_path / "x.safetensors").touch()
    with pytest.raises(InputError, match="--tokenizer"):
        load_tokenizer(tmp_path / "x.safetensors")


def test_folder_without_tokenizer_says_what_was_expected(tmp_path):
    with pytest.raises(InputError, match=r"expected tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_damaged_tokenizer_is_one_clear_line(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="can't be read"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["no/such/model", "nonsense", "../nowhere", "missing.safetensors"])
def test_unknown_model_says_what_was_expected(name):
    with pytest.raises(InputError, match="unknown model"):
        load_text_encoder(name)


def test_unreachable_hub_is_one_clear_line():
    with pytest.raises(InputError, match="can't be reached"):
        load_text_encoder("BAAI/AltDiffusion-m9")
