"""A `forward` of our own on one model, so that its class, its state dict and the files it is saved in stay stock.

class Doubled(ForwardOverride):
    def __call__(self, rows):
        return 2 * self.original(rows)

install(Doubled(linear))      # linear(rows) is twice as much; find(linear, Doubled) is the override
remove(linear)                # as before
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

SAMPLES = 8  # values of each tensor that a fingerprint holds


class ForwardOverride:
    """What a model computes in place of its class's own `forward`, and what that needs to keep.

    While a graph is captured (torch.compile, torch.export, torch.jit.trace) the class's own runs: a graph must be right
    for inputs other than the example's. A copy of the model (deepcopy, pickle) gets an override of its own, made anew
    from the model and `arguments`: nothing else is copied.
    """

    method: ClassVar[str] = "forward"  # which of the model's methods is overridden
    function: Callable[..., Any]  # that is bound to the model as this method
    replaced: Any = None  # someone else's method on the model

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """What the class computes."""
        return getattr(type(self.model), self.method)(self.model, *args, **kwargs)

    def captured(self, *args: Any, **kwargs: Any) -> Any:
        """What goes into a graph."""
        return self.original(*args, **kwargs)

    def arguments(self) -> tuple[Any, ...]:
        """Of `__init__`, behind the model."""
        return ()

    def __reduce__(self) -> Any:
        return _reinstall, (type(self), self.model, *self.arguments())


Override = TypeVar("Override", bound=ForwardOverride)


def install(override: Override) -> Override:
    """Put it on its model, in place of one that is there. Returns it."""
    attributes, method = vars(override.model), override.method
    model_class: Any = type(override.model)
    remove(override.model, method)
    override.replaced = attributes.pop(method, None)
    override.function = _function(model_class, method)
    attributes[_key(method)] = override  # comes first, as pickle looks the method up on a model that holds only this
    attributes[method] = MethodType(override.function, override.model)
    return override


def find(model: Any, kind: type[Override]) -> Override | None:
    """The override of this kind that answers a call of the model. None without one, or where someone else's `forward`
    (an offload's, say) was put over it."""
    override = vars(model).get(_key(kind.method))
    if not isinstance(override, kind):
        return None
    return override if getattr(vars(model).get(kind.method), "__func__", None) is override.function else None


def remove(model: Any, method: str = "forward") -> None:
    """Take an override away: then what it replaced computes, the class's own or someone else's."""
    override = vars(model).pop(_key(method), None)
    if override is not None:
        vars(model).pop(method, None)
        if override.replaced is not None:
            vars(model)[method] = override.replaced


def is_captured() -> bool:
    """Whether a graph is being captured: then nothing may depend on the values in the example's tensors."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def fingerprint(tensors: Iterable[Tensor]) -> tuple[Any, ...]:
    """Equal as long as the tensors, on a CPU, are the same and hold the same values.

    Where they lie, PyTorch's count of changes in place and, as it doesn't count writes through `.data` (peft merges LoRAs
    so), a few values from all over each.
    """
    return tuple(fact for tensor in tensors for fact in _facts(tensor))


def _facts(tensor: Tensor) -> tuple[Any, ...]:
    changes = None if tensor.is_inference() else tensor._version
    span = min(tensor.numel(), tensor.untyped_storage().nbytes() // tensor.itemsize - tensor.storage_offset())
    count = min(SAMPLES, span)
    values = tensor.detach().as_strided((count,), (span // max(1, count),)).tolist()
    return (tensor.data_ptr(), changes, tensor.dtype, tensor.shape, *values)


def _key(method: str) -> str:
    return f"_{method}_override"


def _reinstall(kind: type[Override], model: Any, *arguments: Any) -> Override:
    return install(kind(model, *arguments))


@functools.cache
def _function(model_class: Any, method: str) -> Callable[..., Any]:
    """A function that becomes the model's bound method: what accelerate and torch.export take apart, unlike an object."""
    original, key = getattr(model_class, method), _key(method)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        override = getattr(self, key)
        return override.captured(*args, **kwargs) if is_captured() else override(*args, **kwargs)

    forward.__name__, forward.__doc__ = method, original.__doc__
    forward.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    return forward
