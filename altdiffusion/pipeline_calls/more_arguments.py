"""A method with more keyword arguments than the one that it wraps: its signature and its docstring tell of them, too."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any


def with_arguments(
    call: Callable[..., Any], added: Mapping[str, Any], documentation: str, handle: Callable[..., Any]
) -> Callable[..., Any]:
    """`call` with more keyword arguments.

    added: their names and defaults. Where all have their defaults, `call` is called as it is; else
    `handle(self, call, arguments, **added)`, arguments being those of `call` by name.
    documentation: lines for `call`'s docstring, a line an argument.
    """
    signature = inspect.signature(call)

    @functools.wraps(call)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        values = {name: kwargs.pop(name, default) for name, default in added.items()}
        if values == added:
            return call(self, *args, **kwargs)
        given = signature.bind(self, *args, **kwargs).arguments
        arguments = {name: value for name, value in given.items() if name not in ("self", "kwargs")}
        return handle(self, call, arguments | given.get("kwargs", {}), **values)

    lines = "".join(f"            {line}\n" for line in documentation.strip().split("\n"))
    wrapped.__doc__ = f"{call.__doc__ or ''}\n        And besides, in altdiffusion:\n\n{lines}"
    more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in added.items()]
    parameters = list(signature.parameters.values())
    end = next((i for i, known in enumerate(parameters) if known.kind is known.VAR_KEYWORD), len(parameters))
    wrapped.__dict__["__signature__"] = signature.replace(parameters=[*parameters[:end], *more, *parameters[end:]])
    return wrapped
