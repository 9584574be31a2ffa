"""The error of a bridge's soft tokens: zero for equal states, beside the scale of CLIP's embeddings, bridge untouched."""

from __future__ import annotations

import pytest
import torch

from altdiffusion.text_encoder.bridge import Bridge, BridgeConfig
from altdiffusion.training.inputs.clip_states import stack_states
from altdiffusion.training.losses.soft_tokens import same_words, soft_token_error

SIZES = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(params=[[8], [8, 12]], ids=["one CLIP", "two CLIPs"])
def bridge(request: pytest.FixtureRequest) -> Bridge:
    torch.manual_seed(1)
    config = BridgeConfig(input_width=6, embedding_widths=request.param, vocab_size=30, max_soft_tokens=5, **SIZES)
    model = Bridge(config)
    model.set_token_embeddings([torch.randn(30, width) for width in request.param])
    return model.eval().requires_grad_(False)


def states(*lengths: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return stack_states([torch.randn(length, 6, generator=generator) for length in lengths])


def test_equal_states_have_no_error_however_they_are_padded(bridge):
    given, mask = states(3, 5)
    longer = torch.cat([given, torch.full((2, 2, 6), 9.0)], 1), torch.cat([mask, torch.zeros(2, 2).bool()], 1)
    assert soft_token_error(bridge, *longer, given, mask).item() == pytest.approx(0, abs=1e-10)
    same, count = same_words(bridge, *longer, given, mask)
    assert same == count > 0


def test_it_is_the_mean_over_texts_each_by_itself(bridge):
    given, wanted = states(3, 5, seed=2), states(4, 2, seed=3)
    both = soft_token_error(bridge, *given, *wanted)
    each = [
        soft_token_error(bridge, *(part[row : row + 1] for part in (*given, *wanted))) for row in range(len(given[0]))
    ]
    torch.testing.assert_close(both, torch.stack(each).mean())
    assert both > 0


def test_the_given_states_alone_get_a_gradient(bridge):
    given, mask = states(3, 5, seed=2)
    wanted, wanted_mask = states(4, 2, seed=3)
    given.requires_grad_()
    wanted.requires_grad_()
    soft_token_error(bridge, given, mask, wanted, wanted_mask).backward()
    assert given.grad is not None
    assert given.grad[mask].abs().sum() > 0
    assert wanted.grad is None
    assert all(parameter.grad is None for parameter in bridge.parameters())
