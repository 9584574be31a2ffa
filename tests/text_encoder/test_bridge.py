"""The bridge at CLIP's entrance: shapes, what it depends on, and its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from altdiffusion.errors import InputError
from altdiffusion.text_encoder.bridge import Bridge, BridgeConfig, load_bridge

SIZES = {"hidden_size": 16, "num_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "max_soft_tokens": 7}


def bridge(widths: tuple[int, ...] = (12,), **sizes: int) -> Bridge:
    torch.manual_seed(0)
    made = Bridge(BridgeConfig(8, widths, 20, **(SIZES | sizes))).eval()
    for table in made.token_embeddings:
        nn.init.normal_(table, std=0.3)
    return made


def randomized(made: Bridge) -> Bridge:
    for parameter in made.rests.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


@pytest.mark.parametrize("widths", [(12,), (12, 16)])
def test_as_many_tokens_as_asked_for_in_the_width_of_each_clip(widths):
    soft = bridge(widths)(torch.randn(3, 5, 8), lengths=torch.tensor([1, 4, 2]))
    assert [tuple(part.shape) for part in soft.embeddings] == [(3, 4, width) for width in widths]
    assert soft.word_logits.shape == (3, 4, 20)
    assert soft.length_logits.shape == (3, 7)


def test_it_finds_the_length_itself():
    soft = bridge()(torch.randn(6, 5, 8))
    assert soft.lengths.tolist() == (soft.length_logits.argmax(-1) + 1).tolist()
    assert int(soft.lengths.min()) >= 1


def test_a_new_one_gives_mixtures_of_the_vocabulary_alone():
    made = bridge((12, 16))
    soft = made(torch.randn(2, 5, 8), lengths=torch.tensor([3, 3]))
    for part, table in zip(soft.embeddings, made.token_embeddings, strict=True):
        assert torch.allclose(part, soft.word_logits.softmax(-1) @ table, atol=1e-5)
    assert soft.rest_shares.abs().max() == 0
    assert randomized(made)(torch.randn(2, 5, 8)).rest_shares.min() > 0


def test_a_text_is_read_alike_alone_and_beside_longer_ones():
    made, states = randomized(bridge()), torch.randn(2, 6, 8)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1] * 6])
    together = made(states, mask, lengths=torch.tensor([2, 5]))
    alone = made(states[:1, :3], lengths=torch.tensor([2]))
    assert torch.allclose(together.embeddings[0][0, :2], alone.embeddings[0][0], atol=1e-5)
    assert torch.allclose(together.length_logits[0], alone.length_logits[0], atol=1e-5)


def test_another_clips_table_is_mixed_where_it_is_given_and_its_own_can_be_dropped():
    made, states, lengths = randomized(bridge()), torch.randn(1, 4, 8), torch.tensor([3])
    own = [table.detach().clone() for table in made.token_embeddings]
    expected = made(states, lengths=lengths).embeddings[0]
    made.drop_token_embeddings()
    assert not any(name.startswith("token_embeddings") for name in made.state_dict())
    assert torch.equal(made(states, lengths=lengths, token_embeddings=own).embeddings[0], expected)
    tuned = [table + 0.1 * torch.randn_like(table) for table in own]
    assert not torch.allclose(made(states, lengths=lengths, token_embeddings=tuned).embeddings[0], expected)


def test_half_precision_is_near():
    made, states, lengths = randomized(bridge()), torch.randn(1, 4, 8), torch.tensor([3])
    expected = made(states, lengths=lengths).embeddings[0]
    half = made.to(torch.bfloat16)(states.bfloat16(), lengths=lengths).embeddings[0]
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), expected, atol=0.05)


def test_saved_and_loaded(tmp_path: Path):
    made, states = randomized(bridge((12, 16))), torch.randn(2, 5, 8)
    made.config.languages = ["zh", "ja"]
    made.save_pretrained(tmp_path)
    loaded = load_bridge(tmp_path)
    assert isinstance(loaded, Bridge)
    assert loaded.config.languages == ["zh", "ja"]
    assert loaded.config.embedding_widths == [12, 16]
    for ours, theirs in zip(made(states).embeddings, loaded(states).embeddings, strict=True):
        assert torch.equal(ours, theirs)
    copy = load_bridge(loaded)
    assert copy is not loaded
    assert torch.equal(copy(states).embeddings[0], made(states).embeddings[0])


@pytest.mark.parametrize("lost", ["queries", "token_embeddings.0", "layers.0.cross_attention.key.weight"])
def test_a_tensor_that_is_missing_is_named(tmp_path: Path, lost: str):
    bridge().save_pretrained(tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    del tensors[lost]
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"missing {lost}"):
        load_bridge(tmp_path)


def test_sizes_that_do_not_fit_are_one_line():
    with pytest.raises(InputError, match="hidden_size 16 can't have 3 attention heads"):
        BridgeConfig(**(SIZES | {"num_attention_heads": 3}))
