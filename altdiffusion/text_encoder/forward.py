"""How an AltCLIP text tower computes here: only the real tokens of a batch, and equal rows once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AltCLIPTextModel

from altdiffusion.forward_override import ForwardOverride, install, is_captured


def patch_forward(encoder: AltCLIPTextModel) -> AltCLIPTextModel:
    """Trim padding, encode equal rows once and support `clip_skip` on this encoder, in place. Outputs stay the same.

    Calling it twice changes nothing. The encoder's class, its state dict and what `save_pretrained` writes stay stock.
    """
    if not isinstance(getattr(encoder, "text_model", None), TrimmedForward):
        encoder.text_model = install(TrimmedForward(encoder))
    return encoder


class TrimmedForward(ForwardOverride):
    """Encodes each distinct row of a batch once, up to one padding token after the longest.

    XLM-R gives all padding tokens one position, so with the attention mask all padding rows of every layer are
    identical and one of them is enough. Padding ids are padding, without a mask and whatever it says: no prompt means
    them, yet compel writes a mask of ones, as CLIP wants it. Nothing is trimmed in training (dropout differs from row to
    row, also where only a part of the encoder is in training mode), in captured graphs, for inputs_embeds, token_type_ids
    or position_ids, attention maps and `return_dict=False`.
    """

    model: AltCLIPTextModel

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
        ids, mask, others = input_ids, attention_mask, (token_type_ids, position_ids, inputs_embeds)
        if ids is None or ids.dim() != 2 or any(tensor is not None for tensor in others):
            return self.original(ids, mask, *others, **kwargs)
        if mask is None or (mask.dim() == 2 and (is_captured() or mask.shape == ids.shape)):
            mask = real_tokens(ids, mask, self.model.config.pad_token_id)
        if is_captured() or mask.shape != ids.shape or not ids.numel() or self._cannot_trim(kwargs):
            return self.original(ids, mask, **kwargs)
        return self._trimmed(ids, mask, kwargs)

    def captured(self, *args: Any, **kwargs: Any) -> Any:
        return self(*args, **kwargs)

    def final_layer_norm(self, hidden_states: Tensor) -> Tensor:
        """What diffusers' `clip_skip` calls, as `encoder.text_model.final_layer_norm`, on an earlier layer's states.

        For CLIP that is a LayerNorm; here it is all that follows the last layer, (..., hidden_size) to
        (..., project_dim), so that an earlier layer reaches the UNet in the same way.
        """
        return self.model.transformation(self.model.pre_LN(hidden_states))

    def _cannot_trim(self, kwargs: dict[str, Any]) -> bool:
        def asked(name: str) -> bool:
            return bool(getattr(self.model.config, name) if kwargs.get(name) is None else kwargs[name])

        in_training = any(module.training for module in self.model.modules())
        return in_training or asked("output_attentions") or not asked("return_dict")

    def _trimmed(self, ids: Tensor, mask: Tensor, kwargs: dict[str, Any]) -> Any:
        """ids, mask: (batch, tokens)."""
        tokens = torch.arange(ids.shape[1], device=ids.device)
        lengths = torch.where(ids.ne(self.model.config.pad_token_id), tokens + 1, 0).amax(1, keepdim=True)
        rows = [(*row, *seen) for row, seen in zip(ids.tolist(), mask.tolist(), strict=True)]
        unique_rows, row_of = _distinct(rows)
        longest = int(lengths.max()) + 1  # one padding token to copy from
        output = self.original(ids[unique_rows, :longest], mask[unique_rows, :longest], **kwargs)

        # Each row of the batch again, its first padding token repeated up to the end.
        places = (torch.tensor(row_of, device=ids.device)[:, None], torch.minimum(tokens, lengths))
        output.last_hidden_state = output.last_hidden_state[places]
        output.pooler_output = output.last_hidden_state[:, 0]
        if output.hidden_states is not None:
            output.hidden_states = tuple(None if states is None else states[places] for states in output.hidden_states)
        return output


def real_tokens(ids: Tensor, mask: Tensor | None, padding: int) -> Tensor:
    """int64 (batch, tokens): 1 for what isn't padding by its id and, where there is a mask, isn't hidden by it."""
    real = ids.ne(padding)
    return (real if mask is None else real & mask.bool()).long()


def _distinct(rows: Sequence[tuple[int, ...]]) -> tuple[list[int], list[int]]:
    """(where each distinct row comes first, for each row which of these it is)."""
    first: dict[tuple[int, ...], int] = {}
    for index, row in enumerate(rows):
        first.setdefault(row, index)
    number = {row: place for place, row in enumerate(first)}
    return list(first.values()), [number[row] for row in rows]
