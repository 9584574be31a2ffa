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

from altdiffusion.checkpoints import hub, single_files
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


def choose_clip_tokenizer(given: Any, fallback: Path | None, path: Path, **hub_options: Any) -> Any:
    """CLIP's tokenizer, cutting at 77 tokens, for a single file, which carries none.

    It is the first of these: the one that is given, by name or loaded; that in the folder `fallback`, a bridge's say, which
    was trained with it; OpenAI's, from the hub or its cache.
    Raises InputError where there is none, or it is damaged.
    """
    if given is not None and not isinstance(given, str | Path):
        given.model_max_length = min(given.model_max_length, MAX_TOKENS)
        return given
    if given is None and fallback is not None and clip_folder(fallback) is not None:
        root = fallback
    else:
        try:
            root = hub.resolve(hub.CLIP if given is None else given, CLIP_TOKENIZER_FILES, **hub_options)
        except InputError as error:
            if given is not None:
                raise
            raise InputError(
                f"{path} is a single file and carries no tokenizer. Name a folder with CLIP's (--tokenizer, tokenizer=), a "
                f"bridge that has it in its folder 'tokenizer', or let {hub.CLIP} be taken from the hub ({error})"
            ) from None
    folder = clip_folder(root)
    if folder is None:
        raise InputError(f"no CLIP tokenizer in {root}: expected tokenizer.json, or vocab.json and merges.txt")
    return load_any_tokenizer(folder)


CLIP_TOKENIZER_FILES = [f"{folder}{name}" for folder in ("", "tokenizer/") for name in
                        ("tokenizer*.json", "special_tokens_map.json", "vocab.json", "merges.txt")]  # fmt: skip


def clip_folder(root: Path) -> Path | None:
    """Where CLIP's tokenizer lies: in a folder, or in its subfolder `tokenizer`."""
    for folder in (root / "tokenizer", root):
        if (folder / "tokenizer.json").is_file() or all(
            (folder / name).is_file() for name in ("vocab.json", "merges.txt")
        ):
            return folder
    return None


def tokenizer_of(
    model: str | Path | None, tokenizer: Any = None, *, fallback: Path | None = None, allow_pickle: bool = False
) -> Any:
    """The tokenizer that reads a model's prompts, AltCLIP's or CLIP's, by the model's name. Raises InputError.

    The others are for single files: see `choose_clip_tokenizer`; whether a pickle may be opened to see which it needs.
    """
    root = hub.resolve(model, [*TOKENIZER_FILES, "tokenizer/*.txt"])  # merges.txt is CLIP's
    if root.is_file():
        kind = single_files.read_kind(root, allow_pickle).kind
        if kind != "altdiffusion":
            return choose_clip_tokenizer(tokenizer, fallback, root)
    if tokenizer is not None:
        return load_tokenizer(tokenizer)
    config = root / "tokenizer" / "tokenizer_config.json"
    is_clip = config.is_file() and '"CLIPTokenizer' in config.read_text(encoding="utf-8")
    return load_any_tokenizer(config.parent) if is_clip else read_tokenizer(root)


def load_any_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder, of whatever class, cutting at 77 tokens. Raises InputError."""
    return _read(AutoTokenizer, folder)


def _read(tokenizer_class: Any, folder: Path) -> Any:
    try:
        tokenizer = tokenizer_class.from_pretrained(folder, trust_remote_code=False)  # else a terminal is asked
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
