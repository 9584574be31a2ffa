"""Texts to soft tokens: AltCLIP's tower and a bridge behind a pipeline's own tokenizer and CLIP."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from altdiffusion.errors import InputError
from altdiffusion.prompt_syntax.clauses import ends_clause
from altdiffusion.prompt_syntax.route import HOLE, Route, Stretch, stretches
from altdiffusion.text_encoder.bridge import Bridge
from altdiffusion.text_encoder.soft_tokens import install_soft_tokens, literal_embeddings, token_table
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS, pad, tokenized, tokens

MAX_KEPT = 16_384  # soft tokens whose embeddings are kept: 50 MB for Stable Diffusion 1.x in float32
_ROOM = MAX_TOKENS - 2  # of AltCLIP's tokens
_WORDS = 3  # of a mixture, the most likely entries that are kept to be shown


@dataclass(frozen=True)
class SoftText:
    """What a text is as soft tokens. ids: below zero. words: for each, the most likely entries of CLIP's vocabulary, with their
    shares of the mixture; rests: how much of each embedding is none of the vocabulary's, 0 to 1. hole: before which of the
    tokens the literal ones stand that HOLE in the text stands for; None without one."""

    text: str
    ids: tuple[int, ...]
    words: tuple[tuple[tuple[int, float], ...], ...]
    rests: tuple[float, ...]
    hole: int | None = None


class SoftPrompts:
    """What a pipeline's tokenizers and CLIPs share: it reads texts, and keeps the embeddings of their soft tokens.

    A text that was read before has the same ids. Of more than MAX_KEPT tokens those that were used longest ago are dropped;
    to encode a dropped one raises InputError. Safe to use from threads.
    route: which parts of a prompt are read so, see `stretches`. literal_words: words that never are, such as triggers.
    """

    def __init__(self, tower: Any, tokenizer: Any, bridge: Bridge, encoders: Sequence[Any]) -> None:
        """tokenizer: AltCLIP's. encoders: the pipeline's CLIPs, in the order of the bridge's embedding widths; none where
        the bridge's own token embeddings shall do."""
        self.tower, self.tokenizer, self.bridge = tower, tokenizer, bridge
        self.route: Route = "auto"
        self.literal_words: set[str] = set()
        self.device: torch.device | None = None  # where tower and bridge compute; None: where CLIP does
        self._encoders = list(encoders)
        self._texts: OrderedDict[str, SoftText] = OrderedDict()
        self._tokens: dict[
            int, tuple[SoftText, tuple[Tensor, ...]]
        ] = {}  # what each is of, its embedding for each CLIP
        self._lock = threading.RLock()
        self.tokenizer_lock = threading.RLock()  # of the pipeline's own; nothing of this class is called under it
        for index, encoder in enumerate(encoders):
            install_soft_tokens(encoder, LookUp(self, index))

    def __deepcopy__(self, memo: Any) -> SoftPrompts:
        """Itself: a copy of the pipeline reads with the same tower."""
        return self

    def read(self, texts: Sequence[str]) -> list[SoftText]:
        """The soft tokens of texts, each at most 75 AltCLIP tokens long: see `stretches`."""
        with self._lock:
            new = [text for text in dict.fromkeys(texts) if text not in self._texts]
            for first in range(0, len(new), 64):
                self._compute(new[first : first + 64])
            for text in texts:
                self._texts.move_to_end(text)
            found = [self._texts[text] for text in texts]
            while len(self._tokens) > MAX_KEPT and len(self._texts) > len(set(texts)):
                _, dropped = self._texts.popitem(last=False)
                for token in dropped.ids:
                    del self._tokens[token]
            return found

    def text_of(self, token: int) -> tuple[SoftText, int] | None:
        """What a soft token is of, and its place there; None for one that was dropped."""
        with self._lock:
            if token not in self._tokens:
                return None
            soft, _ = self._tokens[token]
            return soft, soft.ids[0] - token

    def stretches(
        self, text: str, literal: Collection[str], route: Route | None = None, cuts: Collection[int] = ()
    ) -> list[Stretch]:
        """A prompt's literal and other parts, the latter cut so that AltCLIP can read each.

        literal: more words that stay literal, such as the tokens that textual inversions have added to the pipeline's
            tokenizer. route: None: this object's own. cuts: see `stretches` of prompt_syntax/route.py.
        """
        options = route or self.route, {*self.literal_words, *literal}, cuts
        parts = stretches(text, *options, holes=self.bridge.config.hole_word is not None)
        if any(part.inner is not None and not self._fits(part) for part in parts):
            parts = stretches(text, *options)
        return [piece for part in parts for piece in ([part] if part.literal else self._fitting(part))]

    def embeddings(self, index: int, ids: Tensor) -> Tensor:
        """The embeddings (n, width) of soft tokens for the CLIP of this index. Raises InputError for one that was dropped."""
        with self._lock:
            try:
                return torch.stack([self._tokens[token][1][index] for token in ids.tolist()])
            except KeyError:
                raise InputError(
                    f"the soft tokens of a prompt were dropped, as more than {MAX_KEPT} came after them: tokenize it again"
                ) from None

    @torch.no_grad()
    def mixed_embeddings(self, index: int, ids: Tensor) -> Tensor:
        """The same of any tokens, literal ones as the CLIP of this index has them: float32, on the CPU."""
        literal = ids.clamp(min=0)
        own = self.bridge.token_embeddings
        read = literal_embeddings(self._encoders[index], literal) if self._encoders else own[index][literal]
        embeddings = read.float().cpu()
        if bool((soft := ids < 0).any()):
            embeddings[soft] = self.embeddings(index, ids[soft]).to(embeddings)
        return embeddings

    @torch.no_grad()
    def _compute(self, texts: Sequence[str]) -> None:
        size = self.bridge.config.vocab_size
        tables = [token_table(encoder, size) for encoder in self._encoders] or list(self.bridge.token_embeddings)
        # an offloaded pipeline's parts come and go: then the tower stays where it is
        offloaded = any(hasattr(part, "_hf_hook") for encoder in self._encoders for part in encoder.modules())
        device = self.device or (torch.device("cpu") if offloaded else tables[0].device)
        tower, bridge = self.tower.to(device), self.bridge.to(device)
        masked = [text.replace(HOLE, self.tokenizer.mask_token) for text in texts]
        ids, mask = pad(tokens(self.tokenizer, masked), self.tokenizer.pad_token_id)
        ids, mask = ids.to(device), mask.to(device)
        states = tower(input_ids=ids, attention_mask=mask)[0]
        tables = [table.to(device, bridge.dtype) for table in tables]
        soft = bridge(states.to(bridge.dtype), mask, token_embeddings=tables)
        shares, words = bridge.without_hole_word(soft.word_logits).softmax(-1).topk(min(_WORDS, size))
        rests = soft.rest_shares
        for row, (text, length) in enumerate(zip(texts, soft.lengths.tolist(), strict=True)):
            hole = None
            if HOLE in text:
                said = soft.word_logits[row, :length].float().log_softmax(-1)
                hole = int(said[:, bridge.config.hole_word].argmax())
            places = [place for place in range(length) if place != hole]
            likely = tuple(
                tuple(zip(words[row, place].tolist(), shares[row, place].tolist(), strict=True)) for place in places
            )
            read = SoftText(text, _new_ids(len(places)), likely, tuple(rests[row, places].tolist()), hole)
            for place, token in zip(places, read.ids, strict=True):
                self._tokens[token] = read, tuple(part[row, place].clone() for part in soft.embeddings)
            self._texts[text] = read

    def _fits(self, stretch: Stretch) -> bool:
        ids, _ = tokenized(self.tokenizer, stretch.text)
        return len(ids) <= _ROOM

    def _fitting(self, stretch: Stretch) -> list[Stretch]:
        """A stretch that AltCLIP's 77 tokens don't hold, cut behind clauses, else behind words, else anywhere."""
        if self._fits(stretch):
            return [stretch]
        _, offsets = tokenized(self.tokenizer, stretch.text)
        end = offsets[_ROOM - 1][1]
        clauses = [at for at in range(1, end + 1) if ends_clause(stretch.text, at)]
        spaces = [at for at in range(1, end + 1) if stretch.text[at - 1].isspace()]
        cut = max(clauses or spaces or [end])
        # the text of a bridged stretch is that of the prompt but for backquotes, so its places are the prompt's
        middle = min(stretch.start + cut, stretch.end)
        first = Stretch(stretch.start, middle, stretch.text[:cut], literal=False)
        rest = Stretch(middle, stretch.end, stretch.text[cut:], literal=False)
        return [first, *(self._fitting(rest) if rest.text.strip() else [])]


_last_id, _ids_lock = 0, threading.Lock()


def _new_ids(count: int) -> tuple[int, ...]:
    """Consecutive ids below zero that were never given before, by any pipeline's: relatives may share a CLIP."""
    global _last_id
    with _ids_lock:
        first = _last_id - 1
        _last_id -= count
    return tuple(range(first, first - count, -1))


class LookUp:
    """The embeddings of soft tokens for one of a pipeline's CLIPs."""

    def __init__(self, prompts: SoftPrompts, index: int) -> None:
        self.prompts, self.index = prompts, index

    def __call__(self, ids: Tensor) -> Tensor:
        return self.prompts.embeddings(self.index, ids)
