"""Linear layers on a CPU with their weights laid out as oneDNN's kernels read them.

A plain layer's weights lie row by row, and its product with the few rows of a prompt waits for them. Laid out once, and
kept, they give the same sums (rounding apart) 2 to 2.6 times as fast for 15 to 30 rows: `docs/benchmarks.md`.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor, nn

from altdiffusion.errors import first_line
from altdiffusion.forward_override import ForwardOverride, fingerprint, install

logger = logging.getLogger(__name__)

ROWS = 32  # of input, that the layout is made for; with others it is right, too


def pack(model: nn.Module) -> None:
    """Let the model's linear layers compute with packed weights, in place: as much memory again as their weights take.

    They are packed at the first call and again whenever they have changed. Layers compute as before where gradients are
    wanted, under autocast, in captured graphs, on other devices and in bfloat16 on a CPU without AVX-512. The model's
    class, its state dict and what is saved of it stay stock. Where this PyTorch can't pack, a warning says so and nothing
    changes.
    """
    if reason := why_not_packed(torch.float32):
        logger.warning("weights can't be packed here, linear layers stay as they are: %s", reason)
        return
    for module in model.modules():
        if type(module) is nn.Linear and "forward" not in vars(module):
            install(PackedLinear(module))


class PackedLinear(ForwardOverride):
    """The `forward` of a linear layer, by packed weights where that is possible."""

    model: nn.Linear

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self._packed: Tensor | None = None
        self._fingerprint: tuple[Any, ...] = ()  # of the weights that were packed

    def __call__(self, input: Tensor) -> Tensor:
        """input: float (..., in_features) -> (..., out_features)."""
        weight = self.model.weight
        if not _can_pack(weight, input):
            return self.original(input)
        if (current := fingerprint([weight])) != self._fingerprint:
            self._packed, self._fingerprint = pack_weight(weight.detach()), current
        product: Tensor = torch.ops.mkldnn._linear_pointwise(input, self._packed, self.model.bias, "none", [], "")
        return product


def _can_pack(weight: Tensor, input: Tensor) -> bool:
    return (
        type(weight) in (Tensor, nn.Parameter)
        and weight.device.type == input.device.type == "cpu"
        and weight.dtype == input.dtype
        and weight.dtype in (torch.float32, torch.bfloat16)
        and why_not_packed(weight.dtype) is None
        and weight.is_contiguous()
        and not weight.is_inference()  # PyTorch doesn't count its changes
        and weight.numel() > 0
        and input.numel() > 0
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


@functools.cache
def why_not_packed(dtype: torch.dtype) -> str | None:
    """Why weights of this dtype can't be packed here, None where they can: oneDNN has no bfloat16 for every CPU."""
    try:
        pack_weight(torch.zeros(2, 2, dtype=dtype))
    except (AttributeError, RuntimeError) as error:
        return first_line(error)
    return None


def pack_weight(weight: Tensor) -> Tensor:
    """A weight (out_features, in_features) in oneDNN's layout, which only oneDNN can read."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return packed
