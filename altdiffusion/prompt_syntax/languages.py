"""Whether the clauses of a prompt are English, by their letters and by words.toml.

English is what isn't surely something else, so that an English prompt loses nothing. No language identifier does that on a
few words: each takes names and loan words for other languages (docs/log.md has the figures). Latin letters are told apart
for the languages of words.toml only.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from altdiffusion.files import packaged_toml

Reading = Literal["english", "other", "none"]

# no part of blue_eyes, 8k, 1girl, nor the e of ukiyo-e
_WORD = re.compile(r"(?<!\w)[^\W\d_]{2,}(?!\w)|(?<![\w-])[^\W\d_](?![\w-])")
_ONE_LETTER_WORDS = ("CJK", "HANGUL", "IDEOGRAPHIC")
_LIKE_LATIN = (
    "COMBINING",
    "DOUBLE-STRUCK",
    "FEMININE",
    "MASCULINE",
    "MATHEMATICAL",
    "MICRO",
    "MODIFIER",
    "SCRIPT",
    "VARIATION",
)


def readings(clauses: Sequence[str]) -> list[Reading]:
    """What each clause of one prompt is; "none" has no letters.

    A prompt is mostly in one language: where a clause is surely Spanish, the others need less to be taken for it.
    """
    words = _words()
    evidence = {clause: words.evidence(unicodedata.normalize("NFC", clause)) for clause in dict.fromkeys(clauses)}
    counts = Counter(language for clause in clauses for language in evidence[clause].sure)
    most = max(counts.values(), default=0)
    of_prompt = {language for language, count in counts.items() if count == most}
    found: dict[str, Reading] = {}
    for clause, each in evidence.items():
        if each.sure or not of_prompt.isdisjoint(each.possible) or in_other_letters(clause):
            found[clause] = "other"
        else:
            found[clause] = "english" if any(map(str.isalpha, clause)) else "none"
    return [found[clause] for clause in clauses]


def in_other_letters(text: str) -> bool:
    """Whether a text has words in other letters than Latin ones.

    One Chinese character or Korean syllable is a word; of other scripts two letters that stand together are: Δt isn't, nor
    (ﾟДﾟ).
    """
    if text.isascii():
        return False
    before = ""
    for character in text:
        script = script_of(character)
        if script.startswith(_ONE_LETTER_WORDS) or (script == before and script not in ("", "LATIN")):
            return True
        before = script
    return False


@cache
def script_of(character: str) -> str:
    """A letter's script, the first word of its name in Unicode; "" for what is no letter. Digits and _ count as Latin."""
    if character.isdigit() or character == "_":
        return "LATIN"
    if not character.isalpha() and not unicodedata.category(character).startswith("M"):
        return ""
    name = unicodedata.name(character, "")
    return "LATIN" if "LATIN" in name or name.startswith(_LIKE_LATIN) else re.split("[ -]", name)[0]


@dataclass(frozen=True)
class _Evidence:
    sure: Sequence[str] = ()  # languages that a clause is surely in
    possible: Sequence[str] = ()  # languages that it may be in, these among them


@dataclass(frozen=True)
class _Words:
    english: frozenset[str]
    no_evidence: re.Pattern[str]
    weights: dict[str, dict[str, int]]  # of a word by language: 2 if sure, 1 for a hint, 0 if shared

    def evidence(self, clause: str) -> _Evidence:
        """Of a clause in NFC."""
        if not any(word.lower() in self.weights for word in _WORD.findall(clause)):
            return _Evidence()
        written = _WORD.findall(self.no_evidence.sub(" ", clause))
        words = {word.lower() for word in written}
        against = len(words & self.english)
        found: dict[str, list[int]] = {}
        for word in words:
            for language, weight in self.weights.get(word, {}).items():
                found.setdefault(language, []).append(weight)
        found = {language: weights for language, weights in found.items() if len(weights) > against}
        shares = {language: len(weights) / len(words) for language, weights in found.items()}
        sure = [
            language
            for language, weights in found.items()
            if sum(weights) > 1 and sum(map(bool, weights)) > against and shares[language] > 0.3
        ]
        possible = [language for language, share in shares.items() if language in sure or share >= 0.5]
        if self._is_name(written):
            return _Evidence(
                possible=[language for language in possible if language == "de"]
            )  # its nouns have capitals
        return _Evidence(sure, possible)

    def _is_name(self, words: Sequence[str]) -> bool:
        """Whether all of several words have capitals but particles such as "de": Diego Velázquez, Día de la Luna."""
        names = [word for word in words if 0 not in self.weights.get(word, {}).values()]
        return len(names) > 1 and all(word[0].isupper() for word in names) and not all(map(str.isupper, names))


@cache
def _words() -> _Words:
    table = packaged_toml("altdiffusion.prompt_syntax", "words.toml")
    english, articles = frozenset(table.pop("english").split()), "|".join(table.pop("articles").split())
    borrowed = "|".join(map(re.escape, table.pop("borrowed")))
    no_evidence = rf"(?<!\w)(?:{borrowed})(?!\w)|(?<!\w)(?:{articles})(?!\w|\s+[^\W\d_])"
    weights: dict[str, dict[str, int]] = {}
    for language, lists in [*packaged_toml("altdiffusion.prompt_syntax", "emoji_words.toml").items(), *table.items()]:
        for weight, kind in enumerate(("shared", "hints", "sure")):
            for word in lists.get(kind, "").split():
                weights.setdefault(word, {})[language] = weight
    return _Words(english, re.compile(no_evidence, re.IGNORECASE), weights)
