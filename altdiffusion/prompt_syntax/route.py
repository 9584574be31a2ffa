"""Which stretches of a prompt are for CLIP as they stand, and which go through the bridge at CLIP's entrance.

Pure: no tokenizer, no model. An English prompt is one literal stretch, so that CLIP gives what it gives without us.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from altdiffusion.errors import InputError
from altdiffusion.prompt_syntax.clauses import CLAUSE_ENDS, clauses_of
from altdiffusion.prompt_syntax.languages import readings, script_of
from altdiffusion.prompt_syntax.tokens import malformed

Route = Literal["auto", "all", "none"]


@dataclass(frozen=True)
class Stretch:
    """A part of a prompt. start, end: its characters in the prompt as given. text: what is read, without backquotes.

    literal: whether CLIP reads it by its own tokens; else it goes through the bridge.
    inner: a literal stretch in the midst of one for the bridge, whose text has HOLE in its place.
    """

    start: int
    end: int
    text: str
    literal: bool
    inner: Stretch | None = None


def stretches(
    text: str,
    route: Route = "auto",
    literal_words: Collection[str] = (),
    cuts: Collection[int] = (),
    holes: bool = False,
) -> list[Stretch]:
    """A prompt's stretches, in order and without gaps, literal ones and others by turns, but for `cuts` and `holes`.

    route: "auto" leaves clauses literal that aren't surely in another language than English; "all" leaves nothing literal
        but what stands in backquotes and literal_words; "none" leaves all as it is, backquotes too.
    literal_words: names of textual inversions and triggers of LoRAs, in any case.
    cuts: offsets that no stretch for the bridge reaches over, as where a weight changes. Signs and spaces at one are literal.
    holes: whether a clause for the bridge with one literal part is one stretch, with that part as its `inner`; not if the
        part begins with a preposition, as "on a hill", which stands well where it stands.
    Full-width commas and the like become ASCII's in literal stretches beside others.
    Raises InputError for another route and for a backquote that isn't closed; \\` and `` are a backquote that is text.
    """
    check_route(route)
    if route == "none" or not text:
        return [Stretch(0, len(text), text, True)]
    signs = list(_backquotes(text))
    quoted = [(start, end) for start, end, is_quoted in signs if is_quoted]
    masked = _masked(text, [(start, end) for start, end, _ in signs])
    named = _found(masked, literal_words)
    clauses = clauses_of(masked)
    if route == "auto":
        without_names = _masked(masked, named)
        read = readings([without_names[start:end] for start, end in clauses])
        bridged = [reading == "other" for reading in read]
    else:
        bridged = [True] * len(clauses)
    kinds = bytearray(len(text))  # by character: 1 goes through the bridge, and so does 2, behind a cut
    for (start, end), through in zip(clauses, bridged, strict=True):
        if through:
            kinds[start:end] = b"\1" * (end - start)
    for start, end in [*quoted, *named]:
        kinds[start:end] = bytes(end - start)
    for cut in set(cuts):
        kinds[cut:] = kinds[cut:].translate(_BEHIND_CUT)
    inner = _holes(masked, text, clauses, kinds, cuts) if holes else []
    _leave_signs(masked, kinds)
    read_as = _read_as(text, signs, kinds)
    return [_stretch(read_as, start, end, bool(kinds[start]), inner) for start, end in _runs(kinds)]


def _stretch(read_as: list[str], start: int, end: int, bridged: bool, inner: Collection[tuple[int, int]]) -> Stretch:
    for first, last in inner:
        if bridged and start <= first < end:
            literal = Stretch(first, last, "".join(read_as[first:last]).strip(), True)
            around = "".join(read_as[start:first]) + HOLE + "".join(read_as[last:end])
            return Stretch(start, end, around, False, literal)
    return Stretch(start, end, "".join(read_as[start:end]), not bridged)


def check_route(route: str) -> None:
    """Raise InputError for what is no route."""
    if route not in get_args(Route):
        raise InputError(f"route: expected {', '.join(get_args(Route))}, got {route!r}")


HOLE = "\ufffc"  # in the text of a stretch, what stands for its inner one
# what stands for a quoted part or a name while clauses are sought: no letter, no space, no clause's end
_MASK = HOLE
_BEHIND_CUT = bytes.maketrans(b"\1\2", b"\2\1")
_SIGNS = "".join(CLAUSE_ENDS) + string.whitespace
_PREPOSITION = re.compile(
    r"[\s`]*(?:above|across|after|against|along|among|around|as|at|before|behind|below|beneath|beside|between|by|for|from|in|inside"
    r"|into|like|near|of|off|on|onto|outside|over|through|to|toward|towards|under|upon|with|within|without)\s",
    re.IGNORECASE,
)
_BACKQUOTES = re.compile(r"\\`|``|`")
_ASCII_SIGNS = {
    **dict.fromkeys("，、､،၊፣", ","),
    **dict.fromkeys("。｡۔।॥။።", "."),
    **dict.fromkeys("；؛", ";"),
    **dict.fromkeys("！", "!"),
    **dict.fromkeys("？؟", "?"),
}


def _backquotes(text: str) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether it is a quoted part) of what backquotes enclose, and of backquotes that are text."""
    opened = None
    for found in _BACKQUOTES.finditer(text):
        if len(found[0]) == 2:
            if opened is None:
                yield found.start(), found.end(), False
        elif opened is None:
            opened = found.start()
        else:
            yield opened, found.end(), True
            opened = None
    if opened is not None:
        # not \\`: where weights are read too, that stage takes the backslash away
        remedy = "expected `words` that CLIP shall read as they are; write `` for a backquote that is text"
        raise malformed(text, opened, "this backquote isn't closed", remedy)


def _masked(text: str, parts: Collection[tuple[int, int]]) -> str:
    if not parts:
        return text
    characters = list(text)
    for start, end in parts:
        characters[start:end] = _MASK * (end - start)
    return "".join(characters)


def _found(text: str, words: Collection[str]) -> list[tuple[int, int]]:
    """Where one of the words stands, the longest first: whole, or beside letters of another script as in sks风格的猫."""
    pattern = _any_of(frozenset(words))
    if pattern is None:
        return []
    found = []
    at = 0
    while match := pattern.search(text, at):
        start, end = match.span()
        if _is_boundary(text, start) and _is_boundary(text, end):
            found.append((start, end))
            at = end
        else:
            at = start + 1
    return found


@lru_cache(maxsize=64)
def _any_of(words: frozenset[str]) -> re.Pattern[str] | None:
    names = sorted(filter(None, map(str.strip, words)), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)), re.IGNORECASE) if names else None


def _is_boundary(text: str, at: int) -> bool:
    before, after = (script_of(character) if character else "" for character in (text[at - 1 : at], text[at : at + 1]))
    return not before or before != after


def _holes(
    text: str, read: str, clauses: Collection[tuple[int, int]], kinds: bytearray, cuts: Collection[int]
) -> list[tuple[int, int]]:
    """The literal parts of clauses that have one and are otherwise for the bridge; these clauses become stretches of their own.

    read: the text with what is quoted. kinds: by character, is changed: 3 and 4 by turns are such a clause with its literal
    part, without signs behind it.
    """
    found: list[tuple[int, int]] = []
    for start, end in clauses:
        content = text[start:end].rstrip(_SIGNS)
        end = start + len(content)
        is_bridged = [bool(kind) for kind in kinds[start:end]]
        parts = "".join(
            ("B" if not character.isspace() else " ") if kind else "L"
            for kind, character in zip(is_bridged, content, strict=True)
        )
        literal = [part.span() for part in re.finditer("L+(?: +L+)*", parts)]
        has_words = any(kind and _is_word(character) for kind, character in zip(is_bridged, content, strict=True))
        if len(literal) == 1 and has_words and not any(start < cut < end for cut in cuts):
            if _PREPOSITION.match(read, start + literal[0][0], start + literal[0][1]):
                continue
            kinds[start:end] = bytes([3 + len(found) % 2]) * (end - start)
            found.append((start + literal[0][0], start + literal[0][1]))
    return found


def _is_word(character: str) -> bool:
    return character.isalnum() or not character.isascii()


def _leave_signs(text: str, kinds: bytearray) -> None:
    """Signs and spaces between a stretch for the bridge and another one become literal, and what is nothing but signs."""
    ahead, behind = range(1, len(text)), range(len(text) - 2, -1, -1)
    for positions, step in ((ahead, -1), (behind, 1)):
        for at in positions:
            if kinds[at] and kinds[at] != kinds[at + step] and (text[at].isspace() or text[at] in CLAUSE_ENDS):
                kinds[at] = 0
    for start, end in list(_runs(kinds)):
        if kinds[start] and not any(map(_is_word, text[start:end])):
            kinds[start:end] = bytes(end - start)


def _read_as(text: str, signs: Collection[tuple[int, int, bool]], kinds: bytearray) -> list[str]:
    """What is read for each character. Literal commas and the like become ASCII's where not all is literal."""
    characters = list(text)
    if any(kinds):
        for at, character in enumerate(text):
            if character == HOLE:
                characters[at] = " "
            elif character in _ASCII_SIGNS and not kinds[at]:
                space = "" if text[at + 1 : at + 2].isspace() else " "
                characters[at] = _ASCII_SIGNS[character] + space
    for start, end, is_quoted in signs:
        inside = text[start + 1 : end - 1].replace("\\`", "`").replace("``", "`") if is_quoted else "`"
        characters[start:end] = [inside, *[""] * (end - start - 1)]
    return characters


def _runs(kinds: bytearray) -> Iterator[tuple[int, int]]:
    """(start, end) of each run of equal numbers."""
    return (run.span() for run in re.finditer(rb"\x00+|\x01+|\x02+|\x03+|\x04+", kinds))
