"""AltCLIP's tokenizer: XLM-R's, cutting at 77 tokens."""

from __future__ import annotations

import logging
import threading
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import AutoTokenizer, XLMRobertaTokenizer

from altdiffusion.checkpoints import hub
from altdiffusion.errors import InputError, first_line

logger = logging.getLogger(__name__)

MAX_TOKENS = 77  # what every Stable Diffusion UNet was trained with


def hub_files(allow_pickle: bool) -> list[str]:
    """The files of a repository that `load_text_encoder` needs, as patterns."""
    patterns = [*TOKENIZER_FILES, "text_encoder/*.safetensors", "text_encoder/*.json", "model*.safetensors"]
    return [*patterns, "text_encoder/*.bin", "pytorch_model*.bin"] if allow_pickle else patterns


TOKENIZER_FILES = ["*.json", "*.model", "tokenizer/*.json", "tokenizer/*.model"]


def load_tokenizer(source: str | Path | XLMRobertaTokenizer, **hub_options: Any) -> XLMRobertaTokenizer:
    """XLM-R's tokenizer, cutting at 77 tokens, by the name of its model, or one that is loaded already."""
    if isinstance(source, str | Path):
        return read_tokenizer(hub.resolve(source, TOKENIZER_FILES, **hub_options), **hub_options)
    source.model_max_length = MAX_TOKENS
    return source


def read_tokenizer(root: Path, **hub_options: Any) -> XLMRobertaTokenizer:
    """XLM-R's tokenizer, cutting at 77 tokens, from a folder or its subfolder `tokenizer`.

    A single file carries no tokenizer: then the one that all AltDiffusion models use is taken from the hub.
    Raises InputError where there is none, or it is damaged.
    """
    if root.is_file():
        logger.warning("%s carries no tokenizer: taking %s", root.name, hub.XLM_R)
        try:
            root = hub.resolve(hub.XLM_R, TOKENIZER_FILES, **hub_options)
        except InputError as error:
            raise InputError(
                f"{root} is a single file and carries no tokenizer: pass tokenizer= (--tokenizer), a folder with "
                f"XLM-R's 'tokenizer.json' or 'sentencepiece.bpe.model' ({error})"
            ) from None
    folder = root / "tokenizer" if (root / "tokenizer").is_dir() else root
    if not has_tokenizer(root):
        raise InputError(f"no tokenizer in {folder}: expected tokenizer.json or sentencepiece.bpe.model")
    return _read(XLMRobertaTokenizer, folder)


def has_tokenizer(root: Path) -> bool:
    """Whether there is one in a folder or its subfolder `tokenizer`."""
    folder = root / "tokenizer" if (root / "tokenizer").is_dir() else root
    return any((folder / name).is_file() for name in ("tokenizer.json", "sentencepiece.bpe.model"))


def choose_tokenizer(
    given: str | Path | XLMRobertaTokenizer | None, root: Path, **hub_options: Any
) -> XLMRobertaTokenizer:
    """The tokenizer that the user names or has loaded; None: the model's own, in `root`."""
    return read_tokenizer(root, **hub_options) if given is None else load_tokenizer(given, **hub_options)


def tokenizer_of(model: str | Path | None) -> Any:
    """The tokenizer that reads a model's prompts, AltCLIP's or CLIP's, by the model's name. Raises InputError."""
    root = hub.resolve(model, [*TOKENIZER_FILES, "tokenizer/*.txt"])  # merges.txt is CLIP's
    config = root / "tokenizer" / "tokenizer_config.json"
    is_clip = config.is_file() and '"CLIPTokenizer' in config.read_text(encoding="utf-8")
    return load_any_tokenizer(config.parent) if is_clip else read_tokenizer(root)


def load_any_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder, of whatever class, cutting at 77 tokens. Raises InputError."""
    return _read(AutoTokenizer, folder)


def _read(tokenizer_class: Any, folder: Path) -> Any:
    try:
        tokenizer = tokenizer_class.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises plain Exception for a damaged file
        raise InputError(f"the tokenizer in {folder} can't be read: {first_line(error)}") from None
    tokenizer.model_max_length = min(tokenizer.model_max_length, MAX_TOKENS)
    return tokenizer


# Used by two threads at once, a tokenizer raises "Already borrowed". One lock for each, as one may call another.
_locks: MutableMapping[Any, threading.RLock] = WeakKeyDictionary()


def _lock(tokenizer: Any) -> threading.RLock:
    return _locks.setdefault(tokenizer, threading.RLock())


def tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts, cut at 77 with the end token kept, without padding. Safe to call from threads.

    The tokenizer could cut them itself, but would keep that setting, and save it with the model.
    """
    if not texts:
        return []
    with _lock(tokenizer):
        rows = tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]
    return [row if len(row) <= MAX_TOKENS else [*row[: MAX_TOKENS - 1], row[-1]] for row in rows]


def tokenized(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """(token ids, where each begins and ends in the text), uncut, without begin and end tokens. Safe to call from threads."""
    with _lock(tokenizer):
        encoded = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
        )
    return encoded["input_ids"], encoded["offset_mapping"]


def pad(ids: Sequence[Sequence[int]], padding: int, length: int | None = None) -> tuple[Tensor, Tensor]:
    """(input_ids, attention_mask), both int64 (batch, tokens): as many as the longest row has, or `length`."""
    length = length or max(map(len, ids))
    rows = [[*row, *[padding] * (length - len(row))] for row in ids]
    mask = [[1] * len(row) + [0] * (length - len(row)) for row in ids]
    return torch.tensor(rows), torch.tensor(mask)
