"""The cases by name. A new one is a file in `cases` with a function `measure`, and an entry here.

Nothing heavy is imported before a case is loaded: the command line's help reads the names.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from altdiffusion.benchmark.models import Sizes
    from altdiffusion.benchmark.timing import Comparison

    Measure = Callable[[Sizes, torch.device], Iterator[Comparison]]

CASES = {  # by name, the module
    "text": "text",
    "captions": "captions",
    "generation": "generation",
    "batches": "batches",
    "memory": "memory",
    "scoring": "scoring",
    "import": "imports",
}


def load_case(name: str) -> Measure:
    """The `measure` of a case."""
    measure: Measure = importlib.import_module(f"altdiffusion.benchmark.cases.{CASES[name]}").measure
    return measure
