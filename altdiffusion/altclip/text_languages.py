"""Which language a text is in, of those that a model is calibrated for.

English is told from the others by our own word lists, which are right on a word or two; the others are told apart by
py3langid, which needs a few words: of mini's captions it takes 99 % for what they are, of single words many for another.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Collection
from typing import Any, NamedTuple

from altdiffusion.errors import InputError
from altdiffusion.prompt_syntax.languages import readings, script_of

FOREIGN = 0.6  # how much likelier a language that isn't known must be than all that are
SURE = 0.2  # probability among all of py3langid's languages


class Found(NamedTuple):
    """language: a known one, or another that the text is surely in (`known` is False then)."""

    language: str
    known: bool
    sure: bool


def is_there() -> bool:
    """Whether languages can be found: py3langid is installed."""
    return importlib.util.find_spec("py3langid") is not None


def check() -> None:
    """Raises InputError where languages can't be found."""
    if not is_there():
        raise InputError(
            "the language of a text is found by the package py3langid: pip install py3langid, "
            "or name the language (--language zh, language='zh')"
        )


def find_language(text: str, known: Collection[str]) -> Found:
    """The language of one text. known: codes of two letters, such as "zh". Raises InputError without py3langid."""
    if "en" in known and readings([text])[0] != "other":
        return Found("en", True, True)
    ranked = [pair for pair in _identifier().rank(text) if pair[0] != "en"]
    best, likelihood = ranked[0]
    candidates = [pair for pair in ranked if pair[0] in known]
    if likelihood < 2 / len(ranked):  # alike for all: too short, as one Chinese character is
        candidates = [(name, 1.0) for name in ("zh", "ja") if name in known and _is_han(text)] or candidates
    if not candidates:
        return Found(best, False, likelihood > SURE)
    if best not in known and likelihood - candidates[0][1] > FOREIGN:
        return Found(best, False, True)
    return Found(candidates[0][0], True, candidates[0][1] > SURE)


def _is_han(text: str) -> bool:
    scripts = set(map(script_of, text)) - {""}
    return bool(scripts) and all(script.startswith("CJK") for script in scripts)


@functools.cache
def _identifier() -> Any:
    check()
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
