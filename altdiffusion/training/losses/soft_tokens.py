"""The loss of a text tower beside a frozen bridge: how far the soft tokens of its states are from those that are wanted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from altdiffusion.text_encoder.bridge import Bridge

LENGTH_WEIGHT = 0.05  # as --length-weight of `train bridge`


def soft_token_error(bridge: Bridge, states: Tensor, mask: Tensor, wanted: Tensor, wanted_mask: Tensor) -> Tensor:
    """How far a bridge's soft tokens for some states are from those for other states of the same meaning, a mean over texts.

    states, wanted: (batch, tokens, width). Both are read in as many soft tokens as the bridge finds right for `wanted`, and
    compared place by place, in units of the variance of CLIP's token embeddings. How many it finds right counts a little.
    """
    with torch.no_grad():
        model = bridge(wanted, wanted_mask)
    given = bridge(states, mask, model.lengths)
    present = torch.arange(int(model.lengths.max()), device=states.device) < model.lengths[:, None]
    errors = [
        ((a - b).square().mean(-1) * present).sum(1) / model.lengths / scale**2
        for a, b, scale in zip(given.embeddings, model.embeddings, bridge.scales(), strict=True)
    ]
    found, right = (each.length_logits.float().log_softmax(-1) for each in (given, model))
    length = F.kl_div(found, right, log_target=True, reduction="batchmean")
    return torch.stack(errors).sum(0).mean() + LENGTH_WEIGHT * length


@torch.no_grad()
def same_words(bridge: Bridge, states: Tensor, mask: Tensor, wanted: Tensor, wanted_mask: Tensor) -> tuple[int, int]:
    """(soft tokens whose likeliest English word is the same for both, all of them); see `soft_token_error`."""
    model = bridge(wanted, wanted_mask)
    given = bridge(states, mask, model.lengths)
    present = torch.arange(int(model.lengths.max()), device=states.device) < model.lengths[:, None]
    words = [bridge.without_hole_word(each.word_logits).argmax(-1)[present] for each in (given, model)]
    return int((words[0] == words[1]).sum()), len(words[0])
