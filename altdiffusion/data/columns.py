"""Which columns of a table hold captions and images: one rule for every format, in training and in evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from altdiffusion.errors import InputError

# a column is known by its name, in upper or lower case; of several, the first here is taken
IMAGE_COLUMNS = ("image", "file_name", "image_name", "filename", "image_path", "filepath", "path", "img", "picture")
_CAPTION_COLUMNS = ("caption", "text")  # read alone where there is one
_OTHER_CAPTION_COLUMNS = ("sentence", "comment", "raw", "title", "description", "prompt")  # where there is one of them
# Said where columns aren't found: tables come without a header line, too.
HEADER_HINT = (
    "if its first line is a record, put a line of column names above it, such as en and zh with a tab between them"
)
# What XLM-R reads, but for Indonesian and Norwegian: columns id and no number the records.
_LANGUAGES = (
    " af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha he hi hr hu hy is it ja jv "
    "ka kk km kn ko ku ky la lo lt lv mg mk ml mn mr ms my ne nl om or pa pl ps pt ro ru sa sd si sk sl so sq sr su sv sw "
    "ta te th tl tr ug uk ur uz vi xh yi zh "
)


def is_language(name: str) -> bool:
    """Whether a name is a language's code, such as en, zh-CN or pt_BR."""
    code, *parts = name.lower().replace("_", "-").split("-")
    return f" {code} " in _LANGUAGES and all(len(part) in (2, 3, 4) and part.isalnum() for part in parts)


def image_column(names: Iterable[str]) -> str | None:
    """The column of images' paths, if there is one."""
    return _by_name(names, IMAGE_COLUMNS)


def default_columns(names: Iterable[str]) -> tuple[str, ...]:
    """The columns that are read where none is asked for; empty where that can't be told from their names."""
    names = list(names)
    if caption := _by_name(names, _CAPTION_COLUMNS):
        return (caption,)
    if languages := tuple(filter(is_language, names)):
        return languages
    others = tuple(name for name in names if name.lower() in _OTHER_CAPTION_COLUMNS)
    return others if len(others) == 1 else ()


def choose_columns(
    path: Path, asked: Sequence[str] | None, present: Iterable[str], text: Iterable[str]
) -> tuple[str, ...]:
    """The columns to read: those asked for that are present, or `default_columns` of those with text if none is asked for.

    asked: None means that no text is wanted. Raises InputError where one is, and none is left.
    """
    if asked is None:
        return ()
    present = tuple(present)
    chosen = tuple(column for column in asked if column in present) if asked else default_columns(text)
    if chosen:
        return chosen
    if asked:
        raise InputError(
            f"{path} has no column {' or '.join(asked)}: its columns are {', '.join(present) or 'none'}; {HEADER_HINT}"
        )
    if len(present) == 1 and (" " in present[0] or not present[0].isascii()):
        raise InputError(
            f"{path}: its first line {present[0]!r} stands where the languages do: put a line such as en above the prompts"
        )
    raise InputError(
        f"{path} has no column caption or text, and none named by a language (en, zh, ...): its columns are "
        f"{', '.join(present) or 'none'}; name those to read with --languages (one, in evaluate retrieval: --language; in score: "
        f"--caption), "
        f"or {HEADER_HINT}"
    )


def find_columns(records: Iterable[Mapping[str, Any]], asked: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """All columns, and those that hold text, of the first record with text in a column that can be read.

    Where there is none, all columns of the first record, and no text.
    """
    present: list[str] = []
    for record in records:
        text = [name for name, value in record.items() if isinstance(value, str) and name.lower() not in IMAGE_COLUMNS]
        if text and (any(column in record for column in asked) if asked else default_columns(text)):
            return list(record), text
        present = present or list(record)
    return present, []


def _by_name(names: Iterable[str], known: Sequence[str]) -> str | None:
    by_name: dict[str, str] = {}
    for name in names:
        by_name.setdefault(name.lower(), name)
    return next((by_name[name] for name in known if name in by_name), None)
