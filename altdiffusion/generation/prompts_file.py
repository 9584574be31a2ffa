"""Files of prompts: text with a prompt a line, or a table with any setting of an image as a column.

    rows, bad = read_prompts_file("prompts.csv", {"steps": 20})   # prompt,seed,guidance_scale ...

Light on purpose: no torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from altdiffusion.data.line_file import EMPTY_LINE, LineFile
from altdiffusion.data.table import NOT_UTF8, BadRecord, decode_text, has_utf8_lines, way_out
from altdiffusion.errors import InputError
from altdiffusion.files import local_path
from altdiffusion.generation.settings import ASKED, ImageSettings, with_size
from altdiffusion.settings import suggest

_OPTION = re.compile(r"(^|\s)--[a-z]")
ENDINGS = (".txt", ".csv", ".tsv", ".jsonl")


class Row(NamedTuple):
    """A prompt to generate. where: its file and line, as prompts.csv:3. said: the settings that the row itself has.

    others: its values in columns that are no settings."""

    where: str
    settings: ImageSettings
    said: frozenset[str]
    others: Mapping[str, Any] = MappingProxyType({})


class BadRow(NamedTuple):
    """A row that can't be generated, and why."""

    where: str
    reason: str


def read_prompts_file(
    path: str | Path, defaults: Mapping[str, Any], others: Collection[str] = ()
) -> tuple[list[Row], list[BadRow]]:
    """The rows that can be generated, and those that can't, in the file's order.

    .txt: a prompt a line; empty lines are left out, and so are comments, which begin with #. .csv, .tsv: a column `prompt`
    and any other setting, or size; an empty cell says nothing. .jsonl: an object a line; null says nothing.
    defaults: settings for the rows that don't say them. others: columns that there may be besides.
    Paths are relative to the working directory.
    Raises InputError for a file that can't be read, and for columns that are no settings.
    """
    file, rows, bad = local_path(path), list[Row](), list[BadRow]()
    if file.suffix.lower() not in ENDINGS:
        raise InputError(f"{file}: expected a file of prompts that ends in {', '.join(ENDINGS)}")
    try:
        for where, record in _lines(file, bad) if file.suffix.lower() == ".txt" else _records(file, bad, others):
            try:
                besides = {name: record.pop(name) for name in others if name in record}
                values = with_size(record)
                rows.append(Row(where, ImageSettings(**(dict(defaults) | values)), frozenset(values), besides))
            except InputError as error:
                bad.append(BadRow(where, str(error)))
    except OSError as error:
        raise InputError(f"{file} can't be read: {error.strerror}") from None
    if any(row.reason == NOT_UTF8 for row in bad) and not has_utf8_lines(file):
        raise InputError(f"{file} is {NOT_UTF8}: {way_out(file)}")
    if not rows and not bad:
        raise InputError(f"{file} has no prompts")
    return rows, bad


def read_row(
    record: Mapping[str, Any], defaults: Mapping[str, Any], others: Collection[str] = ()
) -> tuple[ImageSettings, dict[str, Any]]:
    """The settings of one record of a table, and its values in columns that are none, which `others` names.

    Empty cells and None say nothing. Raises InputError.
    """
    cells = {_column(name): value.strip() if isinstance(value, str) else value for name, value in record.items()}
    if problem := _unknown(list(cells), others):
        raise InputError(problem)
    besides = {name: cells.pop(name) for name in others if name in cells}
    said = {name: value for name, value in cells.items() if value not in (None, "")}
    return ImageSettings(**(dict(defaults) | with_size(said))), besides


def _lines(file: Path, bad: list[BadRow]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(LineFile(file, is_json=True).records(), 1):  # as of JSON, they follow no header
        where = f"{file}:{number}"
        try:
            prompt = decode_text(line).strip()
        except BadRecord as reason:
            bad.append(BadRow(where, str(reason)))
            continue
        if _OPTION.search(prompt):  # A1111's script reads them there
            bad.append(
                BadRow(where, "options such as --steps aren't read in a .txt: make them columns of a .csv or .jsonl")
            )
        elif prompt and not prompt.startswith("#"):
            yield where, {"prompt": prompt}


def _records(file: Path, bad: list[BadRow], others: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    def skip(where: str, reason: str) -> None:
        if reason != EMPTY_LINE:
            bad.append(BadRow(where, reason))

    table = LineFile(file)
    if table.names is not None:
        names = [_column(name) for name in table.names]
        if problem := _unknown(names, others):
            raise InputError(f"{file}: {problem}")
        if "prompt" not in names:
            raise InputError(f"{file}: no column is called prompt, among {', '.join(table.names)}")
    for where, record in table.rows(skip):
        cells = {_column(name): value.strip() if isinstance(value, str) else value for name, value in record.items()}
        if problem := _unknown(list(cells), others):
            bad.append(BadRow(where, problem))
        else:
            unsaid = (None,) if table.names is None else (None, "")
            yield where, {name: value for name, value in cells.items() if value not in unsaid}


def _column(name: str) -> str:
    """Guidance scale -> guidance_scale"""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _unknown(names: Sequence[str], others: Collection[str]) -> str:
    """What is wrong with a row's columns; "" if nothing is."""
    known = [*ASKED, *others]
    unknown = [name for name in names if name not in known]
    if unknown:
        hints = "; ".join(f"{name}{suggest(name, known)}" for name in unknown)
        return f"no settings of an image: {hints}. Expected some of {', '.join(known)}"
    twice = next((name for name in names if names.count(name) > 1), None)
    return f"two columns are called {twice}" if twice else ""
