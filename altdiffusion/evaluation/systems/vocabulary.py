"""Tokenizers of the systems, in a model's folder or beside a checkpoint that carries none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertTokenizer

from altdiffusion.checkpoints import hub
from altdiffusion.errors import InputError, first_line
from altdiffusion.files import local_path

VOCABULARY = ["tokenizer.json", "vocab.txt"]  # of BERT, either


def split_name(name: str) -> tuple[str, str | None]:
    """ "FILE+OTHER" -> (FILE, OTHER); a name without, or of something that exists -> (name, None)."""
    if "+" not in name or local_path(name).exists():
        return name, None
    first, _, second = name.rpartition("+")
    return first, second


def load_tokenizer(tokenizer_class: Any, folder: Path, files: Sequence[str], rows: int) -> Any:
    """The tokenizer of a folder that holds one of `files`. rows: of the model's table of words, which it must fit."""
    if not any((folder / name).is_file() for name in files):  # transformers would make up an empty one
        raise InputError(f"no tokenizer in {folder}: expected {' or '.join(files)}")
    try:
        tokenizer = tokenizer_class.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise InputError(f"the tokenizer in {folder} can't be read: {first_line(error)}") from None
    if len(tokenizer) > rows:
        raise InputError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, the model {rows}: they don't belong together"
        )
    return tokenizer


def encode(tokenizer: Any, texts: Sequence[str], context: int, device: torch.device, padding: bool | str = True) -> Any:
    """Ids and mask of texts, cut at `context` tokens; padded to the longest, or with padding="max_length" to all of them."""
    inputs = tokenizer(list(texts), padding=padding, truncation=True, max_length=context, return_tensors="pt")
    return inputs.to(device)


def padded(context: int, padding: bool | str = True) -> dict[str, str]:
    """What `encode` does, in a system's protocol."""
    longest = f"to the longest text of a batch, cut at {context} tokens"
    return {"padding": longest if padding is True else f"to {context} tokens"}


def load_vocabulary(checkpoint: Path, named: str | None, rows: int) -> BertTokenizer:
    """BERT's tokenizer for a checkpoint that carries none.

    named: where it is, a vocab.txt, a folder or a repository of the hub; None: vocab.txt beside the checkpoint.
    rows: the number of tokens that it must have.
    """
    if named is None and not (checkpoint.parent / "vocab.txt").is_file():
        raise InputError(
            f"{checkpoint} carries no tokenizer: put bert-base-chinese's vocab.txt ({rows} lines) beside it, "
            f"or name it: {checkpoint.name}+VOCABULARY"
        )
    root = checkpoint.parent / "vocab.txt" if named is None else hub.resolve(named, VOCABULARY)
    if root.is_dir():
        tokenizer = load_tokenizer(BertTokenizer, root, VOCABULARY, rows)
    else:
        try:
            tokenizer = BertTokenizer(vocab=str(root))
        except Exception as error:  # the tokenizers library raises plain Exception
            raise InputError(f"the vocabulary {root} can't be read: {first_line(error)}") from None
    if len(tokenizer) != rows:
        raise InputError(
            f"the vocabulary {root} has {len(tokenizer)} tokens, the model {rows}: take bert-base-chinese's"
        )
    return tokenizer
