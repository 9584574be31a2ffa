"""What the patched encoder computes: equal rows once, whatever its weights are now, and as the class in captured graphs."""

import copy
import pickle
import threading

import accelerate
import pytest
import torch
from transformers import AltCLIPTextModel

from altdiffusion import AltDiffusionPipeline, load_text_encoder
from altdiffusion.forward_override import find
from altdiffusion.speed.packed_linear import pack
from altdiffusion.text_encoder.forward import TrimmedForward


@pytest.fixture
def loaded(published):
    return load_text_encoder(published("m9"))


class Counted:
    """How many rows went through the layers."""

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
@pytest.mark.parametrize(
    ("texts", "computed"),
    [
        (("", "a cat", "", "a cat", "一只猫"), 3),
        (("a cat",) * 5, 1),
        (("a cat", "a dog"), 2),
        (tuple("cat " * (count % 30) for count in range(60)), 30),
    ],
)
def test_equal_rows_are_computed_once(loaded, counted, texts, computed):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, *texts)
    output = encoder(**inputs, output_hidden_states=True)
    assert counted.rows == computed
    expected = plain(encoder, inputs, output_hidden_states=True)
    torch.testing.assert_close(output[0], expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.pooler_output, expected.pooler_output, atol=1e-5, rtol=0)
    for ours, theirs in zip(output.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@torch.no_grad()
def test_masks_and_hidden_states_are_as_asked_for(loaded):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫")
    for mask in (inputs.attention_mask, inputs.attention_mask * (torch.arange(77) != 2)):
        torch.testing.assert_close(
            encoder(inputs.input_ids, mask)[0],
            plain(encoder, {"input_ids": inputs.input_ids, "attention_mask": mask})[0],
            atol=1e-5,
            rtol=0,
        )
    assert encoder(**inputs).hidden_states is None
    assert len(encoder(**inputs, output_hidden_states=True).hidden_states) == 5


@torch.no_grad()
def test_rows_that_differ_in_their_masks_alone_are_two(loaded, counted):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫", "一只猫")
    inputs["attention_mask"][1, 2] = 0
    output = encoder(**inputs)
    assert counted.rows == 2
    torch.testing.assert_close(output[0], plain(encoder, inputs)[0], atol=1e-5, rtol=0)


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


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "change", [by_optimizer, through_data, by_loading, by_new_parameters, by_an_embedding, by_a_new_module]
)
def test_changed_weights_are_seen(loaded, change, packed):
    encoder, tokenizer = loaded
    if packed:
        pack(encoder)
    assert_fresh(encoder, tokenizer)
    change(encoder)
    assert_fresh(encoder, tokenizer)


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


@torch.no_grad()
def test_a_modules_own_flag_is_obeyed(loaded):
    """peft's ModulesToSaveWrapper: which of two modules computes is no tensor's affair."""
    ModulesToSaveWrapper = pytest.importorskip("peft.utils.other").ModulesToSaveWrapper
    encoder, tokenizer = loaded
    wrapper = encoder.transformation = ModulesToSaveWrapper(encoder.transformation, "default")
    torch.nn.init.normal_(wrapper.modules_to_save["default"].weight)
    for text in ("", "a cat", "一只猫"):
        inputs = tokens(tokenizer, text)
        states = {}
        for enabled in (True, False):
            wrapper.enable_adapters(enabled)
            states[enabled] = encoder(**inputs)[0]
            expected = type(encoder).forward(encoder, **inputs)[0]
            torch.testing.assert_close(states[enabled], expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(states[True], states[False], atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("texts", [("a cat",), ("a cat", "a cat"), ("", "一只猫", "")])
def test_dropout_at_inference_differs_from_row_to_row(loaded, texts):
    """Monte Carlo dropout: the encoder is in eval mode, only its dropout is not."""
    encoder, tokenizer = loaded
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
            module.train()
    inputs = tokens(tokenizer, *texts)
    first, second = encoder(**inputs)[0], encoder(**inputs)[0]
    assert not torch.equal(first, second)
    assert len(first.flatten(1).unique(dim=0)) == len(texts)
    torch.manual_seed(1)
    ours = encoder(**inputs)[0]
    torch.manual_seed(1)
    assert torch.equal(ours, type(encoder).forward(encoder, **inputs)[0])


# --- threads and copies ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_threads_get_their_own_prompts(loaded):
    encoder, tokenizer = loaded
    texts = ["", "a cat", "一只猫", "кошка", "un chat", "un gato"]
    expected = {text: plain(encoder, tokens(tokenizer, text))[0] for text in texts}
    wrong = []

    def ask(shift):
        with torch.no_grad():  # of each thread
            for index in range(30):
                text = texts[(index * shift) % len(texts)]
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
def test_a_copy_computes_with_its_own_weights(loaded, twin_of):
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, "一只猫")
    states = encoder(**inputs)[0]
    twin = twin_of(encoder)
    assert find(twin, TrimmedForward).model is twin
    twin.transformation.weight.zero_()
    assert torch.equal(encoder(**inputs)[0], states)
    assert not torch.allclose(twin(**inputs)[0], states)


# --- captured graphs ---------------------------------------------------------------------------------------------------

TEXTS = ("", "a cat", "一只可爱的熊猫坐在蓝色背景上的火箭里，旁边是红苹果和一只猫", "cat " * 90)


class States(torch.nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, ids, mask):
        return self.encoder(ids, mask)[0]


class StatesWithoutMask(States):
    def forward(self, ids, mask):
        return self.encoder(ids)[0]


def traced(module, example):
    return torch.jit.trace(module, example, check_trace=False)


def traced_without_gradients(module, example):
    with torch.no_grad():
        return torch.jit.trace(module, example, check_trace=False)


def exported(module, example):
    with torch.no_grad():
        return torch.export.export(module, example).module()


def exported_strictly(module, example):
    with torch.no_grad():
        return torch.export.export(module, example, strict=True).module()


def compiled(module, example):
    return torch.compile(module, backend="eager", fullgraph=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [States, StatesWithoutMask])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("capture", [traced, traced_without_gradients, exported, exported_strictly, compiled])
def test_a_graph_captured_on_a_short_prompt_is_exact_for_others(loaded, capture, packed, kind):
    encoder, tokenizer = loaded
    if packed:
        pack(encoder)
    example = tokens(tokenizer, "a cat")
    graph = capture(kind(encoder), (example.input_ids, example.attention_mask))
    for text in TEXTS:
        inputs = tokens(tokenizer, text)
        with torch.no_grad():
            states = graph(inputs.input_ids, inputs.attention_mask)
        torch.testing.assert_close(states, plain(encoder, inputs)[0], atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_exports_with_a_dynamic_batch(loaded):
    encoder, tokenizer = loaded
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    example = dict(tokens(tokenizer, "a cat", "a dog"))
    dynamic = {"input_ids": batch, "attention_mask": batch}
    with torch.no_grad():
        graph = torch.export.export(encoder, (), example, dynamic_shapes=dynamic).module()
        for count in (1, 3, 5):
            inputs = tokens(tokenizer, *(TEXTS * 2)[:count])
            states = graph(**inputs)[0]
            torch.testing.assert_close(states, plain(encoder, inputs)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("text", TEXTS)
def test_accelerate_can_wrap_and_unwrap(loaded, text):
    """`unwrap_model(keep_fp32_wrapper=False)` binds what it takes for a function to the model."""
    encoder, tokenizer = loaded
    inputs = tokens(tokenizer, text)
    accelerate.state.AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    with torch.no_grad():
        expected = encoder(**inputs)[0]
        prepared = accelerator.prepare(encoder)
        rough = prepared(**inputs)[0]
        torch.testing.assert_close(rough.float(), expected, atol=0.1, rtol=0.1)
        unwrapped = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
        assert torch.equal(unwrapped(**inputs)[0], expected)
        assert find(unwrapped, TrimmedForward) is not None
    accelerate.state.AcceleratorState._reset_state(True)


@pytest.mark.parametrize(
    ("ids", "mask"),
    [
        ((0, 77), None), ((0, 77), (0, 77)), ((2, 0), (2, 0)), ((2, 9), (2, 5)), ((2, 9), (1, 9)), ((2, 9), (3, 9)),
        ((2, 9), (9,)), ((2, 9), (2, 9, 1)), ((0, 9), (2, 9)),
    ],
)  # fmt: skip
def test_empty_batches_and_masks_of_another_shape_are_what_they_are_in_transformers(loaded, ids, mask):
    encoder, _ = loaded
    inputs = {"input_ids": torch.full(ids, 5)} | ({} if mask is None else {"attention_mask": torch.ones(mask).long()})

    def outcome(call):
        try:
            return call().last_hidden_state
        except Exception as error:
            return type(error), str(error)

    with torch.no_grad():
        ours, theirs = outcome(lambda: encoder(**inputs)), outcome(lambda: plain(encoder, inputs))
    if isinstance(theirs, torch.Tensor):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    else:
        assert ours == theirs
