"""Data sets of the Hugging Face hub by name: `hub:Helsinki-NLP/opus-100/en-zh:train`, loaded by the library `datasets`.

They are downloaded once, into that library's cache, and read there as memory-mapped Arrow tables.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from altdiffusion.errors import InputError, first_line

PREFIX = "hub:"
FORM = "hub:OWNER/NAME/CONFIG:SPLIT"
# Columns of sentence-transformers/parallel-sentences-*, whose languages stand in the config alone: en-zh-cn
_ENGLISH, _OTHER = "english", "non_english"


class HubName(NamedTuple):
    """config: None for the only one. split: as the library writes it, `train[:1000]` too. revision: None for the newest."""

    repository: str
    config: str | None
    split: str
    revision: str | None


def is_hub_name(name: str | Path) -> bool:
    """Whether this names a data set on the hub rather than a path."""
    return _text(name).startswith(PREFIX)


def parse(name: str | Path) -> HubName:
    """`hub:OWNER/NAME`, with `@REVISION`, `/CONFIG` and `:SPLIT` (train) where they are wanted. Raises InputError."""
    place, has_split, split = _text(name).removeprefix(PREFIX).partition(":")
    parts = place.split("/")
    repository, at, revision = "/".join(parts[:2]).partition("@")
    config = parts[2] if len(parts) == 3 else None
    empty = "" in (*parts, *repository.split("/")) or (at and not revision) or (has_split and not split)
    if empty or len(parts) not in (2, 3):
        raise InputError(
            f"{_text(name)} names no data set: expected {FORM}, such as hub:Helsinki-NLP/opus-100/en-zh:train"
        )
    return HubName(repository, config, split or "train", revision or None)


@cache
def load(name: HubName) -> Any:
    """The `datasets.Dataset`, downloaded where it isn't cached. Columns english and non_english get their languages' names.

    Raises InputError: no such data set, config or split, and no way to get it.
    """
    datasets = import_datasets(f"{PREFIX}{name.repository}")
    try:
        with no_progress_bars(datasets):
            data = datasets.load_dataset(name.repository, name.config, split=name.split, revision=name.revision)
    except Exception as error:  # the library and the hub's client raise what they please
        raise InputError(_explain(name, error)) from None
    english, _, other = (name.config or "").partition("-")
    if english == "en" and other and {_ENGLISH, _OTHER} <= set(data.column_names):
        data = data.rename_columns({_ENGLISH: english, _OTHER: other.partition("-")[0]})
    return data


def describe(name: str | Path) -> list[int]:
    """Its number of records, and a checksum of what the library knows it by: revision, config, split. Raises InputError."""
    data = load(parse(name))
    return [len(data), zlib.crc32(data._fingerprint.encode())]


def import_datasets(what: str | Path) -> Any:
    """The library. Raises InputError, naming what needs it, where it isn't installed."""
    try:
        import datasets
    except ImportError:
        raise InputError(f'{what} needs the library datasets to be read: pip install "altdiffusion[train]"') from None
    return datasets


@contextmanager
def no_progress_bars(datasets: Any) -> Iterator[None]:
    """The library's bars off, and afterwards as they were."""
    showed_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if showed_bars:
            datasets.enable_progress_bars()


def _text(name: str | Path) -> str:
    return name.as_posix() if isinstance(name, Path) else name


def _explain(name: HubName, error: Exception) -> str:
    """One line for an error of the library, known by its words: it has no classes of its own for these."""
    message, place = str(error), f"{PREFIX}{name.repository}"
    listed = re.search(r"\[([^\]]*)\]\s*(?:\n|$|\.)", message)
    choices = re.findall(r"[\w.+-]+", listed[1]) if listed else []
    there = ", ".join(choices) or "none"
    if message.startswith("BuilderConfig"):
        pair = sorted(str(name.config).split("-"))
        turned = "".join(f" (do you mean {each}?)" for each in choices if sorted(each.split("-")) == pair)
        return f"{place} has no config {name.config}{turned}: it has {there}"
    if message.startswith("Config name is missing"):
        return f"{place} has several configs, name one, {place}/CONFIG: {there}"
    if message.startswith("Unknown split"):
        return f"{place} has no split {name.split}: it has {there}; name one by :SPLIT at the end"
    if message.startswith("Dataset scripts"):
        return f"{place} is loaded by a script of its own, which the library datasets no longer runs: take another data set"
    if isinstance(error, ConnectionError) or message.startswith("Couldn't find cache"):
        cached = f" (of its configs {there} are cached)" if choices else ""
        return (
            f"{place} is not cached here{cached} and the hub can't be reached: run this once with a network, which "
            "downloads it, or name files of your own"
        )
    return f"{place} can't be loaded: {first_line(error)}"
