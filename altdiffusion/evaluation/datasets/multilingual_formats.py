"""The files of sets with captions in many languages, each recognised by what stands in it.

| form | a line, or the file | source |
|---|---|---|
| `xm3600` | `{"image/key", "image/locale", "de": {"caption": [...], "caption/tokenized": [...]}, ...}` | XM3600's own |
| `xflickrco` | `{"sentences": [...], "id", "img_path"}`, a folder a language | IGLUE's xFlickr&CO |
| `wit` | `{"image_idx", "image_url", "caption_reference_description", "language", ...}`, or TSV with such columns | IGLUE, WIT |
| `babel` | `{"images": [...], "captions": {"de": [[...], ...], ...}}` | Babel-ImageNet's xtd.json, xm3600.json, xflickrco.json |
| `clip-benchmark-json` | `{"image_paths": [...], "annotations": [...], "indicies": [...]}`, a file a language | CLIP_benchmark |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from altdiffusion.data.columns import is_language
from altdiffusion.data.line_file import EMPTY_LINE, LineFile
from altdiffusion.data.table import Skip
from altdiffusion.errors import InputError
from altdiffusion.evaluation.datasets.caption_entry import Captions, Entry, as_text, objects, refuse_packed
from altdiffusion.evaluation.datasets.caption_languages import choose_language, usual_code

WIT_CAPTION, WIT_IMAGE = "caption_reference_description", "image_url"
_XM3600_KEY = "image/key"


def form_of_record(record: Mapping[str, Any]) -> str | None:
    """The form of a file of JSON lines with such an object in it, or of a table with such columns."""
    if _XM3600_KEY in record:
        return "xm3600"
    if "sentences" in record and "img_path" in record:
        return "xflickrco"
    return "wit" if WIT_CAPTION in record and WIT_IMAGE in record else None


def form_of_document(document: Mapping[str, Any]) -> str | None:
    """The form of a file that is one JSON object."""
    if isinstance(document.get("images"), list) and isinstance(document.get("captions"), dict):
        return "babel"
    return "clip-benchmark-json" if "image_paths" in document and "annotations" in document else None


def read_xm3600(path: Path, lines: Sequence[bytes], language: str | None, skip: Skip) -> Captions:
    """One language's captions of all images. Raises InputError: no language asked for, or one that isn't there."""
    records = list(objects(path, lines, skip))
    present = [name for name in (records[0][1] if records else {}) if not name.startswith("image/")]
    code = _chosen(path, present, language)
    entries = []
    seen: set[str] = set()
    for where, record in records:
        image, captions = record.get(_XM3600_KEY), record.get(code)
        captions = captions.get("caption") if isinstance(captions, dict) else None
        if not isinstance(image, str) or not image:
            skip(where, f"no {_XM3600_KEY}")
        elif image in seen:
            skip(where, f"the same {_XM3600_KEY} again")
        elif not isinstance(captions, list) or not captions:
            skip(where, f"no caption in {code}")
        else:
            seen.add(image)
            entries += _each(f"{where}, {code}", captions, f"{image}.jpg")
    return Captions("xm3600", entries, language=usual_code(code))


def read_xflickrco(path: Path, lines: Sequence[bytes], skip: Skip) -> Captions:
    """One language's file, which lies in a folder of its name."""
    entries = []
    seen: set[str] = set()
    for where, record in objects(path, lines, skip):
        image, captions = record.get("img_path"), record.get("sentences")
        if not isinstance(image, str) or not image:
            skip(where, "no img_path")
        elif image in seen:
            skip(where, "the same img_path again")
        elif not isinstance(captions, list) or not captions:
            skip(where, "no sentences: an image without captions")
        else:
            seen.add(image)
            entries += _each(where, captions, image)
    folder = path.absolute().parent.name
    return Captions("xflickrco", entries, language=folder if is_language(folder) or folder == "id" else None)


def read_wit(path: Path, lines: Sequence[bytes], language: str | None, skip: Skip) -> Captions:
    """The rows of one language that have a reference description: others are no captions, and are passed over.

    Raises InputError: rows in several languages and none asked for, none in the one that is.
    """
    rows = list(objects(path, lines, skip) if lines[0].lstrip().startswith(b"{") else _tab_separated(path, skip))
    code = _chosen(path, sorted({str(row.get("language")) for _, row in rows if row.get("language")}), language)
    entries = []
    for where in [where for where, row in rows if not row.get("language")]:
        skip(where, "no language")
    rows = [(where, row) for where, row in rows if row.get("language") == code]
    for where, row in rows:
        if not as_text(row.get(WIT_IMAGE)):
            skip(where, f"no {WIT_IMAGE}")
        elif as_text(row.get(WIT_CAPTION)).strip():
            entries.append(Entry(where, row[WIT_CAPTION], (row[WIT_IMAGE],)))
    left_out = len(rows) - len(entries)
    notes = [f"{left_out} of {len(rows)} rows in {code} have no {WIT_CAPTION} and are passed over"] if left_out else []
    return Captions("wit", entries, notes, usual_code(code))


def read_babel(path: Path, document: Mapping[str, Any], language: str | None, skip: Skip) -> Captions:
    """One language's captions of all images; an image that is listed again is one image, which is said.

    Raises InputError where there aren't as many lists of captions as images.
    """
    images, by_language = document["images"], document["captions"]
    code = _chosen(path, list(by_language), language)
    entries: list[Entry] = []
    for number, (image, captions) in enumerate(_fitting(path, images, by_language[code], f"images and {code}")):
        where = f"{path}:captions[{code}][{number}]"
        if not isinstance(captions, list) or not captions:
            skip(where, "an image without captions")
        else:
            entries += _each(where, captions, str(image))
    counts = Counter(map(str, images))
    again = [image for image, count in counts.items() if count > 1]
    notes = []
    if again:
        listed = f"{len(again)} of the {len(counts)} images are listed more than once, such as {again[0]}"
        notes.append(f"{listed}: the captions of each are taken together")
    return Captions("babel", entries, notes, usual_code(code))


def read_clip_benchmark_json(path: Path, document: Mapping[str, Any]) -> Captions:
    """A caption an image, in one language. Raises InputError where there aren't as many captions as images."""
    images, captions = document.get("image_paths"), document.get("annotations")
    if not isinstance(images, list):
        raise InputError(f'{path} is not CLIP_benchmark\'s JSON: expected "image_paths" and "annotations", two lists')
    pairs = enumerate(_fitting(path, images, captions, "image_paths and annotations"))
    entries = [
        Entry(f"{path}:annotations[{number}]", as_text(caption), (str(image),)) for number, (image, caption) in pairs
    ]
    return Captions("clip-benchmark-json", entries)


def _fitting(path: Path, images: list[Any], captions: object, what: str) -> Iterable[tuple[Any, Any]]:
    if not isinstance(captions, list):
        raise InputError(f"{path}: {what} should be two lists of one length, got a {type(captions).__name__}")
    if len(images) != len(captions):  # which of them lacks its partner can't be told
        raise InputError(
            f"{path}: {what} don't fit each other, {len(images)} and {len(captions)}: expected one for one. Is it whole?"
        )
    return zip(images, captions, strict=True)


def _each(where: str, captions: Sequence[object], image: str) -> list[Entry]:
    return [Entry(f"{where}[{number}]", as_text(caption), (image,)) for number, caption in enumerate(captions)]


def _chosen(path: Path, present: Sequence[str], language: str | None) -> str:
    code = choose_language(present, language)
    if code is None:
        several = f"no captions in {language}, only in" if language else "captions in"
        raise InputError(f"{path} has {several} {', '.join(present) or 'no language'}: choose one with --language")
    return code


def _tab_separated(path: Path, skip: Skip) -> Iterator[tuple[str, dict[str, Any]]]:
    refuse_packed(path)
    file = LineFile(path, is_json=False, delimiter="\t")
    return file.rows(lambda where, reason: reason == EMPTY_LINE or skip(where, reason))
