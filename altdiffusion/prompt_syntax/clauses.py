"""Where a prompt's clauses end, in any script: long prompts are cut there into chunks, and mixed ones into languages."""

from __future__ import annotations

CLAUSE_ENDS = frozenset(",.;:!?，。；：！？、､｡…،؛؟۔।॥၊။።፣")


def ends_clause(text: str, at: int) -> bool:
    """Whether the text before an index ends with a clause's last sign; the comma and the point of 1,000 and 1.5 don't count."""
    last = text[at - 1 : at]
    return last in CLAUSE_ENDS and not (last in ",." and text[at : at + 1].isdigit())
