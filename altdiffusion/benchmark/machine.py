"""What this machine could do at best: its own measured rate of matrix products, and its memory bandwidth."""

from __future__ import annotations

import functools

import torch

from altdiffusion.benchmark.timing import timed


@functools.lru_cache
def matmul_rate(device: torch.device, dtype: torch.dtype, side: int = 2048) -> float:
    """Floating-point operations a second of a large matrix product, the best of five."""
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(timed(lambda: left @ right, device) for _ in range(5))


@functools.lru_cache
def bandwidth(device: torch.device, size: int = 2**28) -> float:
    """Bytes a second that are read, summing up a tensor of `size` bytes, the best of five."""
    values = torch.ones(size // 4, device=device)
    return size / min(timed(values.sum, device) for _ in range(5))


def describe(flops: float, read: float, device: torch.device, dtype: torch.dtype) -> list[str]:
    """The seconds that a work takes at best. flops: its operations. read: the bytes that it must read at least."""
    rate, speed = matmul_rate(device, dtype), bandwidth(device)
    return [
        f"{flops / 1e9:.0f} GFLOP at {rate / 1e9:.0f} GFLOP/s: {flops / rate:.3f} s",
        f"{read / 1e9:.2f} GB at {speed / 1e9:.0f} GB/s: {read / speed:.3f} s",
    ]
