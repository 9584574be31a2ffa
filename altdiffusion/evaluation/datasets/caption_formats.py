"""The files that captions of images are published in, each recognised by what stands in it.

| form | a line, or the file |
|---|---|
| `token` | `1000092795.jpg#0<TAB>caption` (Flickr30k), `1000092795#0<TAB>caption` (Flickr30k-CN, -CNA, COCO-CN) |
| `karpathy` | `{"images": [{"filename", "split", "sentences": [{"raw"}]}]}` |
| `cn-clip` | `{"text_id", "text", "image_ids"}`, formerly `{"query_id", "query_text", "item_ids"}` |
| `clip-benchmark` | any header line, then `img.jpg,caption`, commas and quotes in the caption as they are |
| `csv` | a header with a column of images and one of captions, then rows; also with tabs, `;` or `|`: see `LineFile` |
| `jsonl` | an object with such columns a line |
| `xtd10` | a caption, that of the image on the same line of another file, which holds names alone |
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from altdiffusion.data.columns import default_columns, image_column, is_language
from altdiffusion.data.line_file import LineFile, find_delimiter, split_header
from altdiffusion.data.table import BadRecord, Skip, decode_text, parse_object
from altdiffusion.errors import InputError, first_line
from altdiffusion.images import ENDINGS

FORMS = (
    "token files of Flickr30k and COCO-CN, Karpathy's JSON, CN-CLIP's jsonl, CLIP_benchmark's files, XTD10, "
    "CSV with a header such as image,caption, jsonl with such keys"
)

# What else is recognised, so that it can be named where it is given by mistake, or found where it is needed.
NAMES, IMAGES, LINES, IDS = "names", "images", "lines", "ids"

_HEAD = 2**18  # bytes of a file that are looked at
_EXTENSION = rf"\.(?:{'|'.join(ending[1:] for ending in ENDINGS)})"
_NAME = re.compile(rf"[^\s,#]+{_EXTENSION}", re.IGNORECASE)
_TOKEN = re.compile(r"([^\s#,{]+)#(\S*\d)(?:\s(.*))?")
_NAME_AND_CAPTION = re.compile(rf"([^,]*?{_EXTENSION}),(.*)", re.IGNORECASE)
_BASE64 = re.compile(r"[^\t{]+\t[A-Za-z0-9+/_-]{16,}=*")
_KEYS = (("text_id", "text", "image_ids"), ("query_id", "query_text", "item_ids"))


@dataclass(frozen=True)
class Entry:
    """A caption as its file has it, unchecked."""

    where: str  # "captions.txt:17"
    caption: str
    images: tuple[str, ...]  # names or ids, at least one


def recognise(path: Path) -> str:
    """The form of a file: one of those above, or NAMES, IMAGES (base64 after ids), IDS (CN-CLIP's .tr.jsonl, of each
    image the ids of its captions), LINES (anything else).
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    lines = [line.decode("utf-8", "replace").rstrip("\r") for line in head.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    lines = [line for line in (lines[:-1] if len(head) == _HEAD and len(lines) > 1 else lines) if line.strip()][:50]
    if not lines:
        return LINES
    if _most(lines, _of_cn_clip):
        return "cn-clip"
    if _most(lines, _of_ids):
        return IDS
    if _most(lines, _of_jsonl):
        return "jsonl"
    if lines[0].lstrip().startswith("{"):
        return "karpathy"
    if _most(lines, _TOKEN.fullmatch):
        return "token"
    if _most(lines, _NAME.fullmatch):
        return NAMES
    if _is_table(lines):
        return "csv"  # or clip-benchmark: that takes the whole file to tell
    if _most(lines[1:] or lines, _NAME_AND_CAPTION.fullmatch):
        return "clip-benchmark"
    return IMAGES if _most(lines, _BASE64.fullmatch) else LINES


def read_entries(
    path: Path, split: str, skip: Skip, names: Path | None = None, language: str | None = None
) -> tuple[str, list[Entry], list[str]]:
    """The form of a file, its captions, and what should be known of how they were read; lines that can't be read are skipped.

    split: for a file that holds several. names: the file of image names, for one that holds captions alone.
    language: of a table the column to read, if it has one of that name.
    Raises InputError: in no form that is known, no such split or column, more or fewer names than captions.
    """
    form, lines = recognise(path), read_lines(path)
    if lines and lines[0][:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path} is UTF-16, expected UTF-8: iconv -f UTF-16 -t UTF-8")
    if not any(line.strip() for line in lines):
        raise InputError(f"{path} is empty")
    if form == LINES and names is not None:
        return "xtd10", list(_lines_of(path, lines, names, skip)), []
    if form == "karpathy":
        return form, list(_karpathy(path, lines, split, skip)), []
    if form in ("csv", "jsonl"):
        table = _table(path, form, language, skip)
        if table is not None:
            return form, *table
        form = "clip-benchmark"
    readers = {"token": _token, "cn-clip": _cn_clip, "clip-benchmark": _clip_benchmark}
    if form in readers:
        return form, list(readers[form](path, lines, skip)), []
    if form == NAMES:
        raise InputError(f"{path} holds names of images, no captions: give the file of a language's captions")
    if form == IDS:
        raise InputError(
            f"{path} holds ids alone, no captions nor lines with text_id: give the file beside it, such as test_texts.jsonl"
        )
    if form == IMAGES:
        raise InputError(f"{path} holds images: give the captions beside it, such as test_texts.jsonl")
    raise InputError(f"{path} is in no format for captions, nor is a file of image names beside it. Read are {FORMS}")


def read_lines(path: Path) -> list[bytes]:
    """Lines without their ends; the last newline begins no line."""
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [line.removesuffix(b"\r") for line in (lines if lines[-1] else lines[:-1])]


def _most(lines: Sequence[str], fits: Callable[[str], object]) -> bool:
    return sum(bool(fits(line.strip(" \t"))) for line in lines) > len(lines) / 2


def _decoded(path: Path, lines: Sequence[bytes], skip: Skip) -> Iterator[tuple[str, str]]:
    """(where, text) of lines that aren't empty."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield f"{path}:{number}", decode_text(line)
            except BadRecord as reason:
                skip(f"{path}:{number}", str(reason))


def _token(path: Path, lines: Sequence[bytes], skip: Skip) -> Iterator[Entry]:
    seen: set[tuple[str, str, str]] = set()
    for where, line in _decoded(path, lines, skip):
        match = _TOKEN.fullmatch(line.strip())
        if match is None:
            skip(where, "expected image#number, a tab, a caption")
            continue
        name, number, caption = match[1], match[2], match[3] or ""
        if (name, number, caption) in seen:  # the same number with another caption is met, and means nothing
            skip(where, "the same caption under the same number again")
            continue
        seen.add((name, number, caption))
        yield Entry(where, caption, (name,))


def _karpathy(path: Path, lines: Sequence[bytes], split: str, skip: Skip) -> Iterator[Entry]:
    try:
        document = json.loads(b"\n".join(lines))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is neither Karpathy's JSON ({first_line(error)}) nor lines with text_id, text and image_ids: is it whole?"
        ) from None
    images = document.get("images")
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        images = []
    if not any(isinstance(image.get("sentences"), list) for image in images):
        raise InputError(
            f'{path} is JSON, but not Karpathy\'s: expected "images" with "filename", "split", "sentences"'
        )
    splits = {str(image.get("split")) for image in images}
    if split not in splits:
        raise InputError(f"{path} has no split {split!r}, only {', '.join(sorted(splits))}: choose one with --split")
    seen: set[str] = set()
    for number, image in enumerate(images):
        where = f"{path}:images[{number}]"
        if image.get("split") != split:
            continue
        name, sentences = image.get("filename"), image.get("sentences")
        if not isinstance(name, str):
            skip(where, "no filename")
        elif name in seen:
            skip(where, "the same filename again")
        elif not isinstance(sentences, list) or not sentences:
            skip(where, "an image without captions")
        else:
            seen.add(name)
            folder = image.get("filepath")
            name = f"{folder}/{name}" if isinstance(folder, str) and folder else name
            for place, sentence in enumerate(sentences):
                caption = sentence.get("raw") if isinstance(sentence, dict) else None
                yield Entry(f"{where}.sentences[{place}]", caption if isinstance(caption, str) else "", (name,))


def _object(line: str) -> dict[str, Any]:
    """The JSON object in a line; {} where there is none."""
    try:
        return parse_object(line)
    except BadRecord:
        return {}


def _of_cn_clip(line: str) -> bool:
    record = _object(line)
    return any(id_key in record and text_key in record for id_key, text_key, _ in _KEYS)


def _of_ids(line: str) -> bool:
    try:
        return parse_object(line).keys() >= {"image_id", "text_ids"}
    except BadRecord:
        return False


def _cn_clip(path: Path, lines: Sequence[bytes], skip: Skip) -> Iterator[Entry]:
    seen: set[str] = set()
    for where, line in _decoded(path, lines, skip):
        try:
            record = parse_object(line)
        except BadRecord as reason:
            skip(where, str(reason))
            continue
        keys = next((keys for keys in _KEYS if keys[0] in record), None)
        if keys is None:
            skip(where, "no text_id")
            continue
        key, caption, images = (record.get(name) for name in keys)
        if str(key) in seen:
            skip(where, f"the same {keys[0]} again")
        elif not isinstance(images, list) or not images:
            skip(where, f"no {keys[2]}: it names no image")
        else:
            seen.add(str(key))
            yield Entry(where, caption if isinstance(caption, str) else "", tuple(str(image) for image in images))


def _clip_benchmark(path: Path, lines: Sequence[bytes], skip: Skip) -> Iterator[Entry]:
    for number, (where, line) in enumerate(_decoded(path, lines, skip)):
        match = _NAME_AND_CAPTION.fullmatch(line.strip())
        if match is not None:
            yield Entry(where, match[2], (match[1],))
        elif number:  # the first is the header
            skip(where, "expected the name of an image, a comma, a caption")


def _is_table(lines: Sequence[str]) -> bool:
    """Whether the first line is a header that names a column of images, or of as many columns, 3 or more, as the others."""
    delimiter = find_delimiter(lines[0])

    def columns(line: str) -> list[str]:
        try:
            return split_header(line, delimiter)
        except BadRecord:
            return []

    names, rows = columns(lines[0]), lines[1:]
    if len(names) > 1 and image_column(names) is not None:
        return True
    as_wide = len(names) > 2 and _most(rows, lambda line: len(columns(line)) == len(names))
    return as_wide and _most(rows, _NAME_AND_CAPTION.fullmatch)


def _of_jsonl(line: str) -> bool:
    record = _object(line)
    return isinstance(record.get(image_column(record) or ""), str)


def table_columns(path: Path, names: Sequence[str], language: str | None) -> tuple[str, str]:
    """The column of images and that of captions. Raises InputError where either can't be told, which names the columns."""
    image = image_column(names)
    if image is None:
        raise InputError(f"{path} has no column of images: expected image or file_name, got {', '.join(names)}")
    rest = [name for name in names if name != image]
    return image, one_column(path, names, (language,) if language in rest else default_columns(rest), language)


def one_column(path: Path, names: Sequence[str], captions: Sequence[str], language: str | None) -> str:
    """The only column of captions, in the language asked for. Raises InputError where there are several, or others."""
    asked = language is not None and any(map(is_language, captions)) and language not in captions
    if len(captions) == 1 and not asked:
        return captions[0]
    what = f"column {language}" if asked else "single column of captions" if captions else "column caption or text"
    raise InputError(f"{path} has no {what}: its columns are {', '.join(names)}; choose one of them with --language")


def _table(path: Path, form: str, language: str | None, skip: Skip) -> tuple[list[Entry], list[str]] | None:
    """Its captions, and which columns were read.

    None if this is no CSV but the form of CLIP_benchmark, whose captions may hold commas without being quoted.
    """
    file, odd = LineFile(path, is_json=form == "jsonl"), list[tuple[str, str]]()
    rows = list(file.rows(lambda where, reason: odd.append((where, reason))))
    names = file.names or list(dict.fromkeys(name for _, row in rows[:1] for name in row))
    image, caption = table_columns(path, names, language)
    if len(odd) > (len(rows) + len(odd)) / 20 and file.delimiter == "," and len(names) == 2:
        texts = [line.decode("utf-8", "replace") for line in read_lines(path)[1:]]
        if _most([text for text in texts if text.strip()], _NAME_AND_CAPTION.fullmatch):
            return None
    for where, reason in odd:
        if reason != "an empty line":
            skip(where, reason)
    note = columns_read(names, image, caption)
    return [Entry(where, _text(row.get(caption)), (_text(row.get(image)).strip(),)) for where, row in rows], [note]


def columns_read(names: Sequence[str], image: str | None, caption: str) -> str:
    """What should be known of how a table was read. image: the column of images, if they lie in one."""
    left_out = ", ".join(name for name in names if name not in (image, caption))
    return (
        f"captions are read from the column {caption}"
        + (f", images from {image}" if image else "")
        + (f"; left out: {left_out}" if left_out else "")
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


_TAGGED = re.compile(r"(\S+)[:/]([A-Za-z]{1,5}\d?)")


def strip_tags(captions: Sequence[str]) -> list[str] | None:
    """The captions without parts of speech (一个:m 男人:n), and Chinese without spaces between words; None: they have none."""

    def is_tagged(caption: str) -> bool:
        words = caption.split()
        return len(words) > 1 and sum(bool(_TAGGED.fullmatch(word)) for word in words) > 0.8 * len(words)

    sample = captions[:: max(1, len(captions) // 500)]
    if sum(map(is_tagged, sample)) <= len(sample) / 2:
        return None
    return [_join_words(_TAGGED.fullmatch(word) or word for word in caption.split()) for caption in captions]


def _join_words(words: Iterable[re.Match[str] | str]) -> str:
    joined = " ".join(word if isinstance(word, str) else word[1] for word in words)
    # a space stays between two words in Latin letters or digits alone
    return re.sub(r"(?<![!-~]) | (?![!-~])", "", joined)


def _lines_of(path: Path, captions: Sequence[bytes], names: Path, skip: Skip) -> Iterator[Entry]:
    images = read_lines(names)
    if len(captions) != len(images):
        raise InputError(
            f"{path} has {len(captions)} lines, {names} has {len(images)}: expected a caption for every image name"
        )
    texts = dict(_decoded(path, captions, skip))
    for number, image in enumerate(images, 1):
        where, name = f"{path}:{number}", image.decode("utf-8", "replace").strip()
        if not name:
            skip(where, f"no image name on that line of {names.name}")
        elif captions[number - 1].strip() == b"":
            yield Entry(where, "", (name,))
        elif where in texts:
            yield Entry(where, texts[where], (name,))
