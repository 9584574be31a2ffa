"""Prompt editing, A1111's name for prompts that change over the steps: [from:to:when] and [a|b]."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from altdiffusion.errors import InputError
from altdiffusion.prompt_syntax.tokens import BracketedPrompt, ascii_number, is_prose, malformed


@dataclass(frozen=True)
class ScheduledPrompt:
    """A prompt for the steps before `until`, counted from 0, that no earlier one has."""

    until: int
    prompt: str


def schedule(prompt: str, steps: int, lenient: bool = False) -> list[ScheduledPrompt]:
    """The prompts of an image's steps, in order; the last one is until `steps`. Weights and escapes are still in them.

    Raises InputError for what isn't [from:to:when], [to:when], [from::when] or [a|b], and for a time that no step has.
    lenient: such brackets are text. All is as A1111 reads it then, which leaves a whole prompt unread if a | is elsewhere;
        where its grammar has two readings, and chance decides there, the outermost brackets are read.
    """
    if steps < 1:
        raise InputError(f"steps: expected at least 1, got {steps}")
    if "[" not in prompt and "［" not in prompt:
        return [ScheduledPrompt(steps, prompt)]
    nodes = _Reader(prompt, steps, lenient).read()
    prompts: list[ScheduledPrompt] = []
    for until in sorted({steps, *_changes(nodes, steps)}):
        text = "".join(_texts(nodes, until))
        if prompts and prompts[-1].prompt == text:
            prompts.pop()
        prompts.append(ScheduledPrompt(until, text))
    return prompts


def every_branch(prompt: str, steps: int) -> Iterator[str]:
    """Texts in which everything that the prompt changes to is once, the other brackets at their first. Raises as `schedule`."""
    return _covering(_Reader(prompt, steps, lenient=False).read())


@dataclass(frozen=True)
class _Edit:
    before: list[Node]
    after: list[Node]
    when: int  # the last step, counted from 1, that has `before`

    def at(self, step: int) -> list[Node]:
        return self.before if step <= self.when else self.after

    @property
    def branches(self) -> list[list[Node]]:
        return [self.before, self.after]


@dataclass(frozen=True)
class _Alternation:
    options: list[list[Node]]

    def at(self, step: int) -> list[Node]:
        return self.options[(step - 1) % len(self.options)]

    @property
    def branches(self) -> list[list[Node]]:
        return self.options


Node = str | _Edit | _Alternation


def _covering(nodes: Sequence[Node]) -> Iterator[str]:
    first = [node if isinstance(node, str) else next(_covering(node.branches[0])) for node in nodes]
    yield "".join(first)
    for place, node in enumerate(nodes):
        for branch in () if isinstance(node, str) else node.branches:
            yield from ("".join([*first[:place], text, *first[place + 1 :]]) for text in _covering(branch))


def _texts(nodes: Iterable[Node], step: int) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, str):
            yield node
        else:
            yield from _texts(node.at(step), step)


def _changes(nodes: Iterable[Node], steps: int) -> Iterator[int]:
    """Steps, counted from 1, after which the text may be another one."""
    for node in nodes:
        if isinstance(node, _Alternation):
            yield from range(1, steps)
        elif isinstance(node, _Edit):
            if node.when >= 1:
                yield node.when
            yield from _changes(node.before, steps)
            yield from _changes(node.after, steps)


class _Reader:
    def __init__(self, prompt: str, steps: int, lenient: bool) -> None:
        self.source = BracketedPrompt(prompt, lenient=lenient)
        self.steps = steps
        self.lenient = lenient

    def read(self) -> list[Node]:
        nodes: list[Node] = []
        position = 0
        while position < len(self.source.tokens):
            token = self.source.tokens[position]
            if self.lenient and (token.kind == "|" or token.text in ("\\", "\\\n")):
                return [self.source.prompt]  # A1111's grammar has no place for these
            try:
                read, position = self._next(position)
            except InputError:
                if not self.lenient:
                    raise
                read, position = [token.text], position + 1
            nodes += read
        return nodes

    def _next(self, position: int) -> tuple[Sequence[Node], int]:
        """The nodes that begin with a token, and the position after them."""
        token = self.source.tokens[position]
        if token.kind == "[" and position in self.source.pairs:
            return self._square(position), self.source.pairs[position] + 1
        return [token.text], position + 1

    def _nodes(self, start: int, end: int) -> list[Node]:
        nodes: list[Node] = []
        while start < end:
            read, start = self._next(start)
            nodes += read
        return nodes

    def _square(self, opened: int) -> Sequence[Node]:
        closed = self.source.pairs[opened]
        if self.lenient:
            self._check_round_brackets(opened, closed)
        cuts = list(self.source.cuts(opened, ":|"))
        parts = [(start + 1, end) for start, end in pairwise([opened, *cuts, closed])]
        kinds = {self.source.tokens[cut].kind for cut in cuts}
        if kinds == {"|"}:
            options = [self._nodes(*part) for part in parts]
            self._expect(opened, any(options) or self.lenient, "nothing is in it")
            return [_Alternation(options)]
        self._expect(opened, "|" not in kinds, "it has both bars and colons")
        when = self._when(opened, *parts[-1]) if cuts else None
        if when is None:  # a weight, which the next stage reads
            return [self.source.tokens[opened].text, *self._nodes(opened + 1, closed), self.source.tokens[closed].text]
        self._expect(opened, len(cuts) <= 2, "it has too many colons")
        *before, after = [self._nodes(*part) for part in parts[:-1]]
        self._expect(opened, any(before) or bool(after) or self.lenient, "nothing is in it")
        return [_Edit(before[0] if before else [], after, when)]

    def _when(self, opened: int, start: int, end: int) -> int | None:
        """The step that is written behind the last colon; None where the colon is text."""
        written = self.source.text(start, end)
        number = ascii_number(written)
        if number is None:
            prose = is_prose(self.source.tokens[start - 1].text + written) and not self.lenient
            self._expect(opened, prose, f"“{written.strip()}” is no step")
            return None
        value = float(number)
        if "." in number:
            problem = f"{value:g} is no fraction of the steps; a weight has round brackets, as in (cat:1.2)"
            self._expect(opened, 0 <= value <= 1 or self.lenient, problem)
            value *= self.steps
        self._expect(opened, value >= 0 or self.lenient, "that step is before the first")
        return min(self.steps, int(value))

    def _expect(self, opened: int, holds: bool, problem: str) -> None:
        if not holds:
            shown = self.source.text(opened, self.source.pairs[opened] + 1)
            remedy = "expected [from:to:10] (a step) or [from:to:0.5] (half of the steps), [to:10], [from::10] or [a|b]"
            at = self.source.tokens[opened].at
            raise malformed(self.source.prompt, at, problem, f"{remedy}; write \\[ for a bracket that is text", shown)

    def _check_round_brackets(self, opened: int, closed: int) -> None:
        """A1111 edits nothing around round brackets that have a bar or two colons."""
        for inner in range(opened + 1, closed):
            if inner in self.source.pairs and self.source.tokens[inner].kind == "(":
                cuts = [self.source.tokens[cut].kind for cut in self.source.cuts(inner, ":|")]
                self._expect(opened, "|" not in cuts and len(cuts) <= 1, "round brackets in it have too many parts")
