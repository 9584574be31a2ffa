"""Where a prompt's clauses end, in any script: long prompts are cut there into chunks, and mixed ones into languages."""

from __future__ import annotations

import re
from itertools import pairwise

CLAUSE_ENDS = frozenset(",.;:!?，。；：！？、､｡…،؛؟۔।॥၊။።፣")
_LINE_BREAKS = "\n\r\u2028\u2029"
_SIGNS_AND_SPACES = re.compile(rf"[{re.escape(''.join(sorted(CLAUSE_ENDS)))}\s]+")


def ends_clause(text: str, at: int) -> bool:
    """Whether the text before an index ends with a clause's last sign; the comma and the point of 1,000 and 1.5 don't count."""
    last = text[at - 1 : at]
    return last in CLAUSE_ENDS and not (last in ",." and text[at : at + 1].isdigit())


def clauses_of(text: str) -> list[tuple[int, int]]:
    """(start, end) of each clause, with the signs and spaces behind it."""
    ends = [
        run.end() for run in _SIGNS_AND_SPACES.finditer(text) if any(_is_end(text, at) for at in range(*run.span()))
    ]
    return list(pairwise(dict.fromkeys([0, *ends, len(text)])))


def _is_end(text: str, at: int) -> bool:
    """Whether the sign at an index ends a clause; none does in 照片：猫, 1.5, artstation.com and J. R. R. Tolkien."""
    sign, behind = text[at], text[at + 1 : at + 2]
    if sign in _LINE_BREAKS:
        return True
    if sign in ":：" or not ends_clause(text, at + 1) or (sign in ".;!?" and behind.isalnum()):
        return False
    return not (sign == "." and text[at - 1 : at].isupper() and not text[max(0, at - 2) : at - 1].isalnum())
