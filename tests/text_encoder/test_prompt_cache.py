"""Prompts that are remembered: equal states, no layer run, and never anything stale."""

import copy
import pickle
import threading

import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers.bridges import bridged, draw
from transformers import AltCLIPTextModel

from altdiffusion import AltDiffusionPipeline, load_text_encoder
from altdiffusion.text_encoder.forward import disable_prompt_cache
from altdiffusion.text_encoder.prompt_cache import MAX_ROWS, PromptCache, Weights


@pytest.fixture
def loaded(published):
    return load_text_encoder(published("m9"))


class Counted:
    """How many rows went through the layers. A patched class, as a listener on the instance turns the cache off."""

    def __init__(self, monkeypatch):
        self.rows = 0
        layers = type(load_text_encoder("mini")[0].roberta.encoder)
        forward = layers.forward

        def counting(module, hidden, *args, **kwargs):
            self.rows += len(hidden)
            return forward(module, hidden, *args, **kwargs)

        monkeypatch.setattr(layers, "forward", counting)


@pytest.fixture
def counted(monkeypatch):
    return Counted(monkeypatch)


def tokens(tokenizer, *texts):
    return tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")


@torch.no_grad()
def plain(encoder, inputs, **kwargs):
    """The same weights in a transformers model that is nothing but that."""
    config = copy.deepcopy(encoder.config)
    config.vocab_size = len(encoder.get_input_embeddings().weight)
    model = AltCLIPTextModel(config).eval().to(encoder.dtype)
    model.load_state_dict(encoder.state_dict())
    return model(**inputs, **kwargs)


def assert_fresh(encoder, tokenizer, text="一只猫"):
    """What comes out now is what these weights give."""
    inputs = tokens(tokenizer, text)
    with torch.no_grad():
        torch.testing.assert_close(encoder(**inputs)[0], plain(encoder, inputs)[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_known_prompts_run_no_layer_and_give_the_same(loaded, counted):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫", "", "a cat, please")
    first = encoder(**inputs, output_hidden_states=True)
    assert counted.rows == 3
    again = encoder(**inputs, output_hidden_states=True)
    assert counted.rows == 3
    expected = plain(encoder, inputs, output_hidden_states=True)
    for output in (first, again):
        torch.testing.assert_close(output[0], expected[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(output.pooler_output, expected.pooler_output, atol=1e-5, rtol=0)
        for ours, theirs in zip(output.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert torch.equal(first[0], again[0])


@torch.no_grad()
def test_only_unknown_rows_are_computed_and_equal_ones_once(loaded, counted):
    encoder, tokenizer = loaded
    encoder(**tokens(tokenizer, ""))
    inputs = tokens(tokenizer, "", "a cat", "", "a cat", "一只猫")
    torch.testing.assert_close(encoder(**inputs)[0], plain(encoder, inputs)[0], atol=1e-5, rtol=0)
    assert counted.rows == 1 + 2 + 5  # "", the two new ones, and the five of the plain model


@torch.no_grad()
def test_a_negative_prompt_is_read_once_for_all_pictures(published, counted):
    pipe = StableDiffusionPipeline.from_pretrained(published("m9"), safety_checker=None)
    load = AltDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    load.text_encoder = load_text_encoder(published("m9"))[0]
    counted.rows = 0
    for prompt in ("一只猫", "a cat", "a cat"):
        load.encode_prompt(prompt, "cpu", 1, True, negative_prompt="")
    assert counted.rows == 3  # two prompts and ""


@torch.no_grad()
def test_many_different_rows_are_a_corpus_and_not_kept(loaded):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, *("cat " * count for count in range(MAX_ROWS + 1)))
    torch.testing.assert_close(encoder(**inputs)[0], plain(encoder, inputs)[0], atol=1e-5, rtol=0)
    assert len(encoder.forward.cache) == 0


@torch.no_grad()
def test_mask_and_hidden_states_are_part_of_the_key(loaded):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫")
    for mask in (inputs.attention_mask, torch.ones_like(inputs.input_ids)):
        torch.testing.assert_close(
            encoder(inputs.input_ids, mask)[0],
            plain(encoder, {"input_ids": inputs.input_ids, "attention_mask": mask})[0],
            atol=1e-5,
            rtol=0,
        )
    assert encoder(**inputs).hidden_states is None
    assert len(encoder(**inputs, output_hidden_states=True).hidden_states) == 5


# --- nothing stale ----------------------------------------------------------------------------------------------------


def by_optimizer(encoder):
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    with torch.enable_grad():
        encoder(torch.tensor([[0, 7, 2]]))[0].square().sum().backward()
    optimizer.step()


def through_data(encoder):
    """As peft merges a LoRA: PyTorch counts no change."""
    weight = encoder.roberta.encoder.layers[1].attention.self.query.weight
    weight.data += torch.randn_like(weight)


def by_loading(encoder):
    encoder.load_state_dict({key: value + 0.1 for key, value in encoder.state_dict().items()})


def by_new_parameters(encoder):
    encoder.load_state_dict({key: value + 0.1 for key, value in encoder.state_dict().items()}, assign=True)


def by_an_embedding(encoder):
    encoder.get_input_embeddings().weight.data += torch.randn(64)


def by_a_new_module(encoder):
    torch.manual_seed(5)
    encoder.transformation = torch.nn.Linear(64, 32)


@pytest.mark.parametrize(
    "change", [by_optimizer, through_data, by_loading, by_new_parameters, by_an_embedding, by_a_new_module]
)
def test_changed_weights_are_seen(loaded, change):
    encoder, tokenizer = loaded
    assert_fresh(encoder, tokenizer)
    before = len(encoder.forward.cache)
    change(encoder)
    assert_fresh(encoder, tokenizer)
    assert before == 1


def test_a_word_learnt_anew_is_seen(published, tmp_path):
    """Textual inversion: the same word, loaded, unloaded and loaded again with other embeddings."""
    pipe = AltDiffusionPipeline.from_pretrained(published("m9"), safety_checker=None)
    for seed in (1, 2):
        torch.manual_seed(seed)
        torch.save({"<cat>": torch.randn(64)}, tmp_path / "cat.pt")
        pipe.load_textual_inversion(str(tmp_path / "cat.pt"), token="<cat>", use_safetensors=False)
        assert_fresh(pipe.text_encoder, pipe.tokenizer, "a <cat>")
        pipe.unload_textual_inversion("<cat>")
        assert_fresh(pipe.text_encoder, pipe.tokenizer, "a <cat>")


@torch.no_grad()
def test_a_lora_is_seen_loaded_fused_and_gone(loaded):
    peft = pytest.importorskip("peft")
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫")
    without = encoder(**inputs)[0]
    encoder.add_adapter(peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False))
    loaded_one = encoder(**inputs)[0]
    layers = [module for module in encoder.modules() if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer)]
    for layer in layers:
        layer.merge()
    fused = encoder(**inputs)[0]
    for layer in layers:
        layer.unmerge()
    encoder.disable_adapters()
    off = encoder(**inputs)[0]
    encoder.delete_adapter("default")
    gone = encoder(**inputs)[0]
    assert not torch.allclose(loaded_one, without, atol=1e-3)
    torch.testing.assert_close(fused, loaded_one, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(off, without, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gone, without, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_another_dtype_is_seen(loaded):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫")
    exact = encoder(**inputs)[0]
    rough = encoder.to(torch.bfloat16)(**inputs)[0]
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)


@torch.no_grad()
def test_weights_that_are_not_there_are_not_described(loaded):
    encoder, _ = loaded
    table = encoder.get_input_embeddings().weight
    assert Weights.of(encoder, table) is not None
    assert Weights.of(encoder.to("meta"), table) is None


@torch.no_grad()
def test_who_listens_to_a_layer_is_called_each_time(loaded):
    encoder, tokenizer = loaded
    calls = []
    encoder(**tokens(tokenizer, "一只猫"))
    encoder.roberta.encoder.layers[0].register_forward_hook(lambda *args: calls.append(1))
    encoder(**tokens(tokenizer, "一只猫"))
    encoder(**tokens(tokenizer, "一只猫"))
    assert len(calls) == 2


def test_gradients_are_not_cut(loaded):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫")
    with torch.no_grad():
        encoder(**inputs)
    assert encoder(**inputs)[0].requires_grad


# --- what is kept -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_nobody_can_change_what_is_kept(loaded):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫")
    for _ in range(3):
        output = encoder(**inputs)
        torch.testing.assert_close(output[0], plain(encoder, inputs)[0], atol=1e-5, rtol=0)
        output[0].zero_()


@torch.no_grad()
def test_memory_is_bounded_and_the_least_recently_used_go_first(loaded):
    encoder, _ = loaded
    using = Weights.of(encoder, encoder.get_input_embeddings().weight)
    cache = PromptCache(max_bytes=3 * 40)
    assert cache.recall(using, ["a"]) == {}
    for key in "abc":
        cache.remember(using, {key: (torch.zeros(10),)})
    cache.recall(using, ["a"])
    cache.remember(using, {"d": (torch.zeros(10),), "too large": (torch.zeros(31),)})
    assert cache.nbytes == 120
    assert cache.recall(using, ["a", "b", "c", "d", "too large"]).keys() == {"a", "c", "d"}
    cache.forget()
    assert (len(cache), cache.nbytes) == (0, 0)


@torch.no_grad()
def test_threads_get_their_own_prompts(loaded):
    encoder, tokenizer = loaded
    texts = ["", "a cat", "一只猫", "кошка", "un chat", "un gato"]
    expected = {text: plain(encoder, tokens(tokenizer, text))[0] for text in texts}
    wrong = []

    def ask(shift):
        with torch.no_grad():  # of each thread
            for number in range(30):
                text = texts[(number * shift) % len(texts)]
                if not torch.allclose(encoder(**tokens(tokenizer, text))[0], expected[text], atol=1e-5):
                    wrong.append(text)

    threads = [threading.Thread(target=ask, args=(shift,)) for shift in (1, 5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))])
@torch.no_grad()
def test_a_copy_remembers_for_itself(loaded, twin_of):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫")
    states = encoder(**inputs)[0]
    twin = twin_of(encoder)
    assert twin.forward.encoder is twin
    assert len(twin.forward.cache) == 0
    twin.transformation.weight.zero_()
    assert torch.equal(encoder(**inputs)[0], states)
    assert not torch.allclose(twin(**inputs)[0], states)


def test_a_bridge_reads_known_prompts_without_the_tower(published, counted):
    pipe = bridged(published)
    first = draw(pipe)
    assert counted.rows == 2
    assert (draw(pipe) == first).all()
    assert counted.rows == 2


def test_training_remembers_nothing(loaded, counted):
    encoder, tokenizer = loaded
    disable_prompt_cache(encoder)
    inputs = tokens(tokenizer, "一只猫", "一只狗")
    with torch.no_grad():
        once, again = encoder(**inputs), encoder(**inputs)
    assert len(encoder.forward.cache) == 0
    assert torch.equal(once.last_hidden_state, again.last_hidden_state)
