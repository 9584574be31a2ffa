"""Soft tokens in CLIP: ids below zero, whose embeddings are given beside CLIP's own table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPTextEmbeddings

from altdiffusion.forward_override import ForwardOverride, install

# Ids (n,), all below zero -> their embeddings (n, width). Below zero, as some of CLIP's code takes a row's largest id for its
# end token.
LookUp = Callable[[Tensor], Tensor]


class SoftTokenEmbeddings(ForwardOverride):
    """CLIP's embedding layer: ids below zero are looked up elsewhere, all others in its own table, as they are."""

    def __init__(self, model: CLIPTextEmbeddings, look_up: LookUp) -> None:
        super().__init__(model)
        self.look_up = look_up

    def arguments(self) -> tuple[Any, ...]:
        return (self.look_up,)

    def __call__(
        self, input_ids: Tensor | None = None, position_ids: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        if input_ids is None or inputs_embeds is not None or not bool((soft := input_ids < 0).any()):
            result: Tensor = self.original(input_ids, position_ids, inputs_embeds)
            return result
        literal = self.model.token_embedding(input_ids.clamp(min=0))
        given = self.look_up(input_ids[soft]).to(literal)
        result = self.original(None, position_ids, literal.masked_scatter(soft[..., None], given))
        return result

    def captured(self, *args: Any, **kwargs: Any) -> Any:
        """torch.compile cuts its graph here, as what is looked up changes with every prompt; an exported graph is CLIP's own."""
        if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            return self.original(*args, **kwargs)
        return _outside_graph(self, *args, **kwargs)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _outside_graph(override: SoftTokenEmbeddings, *args: Any, **kwargs: Any) -> Tensor:
    return override(*args, **kwargs)


def install_soft_tokens(encoder: Any, look_up: LookUp) -> None:
    """Let a CLIP text encoder read ids below zero."""
    install(SoftTokenEmbeddings(embedding_layer(encoder), look_up))


def embedding_layer(encoder: Any) -> CLIPTextEmbeddings:
    """The layer of a CLIP text encoder that adds token and position embeddings."""
    return next(module for module in encoder.modules() if isinstance(module, CLIPTextEmbeddings))


def token_table(encoder: Any, size: int) -> Tensor:
    """The first `size` rows of the token embeddings, on the device where the encoder computes."""
    return literal_embeddings(encoder, torch.arange(size))


def literal_embeddings(encoder: Any, ids: Tensor) -> Tensor:
    """The embeddings (n, width) of CLIP's own tokens (n,), on the device where the encoder computes.

    The layer is called, not its weight read: an offload brings the weight in when the layer is called.
    """
    layer = embedding_layer(encoder).token_embedding
    device = layer.weight.device
    embeddings: Tensor = layer(ids.to("cpu" if device.type == "meta" else device))
    return embeddings.detach()
