"""The bridge itself, and AltCLIP's tower behind it as one encoder."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers import layouts
from helpers.bridges import PROMPT, WIDTHS, bridged, small_bridge
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AltCLIPTextModel

from altdiffusion import (
    AltDiffusionPipeline,
    BridgedTextEncoder,
    InputError,
    choose_attention,
    load_text_encoder,
)
from altdiffusion.text_encoder.exit_bridge import ExitBridge, ExitBridgeConfig

# --- the module --------------------------------------------------------------------------------------------------------


def test_equals_torchs_decoder_layers():
    """The same weights in `nn.TransformerDecoderLayer`, and a mask that hides other tokens in each row."""
    bridge = small_bridge("xl")
    states, mask = torch.randn(2, 9, 32), torch.ones(2, 9)
    mask[0, 5:] = 0
    hidden = bridge.queries.expand(2, -1, -1)
    for layer in bridge.layers:
        torchs = nn.TransformerDecoderLayer(32, 4, 48, 0.0, "gelu", batch_first=True, norm_first=True).eval()
        state = {f"norm{i}.{part}": getattr(layer, f"norm{i}").state_dict()[part] for i in (1, 2, 3) for part in _PARTS}
        for name, attention in (("self_attn", layer.self_attention), ("multihead_attn", layer.cross_attention)):
            for part in _PARTS:
                three = [getattr(attention, kind).state_dict()[part] for kind in ("query", "key", "value")]
                state[f"{name}.in_proj_{part}"] = torch.cat(three)
                state[f"{name}.out_proj.{part}"] = attention.out.state_dict()[part]
        for name, linear in (("linear1", layer.feed_forward[0]), ("linear2", layer.feed_forward[2])):
            state |= {f"{name}.{part}": linear.state_dict()[part] for part in _PARTS}
        torchs.load_state_dict(state)
        hidden = torchs(hidden, bridge.project_in(states), memory_key_padding_mask=mask == 0)
    hidden = bridge.norm(hidden)
    output = bridge(states, mask)
    assert torch.allclose(output.last_hidden_state, bridge.project_out(hidden[:, :77]), atol=1e-5)
    assert torch.allclose(output.pooled, bridge.pool(hidden[:, 77]), atol=1e-5)


_PARTS = ("weight", "bias")


@torch.no_grad()
def test_padding_changes_nothing_and_tokens_do():
    bridge, states, mask = small_bridge(), torch.randn(1, 9, 32), torch.tensor([[1] * 5 + [0] * 4])
    expected = bridge(states[:, :5])[0]
    states[:, 5:] = 1000
    assert torch.allclose(bridge(states, mask)[0], expected, atol=1e-6)
    assert torch.allclose(bridge(states, mask.bool())[0], expected, atol=1e-6)
    states[:, 4] += 1
    assert not torch.allclose(bridge(states, mask)[0], expected, atol=1e-3)


@pytest.mark.parametrize("kind", list(WIDTHS))
def test_default_sizes_are_15_to_30_million_parameters(kind):
    with torch.device("meta"):
        bridge = ExitBridge(ExitBridgeConfig(1024, *WIDTHS[kind]))
    assert 15e6 < sum(parameter.numel() for parameter in bridge.parameters()) < 30e6


def test_every_parameter_learns():
    bridge = small_bridge("xl").train()
    output = bridge(torch.randn(2, 9, 32), torch.ones(2, 9))
    (output.last_hidden_state.square().mean() + output.pooled.square().mean()).backward()
    idle = [name for name, parameter in bridge.named_parameters() if not parameter.grad.any()]
    assert [name for name in idle if not name.endswith("key.bias")] == []  # which softmax cancels


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InputError, match="hidden_size 30 can't have 4 attention heads"):
        ExitBridgeConfig(hidden_size=30, num_attention_heads=4)


@pytest.mark.parametrize("kind", list(WIDTHS))
def test_saved_bridge_is_two_files_and_the_same(tmp_path, kind):
    bridge, states = small_bridge(kind), torch.randn(1, 9, 32)
    bridge.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again = ExitBridge.from_pretrained(tmp_path)
    for parameter in again.parameters():  # as a file lies in memory, some CPUs add up in another order
        parameter.data = parameter.data.clone()
    for got, expected in zip(again(states).to_tuple(), bridge(states).to_tuple(), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("missing", "norm.weight"),
        ("unexpected", "surprise"),
        ("mismatched", "queries"),
        ("missing", "layers.1.norm1.bias"),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_a_tensor_that_does_not_fit_is_named(published, tmp_path, change, key, whole):
    model = bridged(published).text_encoder if whole else small_bridge()
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    key = "bridge." + key if whole else key
    if change == "missing":
        del state[key]
    else:
        state[key] = torch.ones(3)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"{change} {key}"):
        type(model).from_pretrained(tmp_path)


def test_a_missing_tensor_of_the_tower_is_named(published, tmp_path):
    bridged(published).save_pretrained(tmp_path)
    file = tmp_path / "text_encoder" / "model.safetensors"
    state = load_file(file)
    del state["tower.transformation.weight"]
    save_file(state, file, metadata={"format": "pt"})
    for loader in (AltDiffusionPipeline, StableDiffusionPipeline):
        with pytest.raises(InputError, match=r"missing tower\.transformation\.weight"):
            loader.from_pretrained(tmp_path)


# --- the encoder -------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True, "ones"])
def test_trimmed_equals_untrimmed(published, masked):
    """The plain tower over all 77 tokens, and the bridge over all of its states with the mask."""
    encoder, tokenizer = load_text_encoder(published("m9"))
    plain = AltCLIPTextModel(encoder.config).eval()
    plain.load_state_dict(encoder.state_dict())
    bridge = small_bridge()
    inputs = tokenizer(["", *layouts.GREETINGS.values()], padding="max_length", return_tensors="pt")
    expected = bridge(plain(**inputs)[0], inputs.attention_mask)[0]
    ours = BridgedTextEncoder.of(encoder, bridge)
    if masked == "ones":  # padding is padding all the same
        inputs["attention_mask"] = torch.ones_like(inputs.input_ids)
    got = ours(**inputs) if masked else ours(inputs.input_ids)
    assert expected.shape == (1 + len(layouts.GREETINGS), 77, 768)
    assert torch.allclose(got[0], expected, atol=1e-4)
    assert torch.allclose(ours(inputs.input_ids[:1, :2])[0], expected[:1], atol=1e-4)


@torch.no_grad()
def test_xl_gets_both_encoders_states_and_the_pooled_vector(published):
    pipe = bridged(published, "xl")
    ids = pipe.tokenizer_2(PROMPT, return_tensors="pt").input_ids
    output = pipe.text_encoder_2(ids, output_hidden_states=True)
    expected = pipe.text_encoder_2.bridge(pipe.text_encoder_2.tower(ids)[0])
    assert torch.allclose(output[0], expected.pooled, atol=1e-5)
    assert torch.allclose(output.hidden_states[-2], expected.last_hidden_state, atol=1e-5)
    assert (output[0].shape, output.hidden_states[-2].shape) == ((1, 1280), (1, 77, 2048))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(published, dtype):
    encoder = bridged(published).text_encoder
    expected = encoder(torch.tensor([[0, 8, 2]]))[0]
    got = encoder.to(dtype)(torch.tensor([[0, 8, 2]]))[0]
    assert (encoder.dtype, got.dtype) == (dtype, dtype)
    assert (got.float() - expected).abs().max() < 0.1 * expected.abs().max()


@torch.no_grad()
def test_weights_that_an_offload_brings_in_by_hooks_are_there(published):
    from accelerate import cpu_offload

    encoder, ids = bridged(published, "xl").text_encoder_2, torch.tensor([[0, 8, 2]])
    expected = encoder(ids, output_hidden_states=True)
    cpu_offload(encoder, execution_device=torch.device("cpu"))
    assert {parameter.device.type for parameter in encoder.parameters()} == {"meta"}
    got = encoder(ids, output_hidden_states=True)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got.hidden_states[-2], expected.hidden_states[-2])


def test_attention_is_reported(published):
    assert choose_attention(bridged(published)).text_encoder.startswith("sdpa/")
    assert choose_attention(bridged(published, "xl")).text_encoder.startswith("sdpa/")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["sd1", "xl"])
@torch.no_grad()
def test_exports_with_a_dynamic_batch_and_is_exact_for_longer_prompts(published, kind):
    pipe = bridged(published, kind)
    encoder, tokenizer = (
        (pipe.text_encoder_2, pipe.tokenizer_2) if kind == "xl" else (pipe.text_encoder, pipe.tokenizer)
    )
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    example = dict(tokenizer(["a cat", "a dog"], padding="max_length", return_tensors="pt"))
    dynamic = {"input_ids": batch, "attention_mask": batch}
    graph = torch.export.export(encoder, (), example, dynamic_shapes=dynamic).module()
    for texts in ([""], ["a cat", PROMPT], list(layouts.GREETINGS.values())):
        inputs = tokenizer(texts, padding="max_length", return_tensors="pt")
        got, expected = graph(**inputs), encoder(**inputs)
        torch.testing.assert_close(got[0], expected[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(got.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=0)
        if kind == "xl":
            torch.testing.assert_close(got.hidden_states[-2], expected.hidden_states[-2], atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_traced_on_a_short_prompt_it_is_exact_for_longer_ones(published):
    pipe = bridged(published)
    example = pipe.tokenizer("a", padding="max_length", return_tensors="pt")
    graph = torch.jit.trace(
        pipe.text_encoder, (example.input_ids, example.attention_mask), strict=False, check_trace=False
    )
    for text in ("", PROMPT, *layouts.GREETINGS.values()):
        inputs = pipe.tokenizer(text, padding="max_length", return_tensors="pt")
        expected = pipe.text_encoder(**inputs)[0]
        states = graph(inputs.input_ids, inputs.attention_mask)["last_hidden_state"]
        torch.testing.assert_close(states, expected, atol=1e-4, rtol=0)
