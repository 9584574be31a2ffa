"""Captions a line, whose images stand on the same lines of another file: XTD10, XTD200, Flickr30k-200, Multi30k.

| set | captions | image names |
|---|---|---|
| XTD10 | `XTD10/test_1kcaptions_it.txt`, `MIC/..._de.txt`, `STAIR/..._jp.txt` | `XTD10/test_image_names.txt` |
| XTD200, Flickr30k-200 | `deu_Latn.txt` | `test_image_names.txt`, `filenames.txt` |
| Multi30k, task 1 | `raw/test_2016_flickr.de.gz` | `image_splits/test_2016_flickr.txt`, of COCO `name.jpg#id of a caption` |
| Multi30k, task 2 | `raw/test_2016.1.de.gz` to `.5.de.gz` | `image_splits/test_2016_images.txt` |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from altdiffusion.data.table import Skip
from altdiffusion.errors import InputError
from altdiffusion.evaluation.datasets.caption_entry import Captions, Entry, decoded, read_lines

_NUMBERED = re.compile(r"(.+)\.([1-9])(\.[a-z]{2,3}(?:\.gz)?)")
NAMES_FOLDERS = (".", "../image_splits", "../XTD10")  # where the names may lie, from the captions' folder


def read_paired(path: Path, names: Path, skip: Skip, form: str) -> Captions:
    """The captions of a file, or of it and those beside it that are numbered alike.

    Raises InputError where a file doesn't have as many lines as there are names: which line lacks its image can't be told.
    """
    files = numbered_alike(path)
    entries = [entry for file in files for entry in _lines_of(file, names, skip)]
    notes = [f"captions are read from {files[0].name} to {files[-1].name}"] if len(files) > 1 else []
    return Captions(form, entries, notes)


def numbered_alike(path: Path) -> list[Path]:
    """Of test_2016.1.de: test_2016.1.de, test_2016.2.de, ... beside it; any other file alone."""
    match = _NUMBERED.fullmatch(path.name)
    if match is None:
        return [path]
    files = (path.with_name(f"{match[1]}.{number}{match[3]}") for number in range(1, 10))
    return [file for file in files if file.is_file()]


def choose_names(path: Path, found: Sequence[Path]) -> Path | None:
    """Of the files of image names around a file of captions, the one that is its own: by its name, or by its length."""
    name = path.name.partition(".")[0]
    own = [file for file in found if file.stem in (name, f"{name}_images")]
    if own or len(found) == 1:
        return (own or found)[0]
    count = len(read_lines(path))
    fitting = [file for file in found if len(read_lines(file)) == count]
    return fitting[0] if len(fitting) == 1 else None


def _lines_of(path: Path, names: Path, skip: Skip) -> Iterator[Entry]:
    captions, images = read_lines(path), read_lines(names)
    if len(captions) != len(images):
        raise InputError(
            f"{path} has {len(captions)} lines, {names} has {len(images)}: expected a caption for every image name"
        )
    texts = dict(decoded(path, captions, skip))
    for number, image in enumerate(images, 1):
        where, name = f"{path}:{number}", image.decode("utf-8", "replace").strip().partition("#")[0]
        if not name:
            skip(where, f"no image name on that line of {names.name}")
        elif captions[number - 1].strip() == b"":
            yield Entry(where, "", (name,))
        elif where in texts:
            yield Entry(where, texts[where], (name,))
