"""What bridges are built of: transformer decoder layers, and models that load exactly the tensors they need."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from altdiffusion.errors import InputError


class ExactModel(PreTrainedModel):
    """Loads safetensors alone, and exactly the tensors it needs: transformers only reports those it made up."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers. dtype: float32 by default. Raises InputError that names a missing or left-over tensor."""
        with_report = kwargs.pop("output_loading_info", False)
        kwargs["dtype"] = kwargs.get("dtype") or kwargs.pop("torch_dtype", None) or torch.float32
        kwargs |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        model, report = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        for kind in ("missing", "unexpected", "mismatched"):
            if names := sorted(str(key[0] if isinstance(key, tuple) else key) for key in report[f"{kind}_keys"]):
                raise InputError(
                    f"the tensors in {pretrained_model_name_or_path} do not fit its config.json: "
                    f"{kind} {', '.join(names[:4])}"
                )
        return (model, report) if with_report else model


class DecoderLayer(nn.Module):
    """A pre-norm transformer decoder layer, as `nn.TransformerDecoderLayer(norm_first=True, activation="gelu")`."""

    def __init__(self, width: int, heads: int, intermediate: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.cross_attention = Attention(width, heads)
        self.feed_forward = nn.Sequential(nn.Linear(width, intermediate), nn.GELU(), nn.Linear(intermediate, width))

    def forward(self, hidden: Tensor, memory: Tensor, mask: Tensor | None, own_mask: Tensor | None = None) -> Tensor:
        """hidden: (batch, queries, width); memory: (batch, tokens, width); masks of memory and queries: see `Attention`."""
        normed = self.norm1(hidden)
        hidden = hidden + self.self_attention(normed, normed, own_mask)
        hidden = hidden + self.cross_attention(self.norm2(hidden), memory, mask)
        return hidden + self.feed_forward(self.norm3(hidden))


class Attention(nn.Module):
    """Multi-head attention of plain Linears.

    `nn.MultiheadAttention` takes its output layer's weight without calling the layer, so an offload's hooks, which bring
    weights in when a layer is called, would come too late.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, hidden: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """hidden: (batch, queries, width); memory: (batch, tokens, width); mask: True where to attend, broadcast."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(hidden), self.key(memory), self.value(memory))
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))


def check_heads(hidden_size: int, num_attention_heads: int) -> None:
    """Raise InputError unless the width is shared evenly by the heads."""
    if hidden_size % num_attention_heads:
        raise InputError(
            f"a bridge of hidden_size {hidden_size} can't have {num_attention_heads} attention heads: "
            "expected a divisor of it"
        )


def check_altclip(bridge: Any, tower: Any) -> None:
    """Raise InputError unless a bridge reads states of the width that this text tower of AltCLIP gives."""
    if bridge.config.input_width != tower.config.project_dim:
        raise InputError(
            f"this bridge reads text states of width {bridge.config.input_width}, this AltCLIP gives "
            f"{tower.config.project_dim}: take the bridge that was trained for it (1024 belongs to m18, 768 to the others)"
        )
