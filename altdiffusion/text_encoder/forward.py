"""What an AltCLIP text tower computes: the real tokens alone, and each prompt once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AltCLIPTextModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndProjection

from altdiffusion.text_encoder.prompt_cache import MAX_ROWS, PromptCache, Weights, row_key


def patch_forward(encoder: AltCLIPTextModel) -> AltCLIPTextModel:
    """Trim padding, remember prompts and support `clip_skip` on this encoder, in place. Outputs stay the same.

    Calling it twice changes nothing. The encoder's class, its state dict and what `save_pretrained` writes stay stock.
    """
    if not isinstance(getattr(encoder, "text_model", None), _ClipSkip):
        reading = CachedForward(encoder)
        encoder.text_model = _ClipSkip(encoder, reading)
        encoder.forward = reading
    return encoder


def disable_prompt_cache(encoder: Any) -> None:
    """Keep no prompts of an equipped encoder, with or without a bridge: training goes on bit for bit after a stop only
    if nothing depends on what was read before."""
    reading = vars(getattr(encoder, "tower", encoder)).get("forward")
    if isinstance(reading, CachedForward):
        reading.cache = PromptCache(max_bytes=0)


@dataclass
class _ClipSkip:
    """What diffusers' `clip_skip` asks of an encoder: `encoder.text_model.final_layer_norm(hidden_states)`.

    For CLIP that is a LayerNorm; here it is all that follows the last layer, so that an earlier layer takes
    the same way to the UNet. A plain object, not a module: it must not show up in the state dict.
    """

    encoder: AltCLIPTextModel
    reading: CachedForward

    def final_layer_norm(self, hidden_states: Tensor) -> Tensor:
        with self.reading.place():
            return self.encoder.transformation(self.encoder.pre_LN(hidden_states))


class CachedForward:
    """The `forward` of an equipped encoder: the class's own, for the rows not known, for the real tokens and one of padding.

    XLM-R gives all padding tokens one position, so with the attention mask all padding rows of every layer are
    identical and one of them is enough. A missing mask is derived from the padding id: no row ever means to attend to
    padding. Read whole: training (dropout differs from row to row), inputs_embeds, own position_ids, attention maps,
    tuples, and torch.compile, which wants one static shape. Remembered, besides: only what needs no gradient and no
    autocast, of an encoder that `Weights` can describe.

    cache: the prompts that are remembered. place: around every computation; `memory.py` puts the weights where they run.
    """

    def __init__(self, encoder: AltCLIPTextModel) -> None:
        self.encoder = encoder
        self.cache = PromptCache()
        self.place: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __call__(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers."""
        encoder = self.encoder
        ids, mask = input_ids, attention_mask
        own = token_type_ids is not None or position_ids is not None or inputs_embeds is not None
        if ids is None or ids.dim() != 2 or own:
            return self._run(ids, mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        if mask is None:
            mask = ids.ne(encoder.config.pad_token_id).long()
        whole = torch.compiler.is_compiling() or encoder.training or mask.dim() != 2
        asked = {name: kwargs.get(name, getattr(encoder.config, name)) for name in ("return_dict", "output_attentions")}
        if whole or asked["return_dict"] is False or asked["output_attentions"] is True:
            return self._run(ids, mask, **kwargs)

        used = ids.ne(encoder.config.pad_token_id) | mask.bool()
        lengths = torch.where(used, torch.arange(1, ids.shape[1] + 1, device=ids.device), 0).amax(1).tolist()
        others = kwargs.keys() - {"return_dict", "output_attentions", "output_hidden_states"}
        hidden = kwargs.get("output_hidden_states", encoder.config.output_hidden_states)
        using = None
        if not (others or torch.is_grad_enabled() or torch.is_autocast_enabled(ids.device.type)) and hidden in _HIDDEN:
            using = Weights.of(encoder, encoder.roberta.embeddings.word_embeddings.weight)
        if using is None:
            return self._trimmed(ids, mask, max(lengths), kwargs)
        return self._remembered(ids, mask, lengths, using, kwargs, bool(hidden))

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return type(self.encoder).forward(self.encoder, *args, **kwargs)
        with self.place():
            return type(self.encoder).forward(self.encoder, *args, **kwargs)

    def _trimmed(self, ids: Tensor, mask: Tensor, length: int, kwargs: dict[str, Any]) -> Any:
        """Encode up to one padding token behind the longest row, and repeat that one."""
        width = ids.shape[1]
        output = self._run(ids[:, : length + 1], mask[:, : length + 1], **kwargs)
        return _map_states(output, lambda states: _padded(states, width))

    def _remembered(
        self, ids: Tensor, mask: Tensor, lengths: list[int], using: Weights, kwargs: dict[str, Any], hidden: bool
    ) -> Any:
        """Encode the rows that are not known, each once; the others come from the cache."""
        encoder, width = self.encoder, ids.shape[1]
        rows = [
            (tuple(row[: length + 1]), tuple(seen[: length + 1]))
            for row, seen, length in zip(ids.tolist(), mask.tolist(), lengths, strict=True)
        ]
        first = {row: number for number, row in reversed(list(enumerate(rows)))}
        if len(first) > MAX_ROWS:
            return self._trimmed(ids, mask, max(lengths), kwargs)
        table = encoder.roberta.embeddings.word_embeddings.weight
        details = (ids.device, mask.dtype, hidden, encoder.config._attn_implementation)
        keys = {row: row_key(*row, table[list(row[0])], *details) for row in first}
        known = self.cache.recall(using, list(keys.values()))
        missing = [row for row in first if keys[row] not in known]
        if missing:
            picked = [first[row] for row in missing]
            cut = max(lengths[number] for number in picked) + 1
            output = self._run(ids[picked, :cut], mask[picked, :cut], **kwargs)
            states = (output.last_hidden_state, *(output.hidden_states or ()))
            found = {
                keys[row]: tuple(each[place, : len(row[0])] for each in states) for place, row in enumerate(missing)
            }
            self.cache.remember(using, found)
            known |= found
        whole = [
            torch.stack([_padded(states, width) for states in some])
            for some in zip(*(known[keys[row]] for row in rows), strict=True)
        ]
        return BaseModelOutputWithPoolingAndProjection(
            last_hidden_state=whole[0],
            pooler_output=whole[0][:, 0],
            hidden_states=tuple(whole[1:]) or None,
        )


_HIDDEN = (None, False, True)  # a choice of layers is not remembered


def _map_states(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    output.last_hidden_state = change(output.last_hidden_state)
    if output.hidden_states is not None:
        output.hidden_states = tuple(None if states is None else change(states) for states in output.hidden_states)
    return output


def _padded(states: Tensor, width: int) -> Tensor:
    """Token states (..., tokens, features) with the last, of padding, repeated up to a width."""
    missing = width - states.shape[-2]
    if not missing:
        return states
    return torch.cat([states, states[..., -1:, :].expand(*states.shape[:-2], missing, -1)], dim=-2)
