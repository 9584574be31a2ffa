"""Hidden states of prompts and negative prompts: ours, AltCLIPTextModel, diffusers' deprecated class."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from altdiffusion.benchmark import machine, models
from altdiffusion.benchmark.models import Sizes
from altdiffusion.benchmark.timing import Comparison, Contender, in_turns
from altdiffusion.speed.optimize import has_amx
from altdiffusion.speed.packed_linear import pack
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS

REAL = 14  # tokens of a prompt; with one of padding 15 are computed


def measure(sizes: Sizes, device: torch.device) -> Iterator[Comparison]:
    stock = models.text_tower(sizes, device)
    encoder, fast, old = (
        models.our_text_encoder(stock),
        models.our_text_encoder(stock),
        models.deprecated_text_encoder(stock),
    )
    half = models.our_text_encoder(copy.deepcopy(stock).bfloat16()) if device.type != "cpu" or has_amx() else None
    if device.type == "cpu":  # as `optimize` does
        pack(fast)
        if half is not None:
            pack(half)
    layers = sum(tensor.numel() for name, tensor in stock.named_parameters() if "embeddings" not in name)
    for count in (1, 32):
        batches = prompts(count, stock.config.vocab_size, device)
        ways = {
            "altdiffusion, optimize()": make_encode(fast, batches),
            "altdiffusion": make_encode(encoder, batches),
            "AltCLIPTextModel": make_encode(stock, batches),
            "diffusers' deprecated class": make_encode(old, batches),
        }
        absent = []
        if half is not None:
            ways["altdiffusion, optimize() in bfloat16"] = make_encode(half, batches)
        else:
            absent = [Contender("altdiffusion in bfloat16", note="not measured: no AMX here")]
        flops = 2 * layers * count * (REAL + 1)
        yield Comparison(
            f"text states, float32, {count} x ({REAL} tokens, and the negative prompt)",
            [*in_turns(ways, sizes.rounds, device), *absent],
            limits=machine.describe(flops, 4 * layers, device, torch.float32),
        )


def prompts(count: int, vocabulary: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of ids and negative ids, int64 (count, 77) each; the negative prompts are always ""."""
    random = torch.Generator().manual_seed(0)
    empty = torch.full((count, MAX_TOKENS), 1)
    empty[:, :2] = torch.tensor([0, 2])
    while True:
        ids = torch.full((count, MAX_TOKENS), 1)
        ids[:, :REAL] = torch.randint(5, vocabulary, (count, REAL), generator=random)
        ids[:, 0], ids[:, REAL - 1] = 0, 2
        yield ids.to(device), empty.to(device)


def make_encode(encoder: Any, batches: Iterator[tuple[Tensor, Tensor]]) -> Callable[[], list[Tensor]]:
    """A function that encodes the next batch as diffusers does: prompts, then negative prompts."""

    @torch.no_grad()
    def run() -> list[Tensor]:
        return [encode(encoder, ids) for ids in next(batches)]

    return run


def encode(encoder: Any, ids: Tensor) -> Tensor:
    """Hidden states of padded ids (batch, 77): float (batch, 77, 768)."""
    output = encoder(ids, attention_mask=ids.ne(1).long())
    states: Tensor = output["projection_state"] if "projection_state" in output else output[0]
    return states
