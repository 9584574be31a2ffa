"""Which sentences of general parallel text read like captions, and tables of those records alone.

Public parallel text is subtitles, software and web pages; prompts describe what is seen. The rules are few and their limits
stand here, so that what is left out can be told in a line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from altdiffusion.data.table import BadRecord, Table

MIN_WORDS = 2  # one word alone is mostly a cry or a button
MAX_WORDS = 40  # about the 75 tokens that CLIP reads
MAX_DIGITS = 0.1  # of the characters: beyond it stand prices, dates, scores and lists
_ADDRESS = re.compile(r"https?:|www\.|\w@\w|\w\.(?:com|org|net)\b", re.IGNORECASE)
_MARKUP = re.compile(r"[<>{}\[\]|\\=_#%$*^~♪]|\.\.\.|…")
# words of people who talk to each other; "us" as the country and "I" in Roman numbers are lost with them
_DIALOGUE = re.compile(
    r"^\s*[-–—]|\?|\b(?:i|me|my|mine|we|us|our|ours|you|your|yours|let's|please|yes|no|okay|hey|sir|oh)\b",
    re.IGNORECASE,
)


def why_no_caption(english: str) -> str | None:
    """Why a sentence doesn't read like a caption, in two words or so; None where it does."""
    if not MIN_WORDS <= len(english.split()) <= MAX_WORDS:
        return f"not {MIN_WORDS} to {MAX_WORDS} words"
    if _ADDRESS.search(english):
        return "an address"
    if sum(char.isdigit() for char in english) > MAX_DIGITS * len(english):
        return "digits"
    if _MARKUP.search(english):
        return "markup"
    return "dialogue" if _DIALOGUE.search(english) else None


class CaptionTable(Table):
    """The records of a table whose English reads like a caption, numbered from 0.

    left_out: how many are not among them, by reason.
    """

    def __init__(self, table: Table, english: str) -> None:
        """english: the column that is judged."""
        self.path, self.columns, self.present = table.path, table.columns, table.present
        self.left_out: Counter[str] = Counter()
        self._table = table

        def judge(record: Mapping[str, Any]) -> None:
            if reason := why_no_caption(record[english]):
                raise BadRecord(reason)

        self._check(table, judge, lambda where, reason: self.left_out.update([reason]))

    def _read(self, position: int) -> dict[str, Any]:
        return self._table[position]

    def _where(self, position: int) -> str:
        return self._table.where(position)

    def summary(self) -> str:
        """`captions.tsv: 700 of 1,000 records read like captions; left out: 200 dialogue, 100 digits`"""
        total = len(self) + self.left_out.total()
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.most_common())
        return f"{self.path}: {len(self):,} of {total:,} records read like captions; left out: {reasons or 'none'}"
