"""Which record is read when: pure functions of the seed and a sample's index.

Nothing here has a state that moves. Sample 7,340 of a training is the same record whether the training came there in one
go, was killed and resumed, or is shared by eight processes: its place in the data is its step. That is why this is written
by hand: samplers of torch and of the data libraries keep a state, which would have to be saved, process by process.
"""

from __future__ import annotations

import math
import sys
import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from altdiffusion.data.columns import IMAGE_COLUMNS
from altdiffusion.data.table import Table
from altdiffusion.errors import InputError

T = TypeVar("T")
Part = TypeVar("Part", bound=Table | Sequence[int])


class Shuffled:
    """Endless passes over `size` things, every pass complete and in an order of its own."""

    def __init__(self, size: int, *seed: int) -> None:
        self.size = size
        # two passes are in use where one ends and the next begins
        self._order = lru_cache(maxsize=2)(lambda epoch: np.random.default_rng([*seed, epoch]).permutation(size))

    def __getitem__(self, index: int) -> int:
        epoch, place = divmod(index, self.size)
        return int(self._order(epoch)[place])


class Interleave:
    """Deals the indices 0, 1, 2, ... to streams in proportion to their weights, a thousand at a time."""

    BLOCK = 1000

    def __init__(self, weights: Sequence[float], *seed: int) -> None:
        exact = np.asarray(weights, float) / sum(weights) * self.BLOCK
        # of each block, by stream; no stream is left out, however small
        self.slots = np.maximum(1, np.floor(exact)).astype(int)
        for stream in np.argsort(self.slots - exact)[: max(0, self.BLOCK - int(self.slots.sum()))]:
            self.slots[stream] += 1
        self.size = int(self.slots.sum())
        self._block = lru_cache(maxsize=4)(lambda block: self._deal_block(block, *seed))

    def deal(self, index: int) -> tuple[int, int]:
        """(the stream that gets this index, how many it got before)."""
        block, place = divmod(index, self.size)
        streams, ranks = self._block(block)
        stream = int(streams[place])
        return stream, block * int(self.slots[stream]) + int(ranks[place])

    def _deal_block(self, block: int, *seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        dealt = np.repeat(np.arange(len(self.slots)), self.slots)
        dealt = np.random.default_rng([*seed, block]).permutation(dealt)
        ranks = np.zeros_like(dealt)
        for stream in range(len(self.slots)):
            ranks[dealt == stream] = np.arange(self.slots[stream])
        return dealt, ranks


class Chain(Generic[Part]):
    """Sequences one after another, whose elements are numbered from 0 over all of them."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        ends = list(accumulate(map(len, parts)))
        self.spans = list(map(range, [0, *ends], ends))  # the numbers of each one's elements
        self._ends = ends

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Any:
        part, place = self.find(index)
        return self.parts[part][place]

    def find(self, index: int) -> tuple[int, int]:
        """(the number of the sequence, the place in it) of an element."""
        part = bisect_right(self._ends, index)
        return part, index - self.spans[part].start


class Records(Chain[Table]):
    """The records of several tables."""

    def where(self, index: int) -> str:
        """The record's place as a person would look for it."""
        table, place = self.find(index)
        return self.parts[table].where(place)

    def ranges(self, column: str) -> list[range]:
        """The indices of the records that have a text column."""
        return [indices for table, indices in zip(self.parts, self.spans, strict=True) if column in table.columns]


@dataclass(frozen=True)
class Sample:
    """The index of a record, and the language (the text column) that is read of it."""

    record: int
    language: str


class Mixture:
    """A sample's index -> Sample. Languages are mixed by weight; each passes over all its records before any comes again.

    among: the indices of the records to take, by language; None: all.
    """

    def __init__(
        self,
        records: Records,
        languages: Mapping[str, float],
        *seed: int,
        among: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self._languages = list(languages)
        self._records = [Chain([among[name]] if among else records.ranges(name)) for name in languages]
        self._interleave = Interleave(list(languages.values()), *seed, 0)
        self._orders = [Shuffled(len(indices), *seed, 1, stream) for stream, indices in enumerate(self._records)]

    def __getitem__(self, index: int) -> Sample:
        stream, rank = self._interleave.deal(index)
        return Sample(self._records[stream][self._orders[stream][rank]], self._languages[stream])


def language_weights(tables: Sequence[Table], asked: Sequence[str], beside: Sequence[str] = ()) -> dict[str, float]:
    """`["en", "zh=2"]` -> weights of text columns; by default 1 for each column that a table has and `beside` does not name."""
    weights = dict(map(language_weight, asked))
    if not weights:
        weights = {name: 1.0 for table in tables for name in table.columns if name not in beside}
    if missing := [name for name in weights if not any(name in table.columns for table in tables)]:
        there = sorted({name for table in tables for name in table.columns})
        raise InputError(f"--languages {missing[0]}: no such column in the data, which has {', '.join(there)}")
    return weights


def language_weight(language: str) -> tuple[str, float]:
    """ "zh=2" -> its name and weight, which is 1 where none is said. Raises InputError."""
    name, _, said = language.partition("=")
    try:
        weight = float(said or 1)
    except ValueError:
        weight = -1
    if not 0 < weight < math.inf:
        raise InputError(f"--languages {language}: expected NAME or NAME=WEIGHT, a weight above 0, such as zh=2")
    return name, weight


def say_columns(tables: Sequence[Table], weights: Mapping[str, float]) -> None:
    """Print which columns are read, what share of the samples each has, and which are left out."""
    total = sum(weights.values())
    read = ", ".join(f"{name} {100 * weight / total:.3g} %" for name, weight in weights.items())
    read_or_image = {*weights, *(name for table in tables for name in table.columns)}
    names = dict.fromkeys(name for table in tables for name in table.present)
    left_out = [name for name in names if name not in read_or_image and name.lower() not in IMAGE_COLUMNS]
    tqdm.write(f"columns read: {read}" + (f"; left out: {', '.join(left_out)}" if left_out else ""), sys.stderr)


class LengthBatches(Generic[T]):
    """Batches of samples that are about equally long, so that hardly a padding token is computed.

    Samples are read in pools of `pool` batches, sorted by length, cut into batches, and the batches shuffled: each
    sample still comes once, and each batch is still the work of the seed and the step alone.
    """

    def __init__(
        self, read: Callable[[range], list[T]], length: Callable[[T], int], batch_size: int, seed: int, pool: int = 32
    ) -> None:
        self._batch_size, self._seed, self._pool = batch_size, seed, pool
        self._read, self._length = read, length
        self._lock = threading.Lock()
        self._pools = lru_cache(maxsize=2)(self._fill)

    def batch(self, step: int) -> list[T]:
        """The samples of one step, shortest first."""
        pool, place = divmod(step, self._pool)
        with self._lock:
            return self._pools(pool)[place]

    def _fill(self, pool: int) -> list[list[T]]:
        size = self._batch_size * self._pool
        samples = sorted(self._read(range(pool * size, (pool + 1) * size)), key=self._length)
        batches = [samples[i : i + self._batch_size] for i in range(0, size, self._batch_size)]
        order = np.random.default_rng([self._seed, 2, pool]).permutation(self._pool)
        return [batches[i] for i in order]


def normal_noise(shape: tuple[int, ...], *seed: int) -> npt.NDArray[np.float32]:
    """Normally distributed numbers that depend on the seed alone: one sample's, in whichever process."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def micro_batch(samples: Sequence[T], index: int, count: int) -> Sequence[T]:
    """Micro-batch `index` of a batch cut into `count` equal ones."""
    size = len(samples) // count
    return samples[index * size : (index + 1) * size]
