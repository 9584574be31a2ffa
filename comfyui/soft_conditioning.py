"""A prompt as tokens of ComfyUI's own CLIP: what isn't English is soft tokens, which stand there as textual inversions do.

ComfyUI's own tokenizer reads the prompt, its weights and textual inversions included, with CLIP's begin token written for each
soft token; then these are replaced by vectors. So whatever ComfyUI does to a prompt it does here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from comfy.sd1_clip import escape_important, token_weights, unescape_important
from torch import Tensor

from altdiffusion import InputError
from altdiffusion.prompt_syntax.clauses import clauses_of
from altdiffusion.prompt_syntax.route import Route, Stretch
from altdiffusion.text_encoder.soft_prompts import SoftPrompts, SoftText

from .models import LoadedBridge, on_device

Tokens = dict[str, list[list[tuple[Any, ...]]]]  # by CLIP, in chunks of 77: (id or vector, weight)

MARK = "<|startoftext|>"  # one token of CLIP's, that no prompt has
_SEAM = "\x1f"  # between parts of different weights; white space, so that no word reaches over it
_CLIPS = ("l", "g", "h")  # ComfyUI's names of CLIPs, those of XL in the order of a bridge's embedding widths
_INVERSION = re.compile(r"embedding:[^\s,，、。;；]+")
_FULL_WIDTH = re.compile(r"（([^（）()]*)[:：]([+-]?\d*\.?\d+)）")  # a weight as Chinese keyboards write it


class Part(NamedTuple):
    """Text with one weight; MARK stands for each soft token."""

    text: str
    weight: float


class SoftPrompt(NamedTuple):
    """A prompt with the ids of its soft tokens in the order of their MARKs."""

    parts: list[Part]
    ids: list[int]


def encode(clip: Any, bridge: LoadedBridge, text: str, route: Route, literal: Collection[str]) -> tuple[Any, str]:
    """(CONDITIONING, what CLIP reads in English). clip: ComfyUI's.

    Raises InputError for a CLIP that the bridge isn't for, and for an open backquote.
    """
    text = _FULL_WIDTH.sub(r"(\1:\2)", text)
    names = _clip_names(clip.tokenize(""))
    layers = [getattr(clip.cond_stage_model, f"clip_{name}").transformer.get_input_embeddings() for name in names]
    prompts = bridge.soft_prompts(clip.cond_stage_model, [layer.weight.detach() for layer in layers])
    read = soft_prompt(prompts, text, route, literal)
    if read is None:
        return clip.encode_from_tokens_scheduled(clip.tokenize(text)), text
    tokens = with_vectors(tokenized(clip, read.parts), names, prompts, read.ids)
    return clip.encode_from_tokens_scheduled(tokens), in_english(clip, names[0], prompts, read)


def _clip_names(tokens: Tokens) -> list[str]:
    if len(tokens) > 2 or not set(tokens) <= set(_CLIPS):
        raise InputError(
            f"this model reads prompts by {', '.join(tokens)}: expected the CLIP of a Stable Diffusion 1.x, 2.x or XL"
        )
    return sorted(tokens, key=_CLIPS.index)


def soft_prompt(prompts: SoftPrompts, text: str, route: Route, literal: Collection[str]) -> SoftPrompt | None:
    """A prompt in ComfyUI's syntax with its soft tokens; None where CLIP reads it as it stands."""
    if MARK in text:
        raise InputError(f"the prompt has {MARK}, which is CLIP's own sign for its begin: leave it out")
    parts = [Part(unescape_important(part), weight) for part, weight in token_weights(escape_important(text), 1.0)]
    plain = _SEAM.join(part.text.replace(_SEAM, " ") for part in parts)
    seams = [match.start() for match in re.finditer(_SEAM, plain)]
    cuts = [at for seam in seams for at in (seam, seam + 1)]
    found = prompts.stretches(plain, [*literal, *_INVERSION.findall(plain)], route, cuts)
    if all(stretch.literal and stretch.text == plain[stretch.start : stretch.end] for stretch in found):
        return None
    read = _read(prompts, [stretch.text for stretch in found if not stretch.literal])
    soft = iter(read)
    ids = [token for each in read for token in each.ids]
    written = "".join(stretch.text if stretch.literal else _marked(stretch, next(soft)) for stretch in found)
    texts = written.split(_SEAM)
    return SoftPrompt([Part(text, part.weight) for text, part in zip(texts, parts, strict=True)], ids)


def _read(prompts: SoftPrompts, texts: Sequence[str]) -> list[SoftText]:
    if not texts:
        return []
    with on_device(prompts.tower, prompts.bridge) as device:
        prompts.device = device
        return prompts.read(texts)


def _marked(stretch: Stretch, soft: SoftText) -> str:
    marks = [MARK] * len(soft.ids)
    if stretch.inner is not None:
        marks.insert(soft.hole or 0, stretch.inner.text)
    return " " + " ".join(marks) + " "


def tokenized(clip: Any, parts: Sequence[Part]) -> Tokens:
    """What ComfyUI's tokenizer makes of them. Prompts of several chunks are cut behind clauses, so that no soft text is torn."""
    tokens: Tokens = clip.tokenize(written(parts))
    if _chunks(tokens) == 1:
        return tokens
    clauses = [Part(part.text[start:end], part.weight) for part in parts for start, end in clauses_of(part.text)]
    tokens = {name: [] for name in tokens}
    for chunk in _packed(clip, clauses):
        for name, rows in clip.tokenize(written(chunk)).items():
            tokens[name] += rows
    return tokens


def _packed(clip: Any, clauses: Sequence[Part]) -> Iterator[list[Part]]:
    """As many clauses as a chunk holds; one that is longer alone."""
    chunk: list[Part] = []
    for clause in clauses:
        if chunk and _chunks(clip.tokenize(written([*chunk, clause]))) > 1:
            yield chunk
            chunk = []
        chunk.append(clause)
    yield chunk


def _chunks(tokens: Tokens) -> int:
    return max(map(len, tokens.values()))


def written(parts: Sequence[Part]) -> str:
    """Parts in ComfyUI's syntax, with brackets around each, as its tokenizer reads each by itself."""
    texts = [(part.text.replace("(", "\\(").replace(")", "\\)"), part.weight) for part in parts if part.text]
    if len(texts) == 1 and texts[0][1] == 1:
        return texts[0][0]
    return "".join(f"({text}:{weight!r})" for text, weight in texts)


def with_vectors(tokens: Tokens, names: Sequence[str], prompts: SoftPrompts, ids: Sequence[int]) -> Tokens:
    """Tokens with the vectors of soft tokens in the places of their MARKs. names: of the CLIPs, in the bridge's order."""
    filled: Tokens = {}
    for index, name in enumerate(names):
        rows = tokens[name]
        begin = rows[0][0][0]
        marks = sum(_is(token, begin) for row in rows for token, *_ in row[1:])
        if marks != len(ids):
            raise InputError(f"this model's tokenizer doesn't read {MARK} as one token: expected CLIP's own")
        vectors = iter(prompts.embeddings(index, torch.tensor(ids)) if ids else [])
        filled[name] = [
            [row[0], *((next(vectors), *rest) if _is(token, begin) else (token, *rest) for token, *rest in row[1:])]
            for row in rows
        ]
    return filled


def _is(token: Any, begin: int) -> bool:
    return not isinstance(token, Tensor) and token == begin


def in_english(clip: Any, name: str, prompts: SoftPrompts, read: SoftPrompt) -> str:
    """The prompt without its weights, soft tokens as the entries of CLIP's vocabulary that they are nearest to."""
    vocabulary = getattr(clip.tokenizer, f"clip_{name}").inv_vocab
    said = iter([vocabulary[soft.words[place][0][0]] for soft, place in map(prompts.text_of, read.ids)])
    marks = re.compile(rf"{re.escape(MARK)}(?: {re.escape(MARK)})*")

    def words(run: re.Match[str]) -> str:
        return "".join(next(said) for _ in run[0].split()).replace("</w>", " ")

    return " ".join(marks.sub(words, "".join(part.text for part in read.parts)).split())
