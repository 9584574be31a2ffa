"""Packed weights give the same states, notice every change, and leave no trace in what is saved."""

import copy
import logging
import pickle

import pytest
import torch
from torch import nn

import altdiffusion.speed.packed_linear as module
from altdiffusion import load_text_encoder
from altdiffusion.forward_override import find
from altdiffusion.speed.optimize import has_amx
from altdiffusion.speed.packed_linear import PackedLinear, pack


@pytest.fixture(autouse=True)
def untried():
    """No test knows what another found this CPU to be able to."""
    module.why_not_packed.cache_clear()
    yield
    module.why_not_packed.cache_clear()


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(48, 40)


def packs(linear, monkeypatch):
    """Counts how often weights are packed."""
    counted, pack_weight = [], module.pack_weight
    monkeypatch.setattr(module, "pack_weight", lambda weight: counted.append(weight.shape) or pack_weight(weight))
    pack(linear)
    counted.clear()  # the trial
    return counted


@torch.no_grad()
@pytest.mark.parametrize("shape", [(48,), (1, 48), (15, 48), (2, 77, 48), (0, 48), (3, 1, 5, 48)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_the_same_for_any_number_of_rows(shape, bias):
    torch.manual_seed(0)
    linear, rows = nn.Linear(48, 40, bias=bias), torch.randn(shape)
    expected = linear(rows)
    pack(linear)
    torch.testing.assert_close(linear(rows), expected, atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.skipif(not has_amx(), reason="needs a CPU with AMX")
def test_bfloat16_is_the_same_too(linear):
    rows = torch.randn(15, 48, dtype=torch.bfloat16)
    expected = linear.bfloat16()(rows)
    pack(linear)
    torch.testing.assert_close(linear(rows), expected)


@torch.no_grad()
def test_a_cpu_without_kernels_for_bfloat16_computes_as_before(linear, monkeypatch):
    pack_weight = module.pack_weight

    def float32_alone(weight):
        if weight.dtype == torch.bfloat16:
            raise RuntimeError("bf16 path needs the cpu support avx512bw")
        return pack_weight(weight)

    monkeypatch.setattr(module, "pack_weight", float32_alone)
    rows = torch.randn(15, 48)
    expected = nn.Linear.forward(linear, rows), nn.Linear.forward(copy.deepcopy(linear).bfloat16(), rows.bfloat16())
    pack(linear)
    torch.testing.assert_close(linear(rows), expected[0], atol=1e-6, rtol=0)
    assert torch.equal(linear.bfloat16()(rows.bfloat16()), expected[1])


@torch.no_grad()
def test_weights_are_packed_once_and_again_when_they_change(linear, monkeypatch):
    counted, rows = packs(linear, monkeypatch), torch.randn(15, 48)
    linear(rows), linear(rows)
    assert len(counted) == 1
    changes = [
        lambda: linear.weight.mul_(2),
        lambda: linear.weight.data.mul_(2),  # not counted by PyTorch
        lambda: setattr(linear.weight, "data", torch.randn(40, 48)),
        lambda: setattr(linear, "weight", nn.Parameter(torch.randn(40, 48))),
        lambda: linear.load_state_dict({"weight": torch.randn(40, 48), "bias": torch.randn(40)}),
        lambda: linear.bias.add_(1),
        lambda: linear.double(),
    ]
    for change in changes:
        change()
        rows = rows.to(linear.weight.dtype)
        torch.testing.assert_close(linear(rows), nn.functional.linear(rows, linear.weight, linear.bias))
    assert len(counted) == 6  # the bias is not packed, and float64 never is


def test_gradients_go_the_plain_way(linear, monkeypatch):
    counted = packs(linear, monkeypatch)
    linear(torch.randn(3, 48)).sum().backward()
    assert linear.weight.grad is not None
    assert counted == []


@torch.no_grad()
def test_autocast_and_weights_of_inference_mode_go_the_plain_way(linear, monkeypatch):
    counted = packs(linear, monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.randn(3, 48)).dtype == torch.bfloat16
    with torch.inference_mode():
        linear.weight = nn.Parameter(torch.randn(40, 48), requires_grad=False)
        linear(torch.randn(3, 48))
    assert counted == []


@torch.no_grad()
@pytest.mark.parametrize("twin", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_computes_with_its_own_weights(linear, twin):
    rows = torch.randn(15, 48)
    pack(linear)
    before = linear(rows)
    other = twin(linear)
    assert find(other, PackedLinear).model is other
    other.weight.zero_()
    assert (other(rows) == other.bias).all()
    assert (linear(rows) == before).all()


@torch.no_grad()
def test_an_encoder_gives_the_same_states_and_saves_as_stock(tmp_path):
    encoder, tokenizer = load_text_encoder()
    ids = tokenizer(["一只猫", "a cat"], padding="max_length", return_tensors="pt")
    expected, names = encoder(**ids).last_hidden_state, set(encoder.state_dict())
    pack(encoder)
    assert sum(find(module, PackedLinear) is not None for module in encoder.modules()) > 20
    torch.testing.assert_close(encoder(**ids).last_hidden_state, expected, atol=1e-5, rtol=0)
    assert set(encoder.state_dict()) == names
    encoder.save_pretrained(tmp_path)
    again = type(encoder).from_pretrained(tmp_path)
    assert not any("forward" in vars(module) for module in again.modules())


def test_where_pytorch_can_not_it_is_said_and_nothing_changes(linear, monkeypatch, caplog):
    def missing(weight):
        raise AttributeError("no attribute '_reorder_linear_weight'")

    monkeypatch.setattr(module, "pack_weight", missing)
    with caplog.at_level(logging.WARNING):
        pack(linear)
    assert "can't be packed here" in caplog.text
    assert "forward" not in vars(linear)
