"""States of prompts that were read before: the negative prompt and "" above all, which every image asks for again.

A row of a batch is known again by its content: its tokens, the mask, and the embeddings that its tokens have now. It is
served only while everything that the encoder computes with is what it was; `Weights` says how that is seen.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from altdiffusion.speed.packed_linear import PackedLinear

MAX_BYTES = 64 * 2**20  # 1,400 prompts of 15 tokens and width 768 in float32
MAX_ROWS = 32  # different ones in a call: more is a corpus, which comes by once
SAMPLES = 8  # elements of each tensor that are compared

Row = tuple[Tensor, ...]


class PromptCache:
    """Rows of states, the least recently used dropped first.

    What goes in and out are copies: nobody can change what is kept. Safe to use from several threads. A copy of the
    cache (pickle, deepcopy) starts empty.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._rows: OrderedDict[Hashable, Row] = OrderedDict()
        self._weights: Weights | None = None
        self._bytes = 0
        self._lock = threading.Lock()

    def recall(self, weights: Weights, keys: Sequence[Hashable]) -> dict[Hashable, Row]:
        """Those of the rows that are known. All are forgotten where the weights are others than before."""
        with self._lock:
            if self._weights != weights:
                self._clear()
                self._weights = weights
            known = {key: self._rows[key] for key in keys if key in self._rows}
            for key in known:
                self._rows.move_to_end(key)
            return known

    def remember(self, weights: Weights, rows: Mapping[Hashable, Row]) -> None:
        """Keep copies of these rows, unless the weights have changed since they were asked for."""
        with self._lock:
            if self._weights != weights:
                return
            for key, row in rows.items():
                if key not in self._rows and _size(row) <= self.max_bytes:
                    self._rows[key] = tuple(states.detach().clone() for states in row)
                    self._bytes += _size(row)
            while self._bytes > self.max_bytes:
                _, dropped = self._rows.popitem(last=False)
                self._bytes -= _size(dropped)

    def forget(self) -> None:
        """Forget all rows."""
        with self._lock:
            self._clear()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Memory that the rows take."""
        return self._bytes

    def __reduce__(self) -> Any:
        return type(self), (self.max_bytes,)

    def _clear(self) -> None:
        self._rows.clear()
        self._bytes = 0


def _size(row: Row) -> int:
    return sum(states.numel() * states.element_size() for states in row)


@dataclass(eq=False)
class Weights:
    """What an encoder computes with, so that a change is seen.

    The modules, parameters and buffers themselves; where their values lie, their shapes, and PyTorch's count of changes
    in place; and, as writing through `.data` is not counted, a few values of each tensor. (The table of word embeddings
    is the exception: there a row's own embeddings are part of its key.)
    """

    parts: list[weakref.ref[Any]]
    facts: list[tuple[Any, ...]]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Weights) or self.facts != other.facts or len(self.parts) != len(other.parts):
            return False
        return all(
            mine() is not None and mine() is theirs() for mine, theirs in zip(self.parts, other.parts, strict=True)
        )

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, table: Tensor) -> Weights | None:
        """table: of word embeddings. None where the output can't be told from the weights: hooks or a `forward` that is
        not the class's, adapters, weights that are not plain tensors at hand."""
        parts: list[weakref.ref[Any]] = []
        facts: list[tuple[Any, ...]] = []
        samples: dict[torch.device, list[Tensor]] = {}
        for module in model.modules():
            if module is not model and _is_foreign(module):
                return None
            parts.append(weakref.ref(module))
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is None:
                    continue
                if type(tensor) not in _PLAIN or tensor.is_meta or tensor.is_inference() or tensor.is_quantized:
                    return None
                parts.append(weakref.ref(tensor))
                facts.append((tensor.data_ptr(), tensor._version, tensor.shape, tensor.dtype, tensor.device))
                if tensor is not table and tensor.numel():
                    samples.setdefault(tensor.device, []).append(_sample(tensor))
        found = [torch.cat([each.float() for each in some]).cpu() for some in samples.values()]
        return cls(parts, [*facts, *((each.view(torch.uint8).numpy().tobytes(),) for each in found)])


_PLAIN = (Tensor, nn.Parameter, nn.Buffer)


def _sample(tensor: Tensor) -> Tensor:
    """A few of its values, from all over it."""
    count = min(SAMPLES, tensor.numel())
    if tensor.is_contiguous():  # one operation, as every call does this for hundreds of tensors
        return tensor.as_strided((count,), (tensor.numel() // count,))
    return tensor.reshape(-1)[:: tensor.numel() // count][:count]


def _is_foreign(module: nn.Module) -> bool:
    """Whether it computes something that its class and its tensors don't tell, or somebody listens to it."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    # transformers' record hidden states; ours move tensors between devices
    if any(not str(getattr(hook, "__module__", "")).startswith(("transformers.", "altdiffusion.")) for hook in hooks):
        return True
    peft = sys.modules.get("peft.tuners.tuners_utils")
    forward = vars(module).get("forward")
    own = forward is not None and not isinstance(forward, PackedLinear)
    return own or (peft is not None and isinstance(module, peft.BaseTunerLayer))


def row_key(ids: Sequence[int], mask: Sequence[int], embeddings: Tensor, *details: Hashable) -> Hashable:
    """The key of a row: ids, mask (tokens) and embeddings (tokens, width) by content; details: whatever else tells rows apart."""
    content = embeddings.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes()
    return (tuple(ids), tuple(mask), hashlib.blake2b(content, digest_size=16).digest(), *details)
