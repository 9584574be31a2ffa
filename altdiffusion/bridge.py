"""The bridge: AltCLIP's token states to CLIP's, so that any Stable Diffusion reads every language of AltCLIP.

A UNet that was trained with CLIP keeps all it has: its weights, LoRAs, ControlNets. `Bridge` gives it what CLIP would
have given for the English caption: learned queries, one for each of CLIP's 77 positions, attend to AltCLIP's states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from altdiffusion.errors import InputError


class BridgeConfig(PreTrainedConfig):
    """What a bridge is made of; the defaults stand between AltCLIP (768) and Stable Diffusion 1.x, 25M parameters.

    input_width: of AltCLIP's text states (`project_dim`): 1024 for m18, 768 for the others.
    output_width: of CLIP's states: 768 for Stable Diffusion 1.x, 1024 for 2.x, 2048 for XL, whose two encoders' states
        (768 + 1280) are given side by side.
    pooled_width: of the vector that XL takes besides (1280), 0 for none.
    num_queries: the number of CLIP's states.
    target: which of CLIP's states it learnt, "last_hidden_state" or "penultimate"; for the reader, nothing depends on it.
    Raises InputError unless hidden_size is a multiple of num_attention_heads.
    """

    model_type = "altdiffusion_bridge"

    def __init__(
        self,
        input_width: int = 768,
        output_width: int = 768,
        pooled_width: int = 0,
        num_queries: int = 77,
        hidden_size: int = 768,
        num_layers: int = 3,
        num_attention_heads: int = 12,
        intermediate_size: int = 2048,
        target: str = "last_hidden_state",
        **kwargs: Any,
    ) -> None:
        if hidden_size % num_attention_heads:
            raise InputError(
                f"a bridge of hidden_size {hidden_size} can't have {num_attention_heads} attention heads: "
                "expected a divisor of it"
            )
        self.input_width = input_width
        self.output_width = output_width
        self.pooled_width = pooled_width
        self.num_queries = num_queries
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.target = target
        super().__init__(**kwargs)


@dataclass
class BridgeOutput(ModelOutput):
    """last_hidden_state: (batch, num_queries, output_width). pooled: (batch, pooled_width), or None without one."""

    last_hidden_state: Tensor | None = None
    pooled: Tensor | None = None


class _Exact(PreTrainedModel):
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


class Bridge(_Exact):
    """Learned queries that cross-attend to AltCLIP's token states in pre-norm transformer decoder layers."""

    config_class = BridgeConfig
    main_input_name = "states"

    def __init__(self, config: BridgeConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.project_in = nn.Linear(config.input_width, width)
        self.queries = nn.Parameter(torch.randn(config.num_queries + bool(config.pooled_width), width) / width**0.5)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width,
                config.num_attention_heads,
                config.intermediate_size,
                dropout=0.0,
                activation="gelu",
                norm_first=True,
                batch_first=True,
            )
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.project_out = nn.Linear(width, config.output_width)
        self.pool = nn.Linear(width, config.pooled_width) if config.pooled_width else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the parameters begin as torch made them."""

    def forward(self, states: Tensor, attention_mask: Tensor | None = None) -> BridgeOutput:
        """Translate text states.

        states: (batch, tokens, input_width), AltCLIP's. attention_mask: (batch, tokens), 1 or True for real tokens, of
        which each row needs one; by default all are. What stands at the others changes nothing.
        """
        memory = self.project_in(states)
        padding = None if attention_mask is None else ~attention_mask.bool()
        hidden = self.queries.expand(len(states), -1, -1)
        for layer in self.layers:
            hidden = layer(hidden, memory, memory_key_padding_mask=padding)
        hidden = self.norm(hidden)
        count = self.config.num_queries
        pooled = None if self.pool is None else self.pool(hidden[:, count])
        return BridgeOutput(last_hidden_state=self.project_out(hidden[:, :count]), pooled=pooled)
