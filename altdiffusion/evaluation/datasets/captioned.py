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
from altdiffusion.evaluation.datasets.caption_entry import (
    PAIRED,
    CaptionForm,
    Captions,
    CaptionsUsed,
    Entry,
    read_lines,
)
from altdiffusion.evaluation.datasets.caption_formats import (
    IMAGES,
    LINES,
    NAMES,
    WITH_CAPTIONS,
    columns_read,
    one_column,
    read_entries,
    recognise,
    strip_tags,
)
from altdiffusion.evaluation.datasets.caption_languages import guess_language, language_in_name, usual_code
from altdiffusion.evaluation.datasets.image_stores import Base64Images, ImagesByName, ImageStore, TableImages, stem
from altdiffusion.evaluation.datasets.paired_lines import NAMES_FOLDERS, choose_names
from altdiffusion.files import local_path, sha256_of
from altdiffusion.images import ImageSource


@dataclass(frozen=True)
class Problem:
    """What couldn't be used, and why."""

    where: str
    reason: str


_HASHED = 2**32  # bytes: tables beyond that hold the images, and would take minutes to hash
COCO_TRAINING = "COCO_train2014"  # how names of images in COCO's training half begin


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
    used: CaptionsUsed = "all"  # which captions of each image
    revision: str = ""  # of the file of captions: the beginning of its SHA-256

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
    form: CaptionForm | None = None,
    used: CaptionsUsed = "all",
) -> CaptionedImages:
    """Read a data set. What can't be used is left out, and listed in `problems`; images are not opened.

    captions: a file, or the folder that holds it. images: the folder of the images, or CN-CLIP's .tsv of them; by default
        what lies beside the captions.
    names: the file of image names of XTD10, Multi30k and the like; by default the one beside the captions.
    ids: a file of the images to keep, others are passed over: a name or id a line, or any file of captions (of
        Karpathy's JSON the split). It makes the test set of a file that holds everything.
    split: of Karpathy's JSON, and where a folder holds several files. language: "en", "zh", ...; guessed if None; of a file
        in many languages the one to read.
    max_skipped: the fraction of captions, 0 to 1, that may be left out.
    form: the format of the captions, recognised if None. used: all captions, or of each image the first in the file alone.
    Raises InputError: no such file, unknown format, no images, too much that can't be used.
    """
    problems: list[Problem] = []
    skipped = SkipLog(max_skipped)

    def skip(where: str, reason: str) -> None:
        if skipped.add(where, reason):
            problems.append(Problem(where, reason))

    try:
        path = _captions_file(_existing(captions), split, language, form)
        store: ImageStore
        if path.is_dir() or READERS.get(path.suffix.lower()) in (ArrowTable, TarTable):
            if given := images or names:
                raise InputError(f"{path} has images of its own: leave out {given}")
            if form is not None:
                raise InputError(f"{path} is a table of images, not {form}: leave out --captions-format")
            read, store = _read_table(path, language, skip)
        else:
            beside = _existing(names) if names is not None else _names_beside(path, form)
            read = read_entries(path, split, skip, beside, language, form)
            store = _open_store(path, read.form, images, split, skip)
        entries, notes = read.entries, list(read.notes)
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
    if used == "first":
        kept, positives = _first_of_each(kept, positives)
    distractors, about_images = store.distractors(image_names, wanted)
    notes += about_images
    if (untagged := strip_tags(kept)) is not None:
        kept, notes = untagged, [*notes, f"parts of speech are left out of the captions, which read: {untagged[0]}"]
    if seen := sum(stem(name).startswith(COCO_TRAINING) for name in image_names):
        of = f"{seen} of the {len(image_names)} images"
        notes.append(f"{of} are of COCO's training half ({COCO_TRAINING}...): a system trained on COCO has seen them")
    image_names += distractors
    return CaptionedImages(
        name=path.name,
        form=read.form,
        language=usual_code(language) if language else read.language or guess_language(kept, _stem(path)),
        image_names=image_names,
        images=[store.source(name) for name in image_names],
        captions=kept,
        positives=positives,
        problems=problems,
        notes=notes,
        used=used,
        revision=f"sha256 {sha256_of([path])}" if path.is_file() and path.stat().st_size < _HASHED else "",
    )


def _read_table(path: Path, language: str | None, skip: Skip) -> tuple[Captions, TableImages]:
    """What a training would read too."""
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
    return Captions("table", entries, [columns_read(table.present, image, column)]), TableImages(path, sources)


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


def _first_of_each(
    captions: Sequence[str], positives: Sequence[tuple[int, ...]]
) -> tuple[list[str], list[tuple[int, ...]]]:
    """Without the captions whose images all have an earlier one."""
    kept: list[str] = []
    images: list[tuple[int, ...]] = []
    seen: set[int] = set()
    for caption, its_images in zip(captions, positives, strict=True):
        if not seen.issuperset(its_images):
            kept.append(caption)
            images.append(its_images)
            seen.update(its_images)
    return kept, images


def _open_store(path: Path, form: str, images: str | Path | None, split: str, skip: Skip) -> ImageStore:
    place = path.parent if images is None else _existing(images)
    if place.is_file():
        return Base64Images(place, skip)
    if form == "cn-clip" and (files := _files(place, {IMAGES})):
        same_start = path.name.partition("_")[0]  # test_texts.jsonl, test_imgs.tsv
        files = [file for file in files if same_start in re.split(r"[^a-z0-9]+", file.stem.lower())] or files
        return Base64Images(_the_one(files, split, None, f"{place} holds several files of images"), skip)
    return ImagesByName(place)


def _captions_file(path: Path, split: str, language: str | None, form: str | None) -> Path:
    if path.is_file():
        return path
    inside = table_in(path, split)
    if inside is None and has_captions(path):
        return path
    if inside is not None and (inside.is_dir() or inside.suffix == ".parquet"):
        return inside
    files = [] if form in PAIRED else _files(path, WITH_CAPTIONS)
    if not files:
        around = _names_around(path)
        pairs = [(file, choose_names(file, around)) for file in _files(path, {LINES})]
        files = [file for file, names in pairs if names and len(read_lines(file)) == len(read_lines(names))]
    if not files:
        raise InputError(f"{path} holds no captions that can be read: name the file")
    return _the_one(files, split, language, f"{path} holds several files of captions")


def _names_beside(path: Path, form: str | None = None) -> Path | None:
    """The file of image names that belongs to one of captions alone."""
    if form not in PAIRED and (form is not None or recognise(path) != LINES):
        return None
    return choose_names(path, _names_around(path.parent))


def _names_around(folder: Path) -> list[Path]:
    """The files of image names in the first place that has some."""
    places = [folder / name for name in NAMES_FOLDERS if (folder / name).is_dir()]
    return next((found for place in places if (found := _files(place, {NAMES}))), [])


def _files(folder: Path, forms: Collection[str]) -> list[Path]:
    """The files in a folder that are in one of some forms."""
    endings = {".txt", ".token", ".tsv", ".json", ".jsonl", ".csv", ".gz", ""}  # and languages: Multi30k's test.de
    files = sorted(file for file in folder.iterdir() if file.is_file())
    files = [file for file in files if file.suffix.lower() in endings or is_language(file.suffix[1:])]
    return [
        file for file in files if file.stat().st_size and not file.name.startswith(".") and recognise(file) in forms
    ]


def _the_one(files: list[Path], split: str, language: str | None, several: str) -> Path:
    """The only file, or the only one left after preferring those that have the split and the language in their names.

    test_texts.jsonl comes before its translations, such as test_texts.tr.jsonl.
    """
    parts = {file: re.split(r"[^a-z0-9]+", _stem(file).lower()) for file in files}
    files = [file for file in files if split in parts[file]] or files
    if language:
        files = [
            file for file in files if language in parts[file] or language_in_name(_stem(file)) == usual_code(language)
        ] or files
    if len(files) > 1:
        files = [file for file in files if not any(map(is_language, parts[file]))] or files
    if len(files) > 1:
        raise InputError(f"{several}, {', '.join(file.name for file in files[:5])}: name one of them")
    return files[0]


def _stem(path: Path) -> str:
    """A file's name without its ending; of Multi30k's test.de.gz, test.de."""
    return path.name if is_language(path.suffix[1:]) else path.stem


def _read_ids(path: Path, split: str, language: str | None) -> set[str]:
    if recognise(path) in (NAMES, LINES):
        names = {line.decode("utf-8", "replace").strip().partition("#")[0] for line in read_lines(path)}
    else:
        entries = read_entries(path, split, lambda where, reason: None, language=language).entries
        names = {name for entry in entries for name in entry.images}
    return {stem(name) for name in names if name}


def _existing(name: str | Path) -> Path:
    path = local_path(name)
    if not path.exists():
        raise InputError(f"no such file or folder: {path}")
    return path
