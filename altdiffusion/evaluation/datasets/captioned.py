"""Data sets of images with captions, in every format that they are published in: see caption_formats.py.

data = read_captions("results_20130124.token", "flickr30k-images", ids="dataset_flickr30k.json")
data.captions[7], data.positives[7]  # "Two men ...", (1,): the second image
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, tensor

from altdiffusion.data.arrow_tables import ArrowTable
from altdiffusion.data.columns import is_language
from altdiffusion.data.image_folder import has_captions
from altdiffusion.data.open_tables import READERS, open_table, table_in
from altdiffusion.data.table import BadRecord, Skip, SkipLog, text_of
from altdiffusion.data.tar_shards import TarTable
from altdiffusion.errors import InputError, first_line
from altdiffusion.evaluation.datasets.caption_formats import (
    IMAGES,
    LINES,
    NAMES,
    Entry,
    columns_read,
    one_column,
    read_entries,
    read_lines,
    recognise,
    strip_tags,
)
from altdiffusion.evaluation.datasets.image_stores import Base64Images, ImagesByName, ImageStore, TableImages, stem
from altdiffusion.files import local_path
from altdiffusion.images import ImageSource


@dataclass(frozen=True)
class Problem:
    """What couldn't be used, and why."""

    where: str
    reason: str


@dataclass(frozen=True)
class CaptionedImages:
    """Images, not read yet, and their captions. Images that no caption names are searched through all the same."""

    name: str  # of the file
    form: str  # of caption_formats.py
    language: str  # "en", "zh", ...; "und" if unknown
    image_names: Sequence[str]
    images: Sequence[ImageSource]
    captions: Sequence[str]
    positives: Sequence[tuple[int, ...]]  # for each caption, the indices of its images
    problems: Sequence[Problem]  # what was left out
    notes: Sequence[str] = ()  # what is no mistake, but should be known

    @property
    def pairs(self) -> Tensor:
        """int64 (pairs, 2): the indices of a caption and of an image that belong together."""
        return tensor([(text, image) for text, images in enumerate(self.positives) for image in images])

    @property
    def is_flickr30k_test(self) -> bool:
        """Whether this has the shape of Flickr30k's test set: 1000 images, named by digits, each with 5 captions of its own."""
        per_image = Counter(images for images in self.positives if len(images) == 1)
        digits = all(re.fullmatch(r"\d+", stem(name)) for name in self.image_names)
        return digits and len(self.images) == len(per_image) == 1000 and set(per_image.values()) == {5}

    def without(self, bad: Collection[int], problems: Sequence[Problem]) -> CaptionedImages:
        """The same without some images, and without the captions that have no other."""
        kept = [image for image in range(len(self.images)) if image not in bad]
        new_index = {image: index for index, image in enumerate(kept)}
        positives = [tuple(new_index[image] for image in images if image in new_index) for images in self.positives]
        return replace(
            self,
            image_names=[self.image_names[image] for image in kept],
            images=[self.images[image] for image in kept],
            captions=[caption for caption, images in zip(self.captions, positives, strict=True) if images],
            positives=[images for images in positives if images],
            problems=[*self.problems, *problems],
        )


def read_captions(
    captions: str | Path,
    images: str | Path | None = None,
    *,
    names: str | Path | None = None,
    ids: str | Path | None = None,
    split: str = "test",
    language: str | None = None,
    max_skipped: float = 0.01,
) -> CaptionedImages:
    """Read a data set. What can't be used is left out, and listed in `problems`; images are not opened.

    captions: a file, or the folder that holds it. images: the folder of the images, or CN-CLIP's .tsv of them; by default
        what lies beside the captions.
    names: XTD10's file of image names; by default the one beside the captions.
    ids: a file of the images to keep, others are passed over: a name or id a line, or any file of captions (of
        Karpathy's JSON the split). It makes the test set of a file that holds everything.
    split: of Karpathy's JSON, and where a folder holds several files. language: "en", "zh", ...; guessed if None.
    max_skipped: the fraction of captions, 0 to 1, that may be left out.
    Raises InputError: no such file, unknown format, no images, too much that can't be used.
    """
    problems: list[Problem] = []
    skipped = SkipLog(max_skipped)

    def skip(where: str, reason: str) -> None:
        if skipped.add(where, reason):
            problems.append(Problem(where, reason))

    try:
        path = _captions_file(_existing(captions), split, language)
        store: ImageStore
        if path.is_dir() or READERS.get(path.suffix.lower()) in (ArrowTable, TarTable):
            if given := images or names:
                raise InputError(f"{path} has images of its own: leave out {given}")
            form = "table"
            entries, store, notes = _read_table(path, language, skip)
        else:
            beside = _existing(names) if names is not None else _names_beside(path)
            form, entries, notes = read_entries(path, split, skip, beside, language)
            store = _open_store(path, form, images, split, skip)
        wanted = _read_ids(_existing(ids), split, language) if ids is not None else None
        if wanted is not None:
            entries = [entry for entry in entries if any(stem(name) in wanted for name in entry.images)]
            if not entries:
                raise InputError(
                    f"{path} has no caption of any image that {ids} lists, such as {min(wanted, default='none')}"
                )
            for missing in sorted(wanted - {stem(name) for entry in entries for name in entry.images}):
                skip(f"{ids}: {missing}", "no caption names it")
    except OSError as error:
        raise InputError(f"{error.filename or captions} can't be read: {error.strerror or first_line(error)}") from None
    if entries and not any(store.find(name) for entry in entries for name in entry.images):
        raise InputError(
            f"{store.place} has none of the images that {path} names, such as {entries[0].images[0]}: "
            "give their folder after the captions"
        )
    image_names, kept, positives = _match(entries, store, skip)
    skipped.check(len(kept) + skipped.count)
    if not kept:
        raise InputError(f"{path} has no caption that can be used")
    distractors, about_images = store.distractors(image_names, wanted)
    notes += about_images
    if (untagged := strip_tags(kept)) is not None:
        kept, notes = untagged, [*notes, f"parts of speech are left out of the captions, which read: {untagged[0]}"]
    image_names += distractors
    return CaptionedImages(
        name=path.name,
        form=form,
        language=language or guess_language(kept, path.stem),
        image_names=image_names,
        images=[store.source(name) for name in image_names],
        captions=kept,
        positives=positives,
        problems=problems,
        notes=notes,
    )


_SCRIPTS = {
    "ja": "\u3040-\u30ff",
    "ko": "\uac00-\ud7af",
    "zh": "\u4e00-\u9fff",
    "ru": "\u0400-\u04ff",
    "ar": "\u0600-\u06ff",
}
_LATIN = ("en", "de", "es", "fr", "it", "pl", "pt", "tr", "vi")
_ENGLISH = re.compile(r"\b(?:the|an?|is|are|in|on|of|with|and)\b", re.IGNORECASE)


def guess_language(captions: Sequence[str], name: str = "") -> str:
    """By script; of those in Latin letters by the end of the file's name, such as _it, or by English words; else "und".

    By hand: only the headings of tables and the published rows depend on it, and --language overrides it.
    """
    sample = captions[:: max(1, len(captions) // 500)]
    for language, letters in _SCRIPTS.items():
        pattern = re.compile(f"[{letters}]")
        if sum(bool(pattern.search(caption)) for caption in sample) > len(sample) / 2:
            return language
    if (ending := re.split(r"[^a-z]", name.lower())[-1]) in _LATIN:
        return ending
    return "en" if sum(bool(_ENGLISH.search(caption)) for caption in sample) > len(sample) / 2 else "und"


def _read_table(path: Path, language: str | None, skip: Skip) -> tuple[list[Entry], TableImages, list[str]]:
    """What a training would read too: captions, images, and what should be known of how they were read."""
    table = None
    if language is not None:
        with suppress(InputError):  # no such column: the language of others. What else is wrong is met again
            table = open_table(path, [language], images=True, skip=skip)
    if table is None:
        table = open_table(path, [], images=True, skip=skip)
    column = one_column(path, table.present, table.columns, language)
    entries: list[Entry] = []
    sources: dict[str, ImageSource] = {}
    for index, record in enumerate(table):
        source = record["image"]
        name = source.member or str(source.path)
        sources.setdefault(name, source)
        entries.append(Entry(table.where(index), record[column], (name,)))
    image = table.image_column if isinstance(table, ArrowTable) else None
    return entries, TableImages(path, sources), [columns_read(table.present, image, column)]


def _match(
    entries: Sequence[Entry], store: ImageStore, skip: Skip
) -> tuple[list[str], list[str], list[tuple[int, ...]]]:
    """The images that are there, the captions that belong to one, and to which."""
    indices: dict[str, int] = {}  # of the images
    captions: list[str] = []
    positives: list[tuple[int, ...]] = []
    for entry in entries:
        try:
            caption = text_of({"caption": entry.caption}, "caption")
        except BadRecord as reason:
            skip(entry.where, str(reason))
            continue
        keys = {name: store.find(name) for name in entry.images}
        for name in [name for name, key in keys.items() if key is None]:
            skip(f"{entry.where}, image {name}", "no such image")
        if there := list(dict.fromkeys(key for key in keys.values() if key is not None)):
            captions.append(caption)
            positives.append(tuple(indices.setdefault(key, len(indices)) for key in there))
    return list(indices), captions, positives


def _open_store(path: Path, form: str, images: str | Path | None, split: str, skip: Skip) -> ImageStore:
    place = path.parent if images is None else _existing(images)
    if place.is_file():
        return Base64Images(place, skip)
    if form == "cn-clip" and (files := _files(place, {IMAGES})):
        same_start = path.name.partition("_")[0]  # test_texts.jsonl, test_imgs.tsv
        return Base64Images(_the_one(files, (same_start, split), f"{place} holds several files of images"), skip)
    return ImagesByName(place)


def _captions_file(path: Path, split: str, language: str | None) -> Path:
    if path.is_file():
        return path
    inside = table_in(path, split)
    if inside is None and has_captions(path):
        return path
    if inside is not None and (inside.is_dir() or inside.suffix == ".parquet"):
        return inside
    files = _files(path, {"token", "karpathy", "cn-clip", "csv", "jsonl", "clip-benchmark"})
    if not files and (names := _files(path, {NAMES})):
        files = _as_long_as(names[0], LINES)
    if not files:
        raise InputError(f"{path} holds no captions that can be read: name the file")
    return _the_one(files, (split, language or ""), f"{path} holds several files of captions")


def _names_beside(path: Path) -> Path | None:
    if recognise(path) != LINES:
        return None
    files = _as_long_as(path, NAMES)
    return files[0] if len(files) == 1 else None


def _as_long_as(path: Path, form: str) -> list[Path]:
    """The files beside one, in a form, that have as many lines."""
    count = len(read_lines(path))
    return [file for file in _files(path.parent, {form}) if len(read_lines(file)) == count]


def _files(folder: Path, forms: Collection[str]) -> list[Path]:
    """The files in a folder that are in one of some forms."""
    endings = {".txt", ".token", ".tsv", ".json", ".jsonl", ".csv", ""}
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in endings)
    return [
        file for file in files if file.stat().st_size and not file.name.startswith(".") and recognise(file) in forms
    ]


def _the_one(files: list[Path], words: Sequence[str], several: str) -> Path:
    """The only file, or the only one left after preferring those that have each of the words in their names.

    test_texts.jsonl comes before its translations, such as test_texts.tr.jsonl.
    """
    parts = {file: re.split(r"[^a-z0-9]+", file.stem.lower()) for file in files}
    for word in words:
        files = [file for file in files if word and word in parts[file]] or files
    if len(files) > 1:
        files = [file for file in files if not any(map(is_language, parts[file]))] or files
    if len(files) > 1:
        raise InputError(f"{several}, {', '.join(file.name for file in files[:5])}: name one of them")
    return files[0]


def _read_ids(path: Path, split: str, language: str | None) -> set[str]:
    if recognise(path) in (NAMES, LINES):
        names = {line.decode("utf-8", "replace").strip() for line in read_lines(path)}
    else:
        entries = read_entries(path, split, lambda where, reason: None, language=language)[1]
        names = {name for entry in entries for name in entry.images}
    return {stem(name) for name in names if name}


def _existing(name: str | Path) -> Path:
    path = local_path(name)
    if not path.exists():
        raise InputError(f"no such file or folder: {path}")
    return path
