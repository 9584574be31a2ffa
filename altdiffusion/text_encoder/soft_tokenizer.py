"""A pipeline's own CLIP tokenizer, which gives soft tokens for what is not English."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from transformers import BatchEncoding

from altdiffusion.errors import InputError
from altdiffusion.prompt_syntax.route import Route, Stretch
from altdiffusion.text_encoder.soft_prompts import SoftPrompts, SoftText
from altdiffusion.text_encoder.soft_texts import SoftRun, joined, written_parts

# What a call may ask for where a prompt has soft tokens; anything else is refused.
_KNOWN = frozenset(
    ["add_special_tokens", "padding", "truncation", "max_length", "return_tensors", "return_attention_mask",
     "return_offsets_mapping", "pad_to_multiple_of", "padding_side", "verbose", "return_length", "return_token_type_ids"]
)  # fmt: skip

_OWN = ("soft_prompts", "route", "literal")  # attributes of a tokenizer with soft tokens


class Word(NamedTuple):
    """An entry of CLIP's vocabulary, and its share of a soft token's mixture, 0 to 1."""

    word: str
    share: float


class UnderstoodToken(NamedTuple):
    """A soft token: its likeliest words, and how much of it is none of the vocabulary's, 0 to 1."""

    words: list[Word]
    rest: float


class UnderstoodText(NamedTuple):
    """What a bridge understood of a text. first: the place of its first token."""

    first: int
    tokens: list[UnderstoodToken]


class SoftTokenizerMixin:
    """Over a CLIP tokenizer's class, see `soft_tokenizer`. Texts without soft tokens are tokenized by that class alone."""

    soft_prompts: SoftPrompts
    route: Route | None  # None: that of soft_prompts
    literal: tuple[str, ...]  # beside those of soft_prompts

    def __call__(self, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As the tokenizer's own; ids below zero are soft tokens.

        Raises InputError for an argument that soft tokens have no answer to, and for an open backquote.
        """
        texts = [text] if isinstance(text, str) else text
        is_text = isinstance(texts, list | tuple) and all(isinstance(each, str) for each in texts)
        if not is_text or not (prompts := self._read(texts)):
            with self.soft_prompts.tokenizer_lock:
                return super().__call__(text, *args, **kwargs)  # type: ignore[misc]
        if args or (unknown := {name for name in kwargs if kwargs[name] and name not in _KNOWN}):
            named = ", ".join(sorted(unknown)) if not args else "arguments by position"
            raise InputError(f"the tokenizer has no answer to {named} for a prompt that a bridge reads: leave it out")
        special = kwargs.get("add_special_tokens", True)
        longest = kwargs.get("max_length") or self.model_max_length  # type: ignore[attr-defined]
        room = max(0, longest - 2 * special) if kwargs.get("truncation") else None
        rows: list[list[int]] = []
        offsets: list[list[tuple[int, int]]] = []
        for tokens in prompts:
            ids, places = [token for token, _ in tokens][:room], [place for _, place in tokens][:room]
            if special:
                ids, places = [self.bos_token_id, *ids, self.eos_token_id], [(0, 0), *places, (0, 0)]  # type: ignore[attr-defined]
            rows.append(ids)
            offsets.append(places)
        options = {name: kwargs[name] for name in ("pad_to_multiple_of", "padding_side") if name in kwargs}
        encoded: BatchEncoding = self.pad(  # type: ignore[attr-defined]
            {"input_ids": rows}, padding=kwargs.get("padding", False), max_length=kwargs.get("max_length"),
            return_attention_mask=kwargs.get("return_attention_mask"), return_tensors=kwargs.get("return_tensors"),
            verbose=False, **options,
        )  # fmt: skip
        if kwargs.get("return_offsets_mapping"):
            encoded["offset_mapping"] = offsets
        if kwargs.get("return_length"):
            encoded["length"] = list(map(len, rows))
        if isinstance(text, str) and kwargs.get("return_tensors") is None:
            return BatchEncoding({name: values[0] for name, values in encoded.items()})
        return encoded

    def encode(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(text, str) and self._read([text]):
            return self(text, *args, **kwargs)["input_ids"]
        with self.soft_prompts.tokenizer_lock:
            return super().encode(text, *args, **kwargs)  # type: ignore[misc]

    def tokenize(self, text: str, *args: Any, **kwargs: Any) -> list[str]:
        if not (prompts := self._read([text])):
            with self.soft_prompts.tokenizer_lock:
                tokens: list[str] = super().tokenize(text, *args, **kwargs)  # type: ignore[misc]
            return tokens
        return list(self.convert_ids_to_tokens([token for token, _ in prompts[0]]))

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """A soft token is shown as the likeliest entry of its mixture, as 〈cat〉."""
        if isinstance(ids, int):
            return self._name(ids)
        special = set(self.all_special_ids) if skip_special_tokens else set()  # type: ignore[attr-defined]
        return [self._name(int(token)) for token in ids if int(token) not in special]

    def _decode(self, token_ids: Any, **kwargs: Any) -> str:
        """A text that these tokens are read from again, as tools that expand textual inversions want it.

        Soft tokens are the whole text that they are of, even if some of them were cut off; literal words stand in backquotes
        where they would not stay literal without.
        """
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        decode = super()._decode  # type: ignore[misc]
        runs = [run if isinstance(run, SoftRun) else decode(run, **kwargs) for _, run in self._runs(ids)]
        parts = written_parts(runs)
        is_prompt = self.bos_token_id not in ids and self.eos_token_id not in ids  # type: ignore[attr-defined]
        soft = [run.soft.text for run in runs if isinstance(run, SoftRun) and not run.first]
        text = joined(parts)
        return text if not is_prompt or self._reads(text, soft) else joined(parts, quoted=True)

    def _runs(self, ids: Sequence[int]) -> list[tuple[int, list[int] | SoftRun]]:
        """(where it begins, tokens that follow one another): literal ones, or those of one text; not those that were dropped."""
        runs: list[tuple[int, list[int] | SoftRun]] = []
        for at, token in enumerate(ids):
            found = self.soft_prompts.text_of(token) if token < 0 else None
            first, last = runs[-1] if runs else (0, None)
            if token >= 0 and isinstance(last, list):
                last.append(token)
            elif token >= 0:
                runs.append((at, [token]))
            elif found is None:
                continue
            elif isinstance(last, SoftRun) and last.soft is found[0] and last.end == found[1]:
                runs[-1] = first, last._replace(end=last.end + 1)
            else:
                runs.append((at, SoftRun(found[0], found[1], found[1] + 1)))
        return runs

    def _reads(self, text: str, soft: list[str]) -> bool:
        """Whether these are the parts of a text that become soft tokens."""
        try:
            return [part.text for part in self._stretches(text) if not part.literal] == soft
        except InputError:  # a backquote among the literal words
            return False

    def _name(self, token: int) -> str:
        convert = super().convert_ids_to_tokens  # type: ignore[misc]
        if token >= 0:
            literal: str = convert(token)
            return literal
        likeliest = self._likeliest(token)
        return "〈?〉" if likeliest is None else f"〈{convert(likeliest).removesuffix('</w>')}〉"

    def tokenized(self, text: str, cuts: Collection[int]) -> tuple[list[int], list[tuple[int, int]]]:
        """(token ids, where each begins and ends in the text), uncut, without begin and end tokens.

        cuts: offsets that no soft token reaches over, see `stretches`.
        """
        tokens = self._tokens_of([self._stretches(text, cuts)])[0]
        return [token for token, _ in tokens], [place for _, place in tokens]

    def understood(self, ids: Sequence[int]) -> list[UnderstoodText]:
        """What the soft tokens among these are of, in order: once for each run of one text's tokens."""
        return [
            UnderstoodText(at, [self._understood(run.soft, place) for place in range(run.first, run.end)])
            for at, run in self._runs(ids)
            if isinstance(run, SoftRun)
        ]

    def _understood(self, soft: SoftText, place: int) -> UnderstoodToken:
        words = [Word(self._written(word), share) for word, share in soft.words[place]]
        return UnderstoodToken(words, soft.rests[place])

    def _written(self, entry: int) -> str:
        """An entry of the vocabulary as it reads: with a hyphen behind one that ends no word."""
        piece: str = super().convert_ids_to_tokens(entry)  # type: ignore[misc]
        text: str = self.convert_tokens_to_string([piece.removesuffix("</w>")])  # type: ignore[attr-defined]
        return text.strip() + "-" * (not piece.endswith(("</w>", "|>")))

    def in_english(self, ids: Sequence[int]) -> str:
        """The text of these tokens, soft ones as the words of CLIP's vocabulary that they are nearest to."""
        words = [self._likeliest(token) if token < 0 else token for token in ids]
        text: str = super()._decode([word for word in words if word is not None])  # type: ignore[misc]
        return text.strip()

    def _likeliest(self, token: int) -> int | None:
        """The entry of CLIP's vocabulary that a soft token is nearest to, None for one that was dropped."""
        found = self.soft_prompts.text_of(token)
        return None if found is None else found[0].words[found[1]][0][0]

    def _stretches(self, text: str, cuts: Collection[int] = ()) -> list[Stretch]:
        special = set(self.all_special_tokens)  # type: ignore[attr-defined]
        added = [name for name in self.added_tokens_encoder if name not in special]  # type: ignore[attr-defined]
        return self.soft_prompts.stretches(text, [*added, *self.literal], self.route, cuts)

    def _read(self, texts: Sequence[str]) -> list[list[tuple[int, tuple[int, int]]]]:
        """(token id, its characters) of each text, without begin and end; nothing where no text has soft tokens."""
        parts = [self._stretches(text) for text in texts]
        if all(part.literal and part.text == text for text, some in zip(texts, parts, strict=True) for part in some):
            return []
        return self._tokens_of(parts)

    def _tokens_of(self, parts: Sequence[Sequence[Stretch]]) -> list[list[tuple[int, tuple[int, int]]]]:
        wanted = [part.text for some in parts for part in some if not part.literal]
        soft = dict(zip(wanted, self.soft_prompts.read(wanted), strict=True))
        return [[token for part in some for token in self._tokens(part, soft)] for some in parts]

    def _tokens(self, part: Stretch, soft: dict[str, SoftText]) -> list[tuple[int, tuple[int, int]]]:
        if not part.literal:
            read = soft[part.text]
            around = [(token, (part.start, part.end)) for token in read.ids]
            if part.inner is None:
                return around
            return [*around[: read.hole], *self._tokens(part.inner, soft), *around[read.hole :]]
        with self.soft_prompts.tokenizer_lock:
            encoded = super().__call__(  # type: ignore[misc]
                part.text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
            )
        # a literal part may have lost its backquotes, or stand for a comma of another script: places are kept within it
        return [
            (token, (min(part.start + start, part.end), min(part.start + end, part.end)))
            for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]

    def __reduce__(self) -> Any:
        return soft_tokenizer, (_plain(self), self.soft_prompts, self.route, self.literal)


def soft_tokenizer(
    tokenizer: Any, soft_prompts: SoftPrompts, route: Route | None = None, literal: Collection[str] = ()
) -> Any:
    """A tokenizer of the same class and vocabulary that gives soft tokens for what is not English.

    It is saved as the plain one. The vocabulary is shared: tokens added to the one are the other's, too.
    route: in place of soft_prompts' own. literal: words beside its own.
    """
    plain = _plain(tokenizer)
    base: Any = type(plain)
    plain.__class__ = _soft_class(base)
    plain.soft_prompts, plain.route, plain.literal = soft_prompts, route, tuple(literal)
    return plain


def routed(tokenizer: Any, route: Route | None, literal: Collection[str] = ()) -> Any:
    """A pipeline's tokenizer as one prompt wants it; the pipeline keeps its own.

    Raises InputError for a route or literal words where no bridge stands at CLIP's entrance.
    """
    if route is None and not literal:
        return tokenizer
    if not isinstance(tokenizer, SoftTokenizerMixin):
        said = " and ".join(["route"] * (route is not None) + ["literal"] * bool(literal))
        raise InputError(
            f"{said}: this model has no bridge at CLIP's entrance, which alone takes a route: leave it out"
        )
    return soft_tokenizer(tokenizer, tokenizer.soft_prompts, route, literal)


def _plain(tokenizer: Any) -> Any:
    """The tokenizer without soft tokens, its vocabulary shared."""
    own: Any = type(tokenizer)
    base = own.__bases__[1] if issubclass(own, SoftTokenizerMixin) else own
    plain = base.__new__(base)
    plain.__dict__ = {name: value for name, value in vars(tokenizer).items() if name not in _OWN}
    return plain


@functools.cache
def _soft_class(base: type) -> Any:
    """Named as its base is, as saved files name a tokenizer's class."""
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    return type(base.__name__, (SoftTokenizerMixin, base), names)
