"""EVA-02's image encoder as jina-clip-v2 has it, under the authors' names of its tensors.

Rotary positions over the patches beside learned ones, SwiGLU, a normalisation within attention and MLP; the vector of an
image is the class token's. Source: jinaai/jina-clip-implementation, eva_model.py and rope_embeddings.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6  # of its normalisations
ROTARY_BASE = 10_000.0


class EvaVision(nn.Module):
    """Pixels, float (batch, 3, side * patch, side * patch), to vectors, (batch, width)."""

    def __init__(
        self, width: int, layers: int, heads: int, inner: int, side: int, patch: int, pretrained_side: int
    ) -> None:
        """side: patches in a row. pretrained_side: the same where positions were learned, to which they are scaled."""
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, side * side + 1, width))
        self.blocks = nn.ModuleList(EvaBlock(width, heads, inner) for _ in range(layers))
        self.norm = nn.LayerNorm(width, EPSILON)
        self._rotary = width // heads, side, pretrained_side

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        hidden = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1) + self.pos_embed
        angles = rotary_angles(*self._rotary).to(pixels.device)
        for block in self.blocks:
            hidden = block(hidden, angles)
        return self.norm(hidden)[:, 0]


class EvaBlock(nn.Module):
    """A layer: attention, then SwiGLU, each normalised before and within, and added to its input."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, EPSILON), nn.LayerNorm(width, EPSILON)
        self.attn = EvaAttention(width, heads)
        layers = {"w1": nn.Linear(width, inner), "w2": nn.Linear(width, inner), "w3": nn.Linear(inner, width)}
        self.mlp = nn.ModuleDict({**layers, "ffn_ln": nn.LayerNorm(inner, EPSILON)})

    def forward(self, hidden: Tensor, angles: Tensor) -> Tensor:
        hidden = hidden + self.attn(self.norm1(hidden), angles)
        normed, mlp = self.norm2(hidden), self.mlp
        return hidden + mlp["w3"](mlp["ffn_ln"](F.silu(mlp["w1"](normed)) * mlp["w2"](normed)))


class EvaAttention(nn.Module):
    """Attention of all tokens to all; patches are rotated by their places, the class token is not. Keys have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.q_bias, self.v_bias = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        self.inner_attn_ln = nn.LayerNorm(width, EPSILON)
        self.proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor, angles: Tensor) -> Tensor:
        query = rotated(self._split(self.q_proj(hidden) + self.q_bias), angles)
        key = rotated(self._split(self.k_proj(hidden)), angles)
        value = self._split(self.v_proj(hidden) + self.v_bias)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.proj(self.inner_attn_ln(mixed))

    def _split(self, hidden: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, heads, tokens, channels)."""
        return hidden.reshape(*hidden.shape[:2], self.heads, -1).transpose(1, 2)


def rotary_angles(channels: int, side: int, pretrained_side: int) -> Tensor:
    """Float32 (side * side, channels): half of the channels turn by the row of a patch, half by its column, in pairs."""
    half = channels // 2
    speeds = ROTARY_BASE ** (-torch.arange(0, half, 2).float() / half)
    places = torch.arange(side) / side * pretrained_side
    angles = (places[:, None] * speeds).repeat_interleave(2, 1)  # (side, half)
    rows, columns = angles[:, None].expand(-1, side, -1), angles[None].expand(side, -1, -1)
    return torch.cat([rows, columns], 2).flatten(0, 1)


def rotated(tokens: Tensor, angles: Tensor) -> Tensor:
    """Tokens, (batch, heads, 1 + patches, channels), whose pairs of channels are turned, but for the first token's."""
    first, patches = tokens[:, :, :1], tokens[:, :, 1:]
    left, right = patches.reshape(*patches.shape[:3], -1, 2).unbind(4)
    crossed = torch.stack([-right, left], 4).flatten(3)
    return torch.cat([first, (patches * angles.cos() + crossed * angles.sin()).to(tokens.dtype)], 2)
