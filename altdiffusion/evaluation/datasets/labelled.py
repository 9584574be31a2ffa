"""Data sets of images with labels: CIFAR-10 and -100, folders of a class each (ImageNet), ELEVATER-CN's layout, parquet.

data = read_labelled("cifar-10-batches-bin")          # or -py, a parquet file, imagenet/val, ...
data.classes[data.labels[7]]  # "frog"
"""

from __future__ import annotations

import codecs
import io
import pickle
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from altdiffusion.data.arrow_tables import ArrowTable
from altdiffusion.data.open_tables import table_in
from altdiffusion.data.table import NOT_UTF8, SkipLog, way_out
from altdiffusion.errors import InputError, first_line
from altdiffusion.files import local_path
from altdiffusion.images import ImageSource, image_file, image_files

CIFAR_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class LabelledImages:
    """Images, not read yet, each with the index of its class. kind: "cifar-10", "cifar-100", "folders", "parquet"."""

    name: str
    kind: str
    images: Sequence[ImageSource]
    labels: Sequence[int]
    classes: Sequence[str]

    def named(self, classes: Sequence[str]) -> LabelledImages:
        """The same with other names of its classes, in the same order. Raises InputError where their count differs."""
        if len(classes) != len(self.classes):
            raise InputError(
                f"{len(classes)} names of classes for {self.name}, which has {len(self.classes)}: expected one for each, "
                "in its order"
            )
        return replace(self, classes=list(classes))


def read_labelled(source: str | Path, split: str = "test", max_skipped: float = 0.01) -> LabelledImages:
    """Read a data set, recognised by what it holds; images are not opened.

    source: a folder of CIFAR (binary or Python version), of one folder a class (also below `split`, with `label_cn.txt` or
        `label.txt` beside it), or a parquet file or a folder by `datasets` with the columns of an image and a label, as the
        hub's CIFAR, where a fraction `max_skipped` of the rows may have no image.
    Raises InputError: no such place, nothing that is known, files that are damaged.
    """
    path = local_path(source)
    if not path.exists():
        raise InputError(f"no data set at {path}: expected a folder of CIFAR, of one folder a class, or a parquet file")
    try:
        inside = path if path.is_file() else table_in(path, split)
        if inside is not None and (inside == path or inside.is_dir() or inside.suffix == ".parquet"):
            return _arrow(inside, max_skipped)
        for file, read in _CIFAR.items():
            if (path / file).is_file():
                return read(path / file)
        return _folders(path, split)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{path} can't be read as images with labels: {first_line(error)}") from None


def read_lines(source: str | Path) -> list[str]:
    """The lines of a text file (UTF-8), without empty ones. Raises InputError."""
    path = local_path(source)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise InputError(f"{path} can't be read ({NOT_UTF8}): expected a name a line; {way_out(path)}") from None
    except OSError as error:
        raise InputError(f"{path} can't be read ({first_line(error)}): expected UTF-8 text, a name a line") from None
    if not any(lines):
        raise InputError(f"{path} is empty: expected a name a line")
    return [line for line in lines if line]


def _cifar_image(path: Path, index: int, pixels: np.ndarray[Any, Any]) -> ImageSource:
    """CIFAR's 3072 bytes, red first, as an image."""

    def read() -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels.reshape(3, 32, 32).transpose(1, 2, 0)).save(buffer, format="PNG")
        return buffer.getvalue()

    return ImageSource(path, str(index), read)


def _binary(path: Path, kind: str, label_bytes: int, names: str) -> LabelledImages:
    """The binary version: a record is the labels, the finest last, then 3072 bytes."""
    records = np.frombuffer(path.read_bytes(), np.uint8)
    if len(records) % (label_bytes + 3072):
        raise InputError(f"{path} is cut off: expected records of {label_bytes + 3072} bytes, got {len(records)} bytes")
    records = records.reshape(-1, label_bytes + 3072)
    images = [_cifar_image(path, index, row[label_bytes:]) for index, row in enumerate(records)]
    if not (path.parent / names).is_file() and kind != "cifar-10":
        raise InputError(f"no {names} beside {path}: it names the classes")
    classes = read_lines(path.parent / names) if (path.parent / names).is_file() else list(CIFAR_10)
    return _checked(LabelledImages(path.parent.name, kind, images, records[:, label_bytes - 1].tolist(), classes))


def _pickled(path: Path, kind: str, meta: str, key: str) -> LabelledImages:
    """The Python version: pickled dictionaries."""
    batch, names = _unpickle(path), _unpickle(path.parent / meta)
    coarse = "" if kind == "cifar-10" else "fine_"
    images = [_cifar_image(path, index, row) for index, row in enumerate(np.asarray(batch[b"data"], np.uint8))]
    labels = [int(label) for label in batch[f"{coarse}labels".encode()]]
    return _checked(
        LabelledImages(path.parent.name, kind, images, labels, [name.decode() for name in names[key.encode()]])
    )


# What damaged pickles raise, whose lengths and indices may be anything.
_UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    EOFError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    pickle.UnpicklingError,
    struct.error,
)


class _Unpickler(pickle._Unpickler):  # CPython's, written in Python
    """Reads arrays of bytes and plain values, and runs nothing else that a pickle may ask for.

    In Python: a memo's index, any number up to 2**32, is the size of an array in the one in C, which takes gigabytes at once.
    By hand, as `datasets` reads CIFAR from the hub's parquet files alone, not as its authors publish it.
    """

    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR does")
        return _ALLOWED[name]


def _empty_array(*_: object) -> np.ndarray[Any, Any]:
    """Of numpy's `_reconstruct`, whose array gets its shape and its bytes afterwards."""
    return np.zeros(0, np.uint8)


def _bytes_dtype(name: object, *_: object) -> np.dtype[Any]:
    """uint8, all that CIFAR has. Other dtypes can be made in a pickle so that numpy takes bytes for addresses of objects."""
    if name not in ("u1", b"u1"):
        raise pickle.UnpicklingError(f"it has an array of {name!r}, CIFAR's are of bytes")
    return np.dtype(np.uint8)


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes, as Python 2's protocols spell them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes by {encoding}, which no CIFAR does")
    return codecs.encode(text, "latin-1")


# By name alone, as numpy's modules have moved. `ndarray` is named, never called.
_ALLOWED = {"_reconstruct": _empty_array, "ndarray": "ndarray", "dtype": _bytes_dtype, "encode": _latin1}


def _unpickle(path: Path) -> dict[bytes, Any]:
    with path.open("rb") as file:
        batch = _Unpickler(file, encoding="bytes").load()
    if not isinstance(batch, dict):
        raise InputError(f"{path} holds a {type(batch).__name__}: expected CIFAR's dictionary")
    return batch


def _folders(path: Path, split: str) -> LabelledImages:
    """A folder a class, in the order of their names; label_cn.txt or label.txt name the classes, else the folders do."""
    root = path / split if (path / split).is_dir() else path
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    images: list[ImageSource] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        paths = image_files(folder, deep=True)
        images += [image_file(path) for path in paths]
        labels += [label] * len(paths)
    if not images:
        raise InputError(f"no images in {root}: expected CIFAR's files, or a folder of images for each class")
    data = LabelledImages(path.name, "folders", images, labels, [folder.name for folder in folders])
    names = next((path / name for name in ("label_cn.txt", "label.txt") if (path / name).is_file()), None)
    return data if names is None else data.named(read_lines(names))


def _arrow(path: Path, max_skipped: float) -> LabelledImages:
    """Columns of an image and a label, a number or a name."""
    skipped = SkipLog(max_skipped)
    table = ArrowTable(path, None, images=True, skip=skipped.add)
    skipped.check(len(table) + skipped.count)
    label_column = next((name for name in ("fine_label", "label", "cls") if name in table.present), None)
    if label_column is None:
        raise InputError(
            f"{path} has the columns {', '.join(table.present)}: expected one of labels (label, fine_label) beside "
            f"{table.image_column}"
        )
    values, classes = table.labels(label_column)
    if None in values:
        raise InputError(f"{path}:{values.index(None)} has no {label_column}: expected one in every row")
    if values and isinstance(values[0], str):
        classes = sorted(set(values))
        values = [classes.index(value) for value in values]
    names = classes or [str(label) for label in range(max(values, default=0) + 1)]
    kind = {10: "cifar-10", 100: "cifar-100"}.get(len(names), "parquet") if table.image_column == "img" else "parquet"
    if kind == "cifar-10" and not classes:
        names = list(CIFAR_10)
    return _checked(LabelledImages(path.stem, kind, [record["image"] for record in table], values, names))


def _checked(data: LabelledImages) -> LabelledImages:
    if not data.images or len(data.images) != len(data.labels):
        raise InputError(f"{data.name} has {len(data.images)} images and {len(data.labels)} labels: is it whole?")
    if wrong := [label for label in data.labels if not 0 <= label < len(data.classes)]:
        raise InputError(f"{data.name} has the label {wrong[0]}, but {len(data.classes)} classes")
    return data


_CIFAR: dict[str, Callable[[Path], LabelledImages]] = {
    "test_batch.bin": lambda path: _binary(path, "cifar-10", 1, "batches.meta.txt"),
    "test_batch": lambda path: _pickled(path, "cifar-10", "batches.meta", "label_names"),
    "test.bin": lambda path: _binary(path, "cifar-100", 2, "fine_label_names.txt"),
    "test": lambda path: _pickled(path, "cifar-100", "meta", "fine_label_names"),
}
