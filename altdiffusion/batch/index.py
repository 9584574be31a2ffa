"""`altdiffusion batch index`: an index of what `batch embed` wrote, or clip-retrieval, which `altdiffusion search` reads.

Features are memory-mapped and added in chunks. The whole index is in memory while it is built, and no more than that.

Rule of kinds, where none is named (see `choose_kind`):
exact    up to 100,000 rows: every row is compared
ivf      up to 5,000,000: lists around centres that k-means finds; a search compares the rows of the nearest lists
ivf-sq8  beyond: the same with a byte a value, half the memory; scores are off by some thousandths
hnsw     only by name: a graph; searches fast, is built slowly, and lies in memory whole
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from altdiffusion import files
from altdiffusion.altclip.image_index import (
    ABOUT,
    FEATURES,
    ROWS,
    IndexAbout,
    IndexKind,
    IndexOf,
    check_libraries,
    search_features,
)
from altdiffusion.batch.feature_rows import write_rows
from altdiffusion.batch.folder import MANIFEST, count_done, read_manifest
from altdiffusion.batch.tasks.base import Counting
from altdiffusion.errors import InputError, first_line
from altdiffusion.files import local_path

if TYPE_CHECKING:
    from altdiffusion.altclip.image_index import Features

MOST_EXACT, MOST_WHOLE = 100_000, 5_000_000  # rows, see above
CHUNK = 16_384  # rows that are added at once: 50 MB of 768 float32
TRAIN_PER_LIST, MOST_TRAINED = 50, 262_144  # rows that k-means sees
LINKS = 32  # of a row in an hnsw
NEAREST, SAMPLE = 10, 200  # recall@10, of so many queries
# A search looks as deep as it takes for this recall: the depth begins here, and is doubled while that brings so much more.
DEPTHS, WANTED_RECALL, WORTH = {"ivf": 4, "ivf-sq8": 4, "hnsw": 32}, 0.95, 0.005
MOST_CANDIDATES = 2048  # of an hnsw
_EMB: dict[IndexOf, str] = {"images": "img", "captions": "text"}  # as clip-retrieval names its folders and files


@dataclass(frozen=True)
class FeatureFile:
    """A file of features, memory-mapped: (rows, width), float16 or float32. rows: its parquet file, a row each."""

    path: Path
    features: npt.NDArray[np.floating[Any]]
    rows: Path


def build_index(
    features: Path,
    out: Path,
    *,
    kind: IndexKind | None = None,
    of: IndexOf | None = None,
    model: str | None = None,
    root: Path | None = None,
    counting: Counting,
    say: Callable[[str], object],
) -> IndexAbout:
    """Index the features in a folder; `out` is whole, or not there.

    kind: None chooses by the number of rows. of: None takes the images' where there are any. model: that computed them, needed
        where the folder doesn't say it. root: that images' relative paths start from; None: the folder we are in.
    Raises InputError: no features, of different widths, NaN, without their metadata; `out` is taken, the disk is full.
    """
    check_libraries()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} is there already: give another INDEX, or remove it")
    of = of or _what_is_there(features)
    partitions = open_partitions(features, of)
    model = _model(features, model, say)
    width, count = partitions[0].features.shape[1], sum(len(each.features) for each in partitions)
    if not count:
        raise InputError(f"{features} holds no features: its files are empty")
    kind = kind or choose_kind(count)
    other: IndexOf = "captions" if of == "images" else "images"
    others = open_partitions(features, other) if _files(features, other) else []
    try:
        with files.new_folder(out) as folder:
            with counting(count, "rows") as done:
                index, recall, depth = _built(partitions, others, kind, (of, other), done)
            _write_index(index, folder / FEATURES)
            write_rows(folder / ROWS, [(each.rows, len(each.features)) for each in partitions])
            where = str((root or Path.cwd()).resolve())
            about = IndexAbout(model, width, count, kind, of, str(features.resolve()), where, depth, recall)
            files.write_text(folder / ABOUT, files.as_json(dataclasses.asdict(about)) + "\n")
    except OSError as error:
        raise InputError(f"{out} can't be written: {error.strerror or error}") from None
    return about


def choose_kind(count: int) -> IndexKind:
    """By the number of rows alone."""
    return "exact" if count <= MOST_EXACT else "ivf" if count <= MOST_WHOLE else "ivf-sq8"


def open_partitions(features: Path, of: IndexOf) -> list[FeatureFile]:
    """The files of features in order, none of them read. Raises InputError, see `build_index`."""
    found = []
    for path in _files(features, of):
        digits = path.stem.rpartition("_")[2]
        rows = features / "metadata" / f"metadata_{digits}.parquet"
        if not rows.is_file():
            raise InputError(f"{path} has no metadata: expected {rows}")
        found.append(FeatureFile(path, _mapped(path), rows))
    if not found:
        raise InputError(f"{features} has no {_EMB[of]}_emb/{_EMB[of]}_emb_0.npy: expected what `batch embed` wrote")
    for each in found:
        if each.features.shape[1] != found[0].features.shape[1]:
            wide, first = each.features.shape[1], found[0].features.shape[1]
            raise InputError(f"{each.path} is {wide} wide, {found[0].path.name} {first}: features of different models")
    return found


def _files(features: Path, of: IndexOf) -> list[Path]:
    """In the order of their numbers, with however many digits."""
    name = f"{_EMB[of]}_emb"
    numbered = [path for path in (features / name).glob("*.npy") if re.fullmatch(rf"{name}_[0-9]+", path.stem)]
    return sorted(numbered, key=lambda path: int(path.stem.rpartition("_")[2]))


def _mapped(path: Path) -> npt.NDArray[np.floating[Any]]:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is no .npy file that is whole: {first_line(error)}") from None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind != "f" or not found.shape[1]:
        got = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
        raise InputError(f"{path} holds no features: expected floats (rows, width), got {got}")
    return found


def _what_is_there(features: Path) -> IndexOf:
    return "captions" if _files(features, "captions") and not _files(features, "images") else "images"


def _model(features: Path, given: str | None, say: Callable[[str], object]) -> str:
    """The model that computed the features: as `batch embed` noted it, or as it is given. A folder's path is made absolute."""
    noted = None
    if (features / MANIFEST).exists():
        manifest = read_manifest(features)
        if manifest["task"] != "embed":
            raise InputError(f"{features} is of `batch {manifest['task']}`: expected what `batch embed` wrote")
        noted = manifest["settings"].get("model") or "mini"
        done = count_done(features)
        if done < manifest["partitions"]:
            say(f"{features}: only {done:,} of {manifest['partitions']:,} partitions are done, and indexed")
    name: str | None = given or noted
    if name is None:
        raise InputError(f"{features} doesn't say which model computed its features: name it, --model")
    if given and noted and given != noted:
        say(f"{features} was computed by {noted}: indexed as of {given}, as --model says")
    return str(local_path(name).resolve()) if name != "mini" and local_path(name).exists() else name


def chunks(partitions: Sequence[FeatureFile]) -> Iterator[Features]:
    """All features as unit vectors, float32, some thousand rows at a time. Raises InputError for NaN and zeros."""
    for each in partitions:
        for start in range(0, len(each.features), CHUNK):
            yield _unit(each, slice(start, start + CHUNK))


def _unit(partition: FeatureFile, which: slice | npt.NDArray[np.int64]) -> Features:
    """Some rows of a file."""
    rows = partition.features[which].astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = ~(np.isfinite(lengths) & (lengths > 0))[:, 0]
    if bad.any():
        row = np.arange(len(partition.features))[which][bad.argmax()]
        raise InputError(f"{partition.path}: row {row} is NaN, infinite or all 0; compute its features again")
    found: Features = rows / lengths
    return found


def _spread(partitions: Sequence[FeatureFile], count: int) -> tuple[Features, npt.NDArray[np.int64]]:
    """So many rows, evenly spread over all files, and their numbers."""
    total = sum(len(each.features) for each in partitions)
    wanted = np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))
    found, first = [], 0
    for each in partitions:
        inside = wanted[(wanted >= first) & (wanted < first + len(each.features))] - first
        if len(inside):
            found.append(_unit(each, inside))
        first += len(each.features)
    return np.concatenate(found), wanted


def _built(
    partitions: Sequence[FeatureFile],
    others: Sequence[FeatureFile],
    kind: IndexKind,
    names: tuple[IndexOf, IndexOf],
    done: Callable[[int], object],
) -> tuple[Any, dict[str, float], int]:
    """FAISS's index with all rows, what recall it has, and how deep it is searched for that.

    others: the features of the other kind, searched with as well. names: of both kinds.
    """
    count, width = sum(len(each.features) for each in partitions), partitions[0].features.shape[1]
    index = _empty(kind, count, width)
    if not index.is_trained:
        index.train(_spread(partitions, min(MOST_TRAINED, TRAIN_PER_LIST * getattr(index, "nlist", 1)))[0])
    own, numbers = _spread(partitions, SAMPLE)
    queries = {names[0]: own}
    if others and others[0].features.shape[1] == width:
        queries[names[1]] = _spread(others, SAMPLE)[0]
    truth = _Nearest(np.concatenate(list(queries.values())))
    for rows in chunks(partitions):
        if kind != "exact":
            truth.add(rows)
        index.add(rows)
        done(len(rows))
    if kind == "exact" or count <= NEAREST:
        return index, {}, 0
    deepest = getattr(index, "nlist", MOST_CANDIDATES)
    depth, before = min(DEPTHS[kind], deepest), 0.0
    while True:
        _, found = search_features(index, truth.queries, NEAREST + 1, depth)
        recall, first = {}, 0
        for name, some in queries.items():
            part = slice(first, first + len(some))
            itself = numbers if name == names[0] else np.full(len(some), -1)
            recall[str(name)] = round(_recall(found[part], truth.rows[part], itself), 4)
            first += len(some)
        least = min(recall.values())
        if least >= WANTED_RECALL or depth == deepest or least < before + WORTH:
            return index, recall, depth
        depth, before = min(2 * depth, deepest), least


def _empty(kind: IndexKind, count: int, width: int) -> Any:
    """Cosines, as inner products of unit vectors, in float16, as `batch embed` stores them, or in a byte a value."""
    import faiss

    bits = faiss.ScalarQuantizer.QT_8bit if kind == "ivf-sq8" else faiss.ScalarQuantizer.QT_fp16
    inner = faiss.METRIC_INNER_PRODUCT
    if kind == "exact":
        return faiss.IndexScalarQuantizer(width, bits, inner)
    if kind == "hnsw":
        return faiss.IndexHNSWSQ(width, bits, LINKS, inner)
    lists = max(1, min(int(2 * count**0.5), count // TRAIN_PER_LIST))
    return faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(width), width, lists, bits, inner, kind == "ivf-sq8")


class _Nearest:
    """The exact nearest rows of some queries, while the rows go by."""

    def __init__(self, queries: Features) -> None:
        self.queries, self._first = queries, 0
        self._scores = np.full((len(queries), NEAREST + 1), -np.inf, np.float32)
        self.rows = np.full((len(queries), NEAREST + 1), -1, np.int64)

    def add(self, rows: Features) -> None:
        scores = np.concatenate([self._scores, self.queries @ rows.T], axis=1)
        numbers = np.arange(self._first, self._first + len(rows))
        every = np.concatenate([self.rows, np.broadcast_to(numbers, (len(self.rows), len(rows)))], axis=1)
        best = np.argpartition(-scores, NEAREST, axis=1)[:, : NEAREST + 1]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable"), 1)
        self._scores, self.rows = np.take_along_axis(scores, best, 1), np.take_along_axis(every, best, 1)
        self._first += len(rows)


def _recall(found: npt.NDArray[np.int64], truth: npt.NDArray[np.int64], itself: npt.NDArray[np.int64]) -> float:
    """The fraction of the 10 nearest that is found; a query that is a row of its own is left out of both."""
    hits = [
        len(set([row for row in some if row != own][:NEAREST]) & set([row for row in right if row != own][:NEAREST]))
        for some, right, own in zip(found.tolist(), truth.tolist(), itself.tolist(), strict=True)
    ]
    return float(np.mean(hits)) / NEAREST


def _write_index(index: Any, path: Path) -> None:
    import faiss

    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise InputError(f"{path.name} of the index can't be written: {first_line(error)[-200:]}") from None


def as_document(about: IndexAbout, out: Path) -> dict[str, Any]:
    """For `--json`."""
    return {"out": str(out), **json.loads(json.dumps(dataclasses.asdict(about)))}
