"""Prompts with weights and long ones: what reading the syntax, weighting and chunks cost beside encoding the words alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch

from altdiffusion.benchmark import models
from altdiffusion.benchmark.models import Sizes
from altdiffusion.benchmark.timing import Comparison, in_turns
from altdiffusion.prompt_syntax import check, parse_weights
from altdiffusion.prompts.states import encode_prompts

PLAIN = "一只猫在海边的城堡前，月光，非常详细，a castle by the sea, oil painting"
WEIGHTED = "一只（猫：1.3）在海边的城堡前，((月光))，非常详细，a (castle:1.2) by the [sea], oil painting"


def measure(sizes: Sizes, device: torch.device) -> Iterator[Comparison]:
    encoder = models.our_text_encoder(models.text_tower(sizes, device))
    pipe = SimpleNamespace(text_encoder=encoder, tokenizer=models.tokenizer(), _execution_device=device)
    ways: dict[str, Callable[[], Any]] = {
        "the words alone": lambda: encode_prompts(pipe, PLAIN, ""),
        "with weights, a1111": lambda: encode_prompts(pipe, WEIGHTED, "", weighting="a1111"),
        "with weights, masked": lambda: encode_prompts(pipe, WEIGHTED, "", weighting="masked"),
        "two chunks": lambda: encode_prompts(pipe, f"{PLAIN} BREAK {PLAIN[::-1]}", ""),
        "the same chunk twice": lambda: encode_prompts(pipe, f"{PLAIN} BREAK {PLAIN}", ""),
        "reading the syntax alone": _read_syntax,
    }
    yield Comparison("text states of a prompt, float32", in_turns(ways, sizes.rounds, device))


def _read_syntax() -> None:
    check(WEIGHTED)
    parse_weights(WEIGHTED)
