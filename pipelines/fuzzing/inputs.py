"""Inputs that nobody would write: seeds and words of a format, cut, repeated, mixed, and spoilt.

Each is a pure function of its random generator, so that one is made again from its seed alone.
"""

# ruff: noqa: E501
from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
CORPORA = Path(__file__).parents[2] / "tests" / "corpora"
BETWEEN = "\n%%\n"  # what stands between the texts of a corpus
LONG = 60_000  # characters of the longest inputs, at which what takes quadratic time takes seconds
NASTY = [
    *"\0\x1b\x7f\x85\r\n\t \"'\\`|/:;,.=<>&%$#@^*?!~_-+()[]{}（）［］｛｝：｜，。＜＞",
    "\ud800", "\udcff", "\u202e", "\u2028", "\ufeff", "\ufffc", "\u0301", "\u200d", "猫", "ß", "ı", "²", "①", "½", "٣", "１", "😀",
    "..", "../", "/", "C:", "\\\\", "\r\n", "\n\n", "nan", "inf", "-1", "1e999", "0x1f", "9" * 25, "9" * 400, "1" * 5000, "null",
    "true", "{}", "[]", '""', "NUL", "BREAK", "__proto__", "{0}", "%s", "</script>", "\\ud800", "[" * 60, "{" * 60, "(" * 60,
    "[" * 2000,
]  # fmt: skip
NUMBERS = [
    0,
    1,
    7,
    127,
    128,
    255,
    256,
    511,
    512,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
]


def corpus(name: str) -> list[str]:
    """The texts of tests/corpora/NAME.txt."""
    return (CORPORA / f"{name}.txt").read_text(encoding="utf-8").removesuffix("\n").split(BETWEEN)


class Maker:
    """Makes inputs from a random generator."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)

    def one(self, choices: Sequence[T]) -> T:
        return choices[int(self.random.random() * len(choices))]

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def number(self, most: int) -> int:
        """0 to most, small ones more often."""
        return int(self.random.random() ** 2 * (most + 1))

    def text(self, seeds: Sequence[str], words: Sequence[str] = ()) -> str:
        """A seed or a row of words, changed a few times."""
        words = words or seeds
        row = [self.one(words) for _ in range(1 + self.number(12))]
        text = self.one(seeds) if seeds and self.chance(0.7) else "".join(row)
        for _ in range(self.number(5)):
            text = self._changed(text, [self.one(words), self.one(NASTY), self.one(seeds or words)])
        if self.chance(0.002):
            unit = self.one([*NASTY, *words])[:50]
            text = self._insert(text[:100], unit * (LONG // max(1, len(unit))))
        return text[: LONG + 200]

    def data(self, seeds: Sequence[bytes], words: Sequence[bytes] = ()) -> bytes:
        """A seed's bytes, changed a few times: bits, numbers in either order, parts."""
        data = self.one(seeds)
        for _ in range(self.number(6)):
            kind, at = self.number(7), int(self.random.random() * (len(data) + 1))
            if kind == 0:
                data = data[:at] + bytes([self.number(255)]) + data[at + 1 :]
            elif kind == 1 and at < len(data):
                data = data[:at] + bytes([data[at] ^ (1 << self.number(7))]) + data[at + 1 :]
            elif kind == 2:
                size, order = self.one([1, 2, 4, 8]), self.one(["little", "big"])
                number = self.one(NUMBERS) % 256**size
                data = data[:at] + number.to_bytes(size, order) + data[at + size :]  # type: ignore[arg-type]
            elif kind == 3:
                data = data[:at] + self.one([*words, b"\0" * 8, b"\xff" * 8, b"9" * 12]) + data[at:]
            else:
                data = self._changed(data, [self.one(seeds)])
        return data[: 2 * LONG]

    def value(self, depth: int = 3) -> object:
        """What JSON may hold."""
        kind = self.number(8)
        if kind <= 2:
            return self.one(["", "a", "猫", "512x512", "none", "true", *NASTY])
        if kind == 3:
            return self.one([*NUMBERS, -1, 10**400, True, False, None])
        if kind == 4:
            return self.one([0.5, 1.5, -0.5, 25.0, 1e308, float("nan"), float("inf"), float("-inf")])
        if kind == 5 or not depth:
            return None
        inside = [self.value(depth - 1) for _ in range(self.number(3))]
        return inside if kind == 6 else {str(self.one(["a", "path", *NASTY])): each for each in inside}

    def _changed(self, whole: T, more: Sequence[T]) -> T:
        """A text or bytes with a part cut out, doubled, moved, or put in."""
        kind = self.number(6)
        start, end = sorted(int(self.random.random() * (len(whole) + 1)) for _ in range(2))  # type: ignore[arg-type]
        part = whole[start:end]  # type: ignore[index]
        if kind == 0:
            return self._insert(whole, self.one(more))
        if kind == 1:
            return whole[:start] + whole[end:]  # type: ignore[index]
        if kind == 2:
            return whole[:start] + part * (1 + self.number(4)) + whole[end:]  # type: ignore[index]
        if kind == 3:
            return self._insert(whole[:start] + whole[end:], part)  # type: ignore[index]
        if kind == 4:
            return whole[:end]  # type: ignore[index]
        other = self.one(more)
        return whole[:start] + other[int(self.random.random() * len(other)) :]  # type: ignore[index,arg-type]

    def _insert(self, whole: T, part: T) -> T:
        at = int(self.random.random() * (len(whole) + 1))  # type: ignore[arg-type]
        return whole[:at] + part + whole[at:]  # type: ignore[index,operator]
