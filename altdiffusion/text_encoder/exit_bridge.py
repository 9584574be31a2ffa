"""The bridge of versions before 0.5, which stands at CLIP's exit: loaded still, trained no more.

A UNet that was trained with CLIP keeps its weights, LoRAs and ControlNets. `ExitBridge` turns AltCLIP's token states into those
that CLIP would have given for the English caption: learned queries, one for each of CLIP's 77 positions, attend to them.
`BridgedTextEncoder` is AltCLIP's text tower with a bridge behind it: a pipeline holds it in CLIP's place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AltCLIPTextConfig, AltCLIPTextModel, PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.clip.modeling_clip import CLIPTextModelOutput
from transformers.utils import ModelOutput

from altdiffusion.checkpoints import bridge_folder
from altdiffusion.errors import InputError
from altdiffusion.forward_override import is_captured
from altdiffusion.text_encoder.bridge_layers import DecoderLayer, ExactModel, check_altclip, check_heads
from altdiffusion.text_encoder.forward import patch_forward, real_tokens


class ExitBridgeConfig(PreTrainedConfig):
    """The sizes of a bridge. The defaults lead from AltCLIP (width 768) to Stable Diffusion 1.x: 25M parameters.

    input_width: of AltCLIP's text states (`project_dim`): 1024 for m18, 768 for the others.
    output_width: of CLIP's states: 768 for Stable Diffusion 1.x, 1024 for 2.x, 2048 for XL, whose two encoders' states
        (768 + 1280) are given side by side.
    pooled_width: of the vector that XL takes besides (1280), 0 for none.
    num_queries: the number of CLIP's states.
    target: which of CLIP's states it learnt, "last_hidden_state" or "penultimate": a note, nothing depends on it.
    Raises InputError unless hidden_size is a multiple of num_attention_heads.
    """

    model_type = bridge_folder.EXIT

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
        check_heads(hidden_size, num_attention_heads)
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


class ExitBridge(ExactModel):
    """Learned queries that cross-attend to AltCLIP's token states in pre-norm transformer decoder layers."""

    config_class = ExitBridgeConfig
    main_input_name = "states"

    def __init__(self, config: ExitBridgeConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.project_in = nn.Linear(config.input_width, width)
        self.queries = nn.Parameter(torch.randn(config.num_queries + bool(config.pooled_width), width) / width**0.5)
        self.layers = nn.ModuleList(
            DecoderLayer(width, config.num_attention_heads, config.intermediate_size) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.project_out = nn.Linear(width, config.output_width)
        self.pool = nn.Linear(width, config.pooled_width) if config.pooled_width else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the parameters begin as torch made them."""

    def forward(self, states: Tensor, attention_mask: Tensor | None = None) -> BridgeOutput:
        """CLIP's states for AltCLIP's.

        states: (batch, tokens, input_width). attention_mask: (batch, tokens), 1 or True for real tokens, at least one a
        row; by default all are. States of other tokens change nothing.
        """
        memory = self.project_in(states)
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None]
        hidden = self.queries.expand(states.shape[0], -1, -1)
        for layer in self.layers:
            hidden = layer(hidden, memory, mask)
        hidden = self.norm(hidden)
        count = self.config.num_queries
        pooled = None if self.pool is None else self.pool(hidden[:, count])
        return BridgeOutput(last_hidden_state=self.project_out(hidden[:, :count]), pooled=pooled)


class BridgedTextEncoderConfig(PreTrainedConfig):
    """text_config: AltCLIP's text tower's. bridge_config: of the bridge behind it. Each a config or its dictionary."""

    model_type = "altdiffusion_bridged_text_encoder"
    sub_configs = {"text_config": AltCLIPTextConfig, "bridge_config": ExitBridgeConfig}  # noqa: RUF012
    use_attention_mask = True  # diffusers asks for it before it passes the mask

    def __init__(self, text_config: Any = None, bridge_config: Any = None, **kwargs: Any) -> None:
        self.text_config = AltCLIPTextConfig(**text_config) if isinstance(text_config, dict) else text_config
        self.bridge_config = ExitBridgeConfig(**bridge_config) if isinstance(bridge_config, dict) else bridge_config
        self.text_config = self.text_config or AltCLIPTextConfig()
        self.bridge_config = self.bridge_config or ExitBridgeConfig()
        super().__init__(**kwargs)

    @property
    def projection_dim(self) -> int:
        """The width of the pooled vector, under the name that XL's pipelines ask for."""
        return self.bridge_config.pooled_width


class BridgedTextEncoder(ExactModel):
    """AltCLIP's text tower and a bridge, in the place of CLIP's text encoder in any Stable Diffusion pipeline.

    For Stable Diffusion 1.x and 2.x, `output[0]` is what CLIP would give, (batch, 77, output_width). For XL, `output[0]`
    is the pooled vector (batch, pooled_width) and `hidden_states[-2]` are the states of both of its encoders side by side:
    then this is `text_encoder_2`, and there is no first one.
    """

    config_class = BridgedTextEncoderConfig

    def __init__(self, config: BridgedTextEncoderConfig) -> None:
        super().__init__(config)
        self.tower = patch_forward(AltCLIPTextModel(config.text_config))
        self.bridge = ExitBridge(config.bridge_config)
        self.post_init()

    @classmethod
    def of(cls, tower: AltCLIPTextModel, bridge: ExitBridge) -> BridgedTextEncoder:
        """Put the two together without copying them. Raises InputError where the widths don't fit."""
        check_altclip(bridge, tower)
        attention = tower.config._attn_implementation
        config = BridgedTextEncoderConfig(tower.config, bridge.config, dtype=tower.dtype)
        tower.config.name_or_path = bridge.config.name_or_path = ""  # else config.json says where they were loaded from
        with torch.device("meta"):
            encoder = cls(config)
        tower.config._attn_implementation = attention  # the config around it has overwritten it
        encoder.tower, encoder.bridge = patch_forward(tower), bridge
        return encoder.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.tower.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.tower.set_input_embeddings(value)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Encode prompts.

        input_ids, attention_mask: (batch, tokens) of AltCLIP's tokenizer; padding is known by its id, whatever the mask says.
        kwargs: CLIP's other arguments, unused. Raises InputError for any layer but the usual one (`clip_skip`).
        """
        if output_hidden_states and not self.config.projection_dim:
            raise InputError(_NO_LAYERS)
        attention_mask = real_tokens(input_ids, attention_mask, self.config.text_config.pad_token_id).bool()
        if not is_captured():  # the bridge ignores padding, so the tower need not encode it
            length = int(attention_mask.any(0).nonzero().max()) + 1
            input_ids, attention_mask = input_ids[:, :length], attention_mask[:, :length]
        states = self.tower(input_ids, attention_mask=attention_mask.long()).last_hidden_state
        output: Any = self.bridge(states, attention_mask)
        if output.pooled is None:
            output = BaseModelOutput(last_hidden_state=output.last_hidden_state)
        else:
            states = output.last_hidden_state
            layers = (states, states)
            output = CLIPTextModelOutput(output.pooled, states, layers if is_captured() else _Penultimate(layers))
        return output.to_tuple() if return_dict is False else output


_NO_LAYERS = (
    "behind a bridge at CLIP's exit CLIP's layers don't exist, it gives the one that it learnt: call the pipeline with "
    "clip_skip=None (a UNet that needs another layer needs a bridge trained for it)"
)


class _Penultimate(tuple[Tensor, ...]):
    """XL's pipelines take `hidden_states[-2]`; any other index raises InputError."""

    def __getitem__(self, index: Any) -> Any:
        if index != -2:
            raise InputError(_NO_LAYERS)
        return super().__getitem__(index)


def check_exit_bridge(bridge: ExitBridge, unet: Any, aesthetics: bool = False) -> None:
    """Raise InputError unless a bridge gives states and, for XL, a pooled vector of the widths that a UNet takes.

    aesthetics: whether the UNet is given an aesthetic score, as XL's refiner is.
    """
    takes = (unet.config.cross_attention_dim, 0)
    if unet.config.get("addition_embed_type") == "text_time":
        # Beside the pooled vector there are embeddings of 6 numbers (three sizes), or of 5 (two sizes and the score).
        numbers = (5 if aesthetics else 6) * unet.config.addition_time_embed_dim
        takes = (takes[0], unet.config.projection_class_embeddings_input_dim - numbers)
    gives = (bridge.config.output_width, bridge.config.pooled_width)
    if gives != takes:
        raise InputError(
            f"this bridge gives text states of width {gives[0]} and a pooled vector of {gives[1]}, this UNet takes "
            f"{takes[0]} and {takes[1]}: take a bridge that was trained for its CLIP (Stable Diffusion 1.x: 768 and 0; "
            "2.x: 1024 and 0; XL: 2048 and 1280)"
        )


# Saved pipelines name the class by this path: it is a file format, and must outlive the files of this package.
BridgedTextEncoder.__module__ = "altdiffusion"
