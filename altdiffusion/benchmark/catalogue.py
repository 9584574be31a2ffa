"""The cases by name. A new one is a file in `cases` with a function `measure`, and an entry here.

Nothing heavy is imported before a case is loaded: the command line's help reads the names.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

CASES = {  # by name, the module
    "text": "text",
    "prompts": "prompts",
    "bridge": "bridge",
    "captions": "captions",
    "onnx": "onnx",
    "generation": "generation",
    "batches": "batches",
    "memory": "memory",
    "scoring": "scoring",
    "import": "imports",
    "cpu": "cpu",
}


def load_case(name: str) -> Callable[..., Iterator[Any]]:
    """The `measure` of a case: of Sizes and a torch.device, it yields each Comparison."""
    measure: Callable[..., Iterator[Any]] = importlib.import_module(
        f"altdiffusion.benchmark.cases.{CASES[name]}"
    ).measure
    return measure
