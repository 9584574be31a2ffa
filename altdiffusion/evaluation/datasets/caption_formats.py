"""The files that captions of images are published in, each recognised by what stands in it.

| form | a line, or the file |
|---|---|
| `token` | `1000092795.jpg#0<TAB>caption` (Flickr30k), `1000092795#0<TAB>caption` (Flickr30k-CN, -CNA, COCO-CN) |
| `karpathy` | `{"images": [{"filename", "split", "sentences": [{"raw"}]}]}` |
| `cn-clip` | `{"text_id", "text", "image_ids"}`, formerly `{"query_id", "query_text", "item_ids"}` |
| `clip-benchmark` | any header line, then `img.jpg,caption`, commas and quotes in the caption as they are |
| `csv` | a header with a column of images and one of captions, then rows; also with tabs, `;` or `|`: see `LineFile` |
| `jsonl` | an object with such columns a line |
| `xtd10` | a caption, that of the image on the same line of another file, which holds names alone: see paired_lines.py |

Sets in many languages, such as XM3600, have forms of their own: see multilingual_formats.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from altdiffusion.data.columns import default_columns, image_column, is_language
from altdiffusion.data.line_file import LineFile, find_delimiter, split_header
from altdiffusion.data.table import BadRecord, Skip, parse_object
from altdiffusion.errors import InputError, first_line
from altdiffusion.evaluation.datasets import multilingual_formats
from altdiffusion.evaluation.datasets.caption_entry import (
    PAIRED,
    Captions,
    Entry,
    as_text,
    decoded,
    objects,
    read_head,
    read_lines,
    refuse_packed,
)
from altdiffusion.evaluation.datasets.paired_lines import read_paired
from altdiffusion.images import ENDINGS

FORMS = (
    "token files of Flickr30k and COCO-CN, Karpathy's JSON, CN-CLIP's jsonl, CLIP_benchmark's files and JSON, Babel-ImageNet's "
    "JSON, XM3600, xFlickr&CO, WIT, XTD10 and Multi30k, CSV with a header such as image,caption, jsonl with such keys"
)
# The forms that hold captions by themselves. A JSON document, of whichever form, is recognised as "karpathy".
WITH_CAPTIONS = frozenset(
    ("token", "karpathy", "cn-clip", "csv", "jsonl", "clip-benchmark", "xm3600", "xflickrco", "wit")
)
_DOCUMENTS = ("karpathy", "babel", "clip-benchmark-json")

# What else is recognised, so that it can be named where it is given by mistake, or found where it is needed.
NAMES, IMAGES, LINES, IDS = "names", "images", "lines", "ids"

_HEAD = 2**18  # bytes of a file that are looked at
_EXTENSION = rf"\.(?:{'|'.join(ending[1:] for ending in ENDINGS)})"
_NAME = re.compile(rf"[^\s,#]+{_EXTENSION}", re.IGNORECASE)
_TOKEN = re.compile(r"([^\s#,{]+)#(\S*\d)(?:\s(.*))?")
_NAME_AND_CAPTION = re.compile(rf"([^,]*?{_EXTENSION}),(.*)", re.IGNORECASE)
_BASE64 = re.compile(r"[^\t{]+\t[A-Za-z0-9+/_-]{16,}=*")
_KEYS = (("text_id", "text", "image_ids"), ("query_id", "query_text", "item_ids"))


def recognise(path: Path) -> str:
    """The form of a file: one of those above, or NAMES, IMAGES (base64 after ids), IDS (CN-CLIP's .tr.jsonl, of each
    image the ids of its captions), LINES (anything else).
    """
    head = read_head(path, _HEAD)
    lines = [line.decode("utf-8", "replace").rstrip("\r") for line in head.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    lines = [line for line in (lines[:-1] if len(head) == _HEAD and len(lines) > 1 else lines) if line.strip()][:50]
    if not lines:
        return LINES
    if _most(lines, _of_cn_clip):
        return "cn-clip"
    if _most(lines, _of_ids):
        return IDS
    if form := _most_common_form(lines):
        return form
    if _most(lines, _of_jsonl):
        return "jsonl"
    if lines[0].lstrip().startswith("{"):
        return "karpathy"
    if _most(lines, _TOKEN.fullmatch):  # without captions: Multi30k's names of COCO's images
        return "token" if len(lines) == 1 or _most(lines, _has_caption) else NAMES
    if _most(lines, _NAME.fullmatch):
        return NAMES
    if multilingual_formats.form_of_record(dict.fromkeys(lines[0].split("\t"))) == "wit":
        return "wit"
    if _is_table(lines):
        return "csv"  # or clip-benchmark: that takes the whole file to tell
    if _most(lines[1:] or lines, _NAME_AND_CAPTION.fullmatch):
        return "clip-benchmark"
    return IMAGES if _most(lines, _BASE64.fullmatch) else LINES


def read_entries(
    path: Path,
    split: str,
    skip: Skip,
    names: Path | None = None,
    language: str | None = None,
    form: str | None = None,
) -> Captions:
    """The captions of a file; lines that can't be read are skipped.

    split: for a file that holds several. names: the file of image names, for one that holds captions alone.
    language: of a table the column to read, if it has one of that name; of a set in many languages the one to read.
    form: what the file is, recognised if None.
    Raises InputError: in no form that is known, no such split, column or language, more or fewer names than captions.
    """
    lines, named = read_lines(path), form
    form = form or recognise(path)
    if lines and lines[0][:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path} is UTF-16, expected UTF-8: iconv -f UTF-16 -t UTF-8")
    if not any(line.strip() for line in lines):
        raise InputError(f"{path} is empty")
    if form in PAIRED or (form == LINES and names is not None):
        if names is None:
            raise InputError(f"{path} needs the file of its image names: name it with --names")
        return read_paired(path, names, skip, form if form in PAIRED else "xtd10")
    if form in _DOCUMENTS:
        return _read_document(path, lines, named, split, language, skip)
    if form in ("csv", "jsonl"):
        table = _table(path, form, language, skip)
        if table is not None:
            return table
        form = "clip-benchmark"
    if form == "xm3600":
        return multilingual_formats.read_xm3600(path, lines, language, skip)
    if form == "xflickrco":
        return multilingual_formats.read_xflickrco(path, lines, skip)
    if form == "wit":
        return multilingual_formats.read_wit(path, lines, language, skip)
    readers = {"token": _token, "cn-clip": _cn_clip, "clip-benchmark": _clip_benchmark}
    if form in readers:
        return Captions(form, list(readers[form](path, lines, skip)))
    if form == NAMES:
        raise InputError(f"{path} holds names of images, no captions: give the file of a language's captions")
    if form == IDS:
        raise InputError(
            f"{path} holds ids alone, no captions nor lines with text_id: give the file beside it, such as test_texts.jsonl"
        )
    if form == IMAGES:
        raise InputError(f"{path} holds images: give the captions beside it, such as test_texts.jsonl")
    raise InputError(f"{path} is in no format for captions, nor is a file of image names beside it. Read are {FORMS}")


def _most(lines: Sequence[str], fits: Callable[[str], object]) -> bool:
    return sum(bool(fits(line.strip(" \t"))) for line in lines) > len(lines) / 2


def _has_caption(line: str) -> bool:
    match = _TOKEN.fullmatch(line)
    return match is None or bool((match[3] or "").strip())


def _most_common_form(lines: Sequence[str]) -> str | None:
    """The form of a set in many languages that most of the lines, JSON objects, are in."""
    forms = [multilingual_formats.form_of_record(_object(line)) for line in lines]
    return next((form for form in dict.fromkeys(forms) if form and forms.count(form) > len(lines) / 2), None)


def _token(path: Path, lines: Sequence[bytes], skip: Skip) -> Iterator[Entry]:
    seen: set[tuple[str, str, str]] = set()
    for where, line in decoded(path, lines, skip):
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


def _read_document(
    path: Path, lines: Sequence[bytes], named: str | None, split: str, language: str | None, skip: Skip
) -> Captions:
    """A file that is one JSON object. named: the form that it is said to be."""
    try:
        document = json.loads(b"\n".join(lines))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is neither Karpathy's JSON ({first_line(error)}) nor lines with text_id, text and image_ids: is it whole?"
        ) from None
    document = document if isinstance(document, dict) else {}
    form = multilingual_formats.form_of_document(document) or "karpathy"
    if named is not None and named != form:
        raise InputError(
            f"{path} is JSON, but not {named}: it looks like {form}. Leave out --captions-format, or mend it"
        )
    if form == "babel":
        return multilingual_formats.read_babel(path, document, language, skip)
    if form == "clip-benchmark-json":
        return multilingual_formats.read_clip_benchmark_json(path, document)
    return Captions(form, list(_karpathy(path, document, split, skip)))


def _karpathy(path: Path, document: Mapping[str, Any], split: str, skip: Skip) -> Iterator[Entry]:
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
                yield Entry(f"{where}.sentences[{place}]", as_text(caption), (name,))


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
    for where, record in objects(path, lines, skip):
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
            yield Entry(where, as_text(caption), tuple(str(image) for image in images))


def _clip_benchmark(path: Path, lines: Sequence[bytes], skip: Skip) -> Iterator[Entry]:
    for number, (where, line) in enumerate(decoded(path, lines, skip)):
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


def _table(path: Path, form: str, language: str | None, skip: Skip) -> Captions | None:
    """Its captions, and which columns were read.

    None if this is no CSV but the form of CLIP_benchmark, whose captions may hold commas without being quoted.
    """
    refuse_packed(path)
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
    entries = [Entry(where, as_text(row.get(caption)), (as_text(row.get(image)).strip(),)) for where, row in rows]
    return Captions(form, entries, [note])


def columns_read(names: Sequence[str], image: str | None, caption: str) -> str:
    """What should be known of how a table was read. image: the column of images, if they lie in one."""
    left_out = ", ".join(name for name in names if name not in (image, caption))
    return (
        f"captions are read from the column {caption}"
        + (f", images from {image}" if image else "")
        + (f"; left out: {left_out}" if left_out else "")
    )


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
