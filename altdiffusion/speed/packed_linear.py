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

logger = logging.getLogger(__name__)

ROWS = 32  # that the layout is made for; with others it is right, too
SAMPLES = 8  # elements of the weights that are compared, as writing through `.data` is not counted


def pack(model: nn.Module) -> None:
    """Let the model's linear layers compute with packed weights, in place: as much memory again as their weights take.

    They are packed at the first call, again whenever they have changed, and left alone where gradients are wanted, under
    autocast, in torch.compile, on other devices and in bfloat16 on a CPU without AVX-512. The model's class, its state dict
    and what is saved of it stay. Where this PyTorch can't, a warning says so and nothing changes.
    """
    if reason := _refusal(torch.float32):
        logger.warning("weights can't be packed here, linear layers stay as they are: %s", reason)
        return
    for module in model.modules():
        if type(module) is nn.Linear and "forward" not in vars(module):
            module.forward = PackedLinear(module)  # type: ignore[method-assign]


class PackedLinear:
    """The `forward` of a linear layer: the class's own, by packed weights where that is possible."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear
        self._weight: Tensor | None = None
        self._facts: tuple[Any, ...] = ()
        self._sample = torch.empty(0)

    def __call__(self, input: Tensor) -> Tensor:
        """input: float (..., in_features) -> (..., out_features)."""
        weight = self.linear.weight
        if torch.compiler.is_compiling() or not self._can(weight, input):
            return nn.Linear.forward(self.linear, input)
        facts = (weight.data_ptr(), weight._version, weight.dtype)
        sample = weight.detach().as_strided((min(SAMPLES, weight.numel()),), (max(1, weight.numel() // SAMPLES),))
        if self._weight is None or facts != self._facts or not torch.equal(sample, self._sample):
            self._weight, self._facts, self._sample = _packed(weight.detach()), facts, sample.clone()
        return _product(input, self._weight, self.linear.bias)

    def __reduce__(self) -> Any:
        """A copy (pickle, deepcopy) packs its own weights."""
        return type(self), (self.linear,)

    @staticmethod
    def _can(weight: Tensor, input: Tensor) -> bool:
        return (
            type(weight) in (Tensor, nn.Parameter)
            and weight.device.type == input.device.type == "cpu"
            and weight.dtype == input.dtype
            and weight.dtype in (torch.float32, torch.bfloat16)
            and _refusal(weight.dtype) is None
            and weight.is_contiguous()
            and not weight.is_inference()  # whose changes are not counted
            and weight.numel() > 0
            and input.numel() > 0
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
        )


@functools.cache
def _refusal(dtype: torch.dtype) -> str | None:
    """Why weights of this dtype can't be packed here, None where they can: oneDNN has no bfloat16 for every CPU."""
    try:
        _packed(torch.zeros(2, 2, dtype=dtype))
    except (AttributeError, RuntimeError) as error:
        return first_line(error)
    return None


def _packed(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return packed


def _product(input: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(input, packed, bias, "none", [], "")
    return found
