"""Images found by what they show: an index of their features, searched with features of prompts or of images.

    index = ImageIndex.open("index")  # what `altdiffusion batch index FEATURES index` wrote
    scorer = PromptScorer.from_pretrained(index.about.model)
    for hit in index.search(query_features(scorer, ["一只猫"]), top=10)[0]:
        print(hit.score, hit.columns["image_path"])

INDEX/index.json      what it is of: `IndexAbout`
INDEX/features.faiss  FAISS's index of the features
INDEX/rows.arrow      a row an image, in the same order, with what the data set says of it; memory-mapped, never read whole

No torch, and FAISS and pyarrow only when an index is opened.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import json
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from altdiffusion.errors import InputError, first_line

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from altdiffusion.altclip.image_inputs import AnyImage
    from altdiffusion.altclip.scorer import PromptScorer

    Features = npt.NDArray[np.float32]

ABOUT, FEATURES, ROWS = "index.json", "features.faiss", "rows.arrow"
FORMAT = 1  # of index.json
IndexKind = Literal["exact", "ivf", "ivf-sq8", "hnsw"]
IndexOf = Literal["images", "captions"]


@dataclass(frozen=True)
class IndexAbout:
    """model: the AltCLIP that computed the features. width: of a feature. count: of the rows. of: whose features they are.

    depth: how far a search looks: lists of an ivf, efSearch of an hnsw; 0 where it looks at everything.
    recall: of the 10 best by an exact search, the fraction that is found, by what was searched with; {} where not measured.
    features: the folder that it was made of. root: the folder that relative paths of images start from.
    """

    model: str
    width: int
    count: int
    kind: IndexKind
    of: IndexOf
    features: str
    root: str
    depth: int = 0
    recall: dict[str, float] = field(default_factory=dict)
    format: int = FORMAT


class Hit(NamedTuple):
    """An image that was found. score: the cosine, -1 to 1. columns: image_path, caption, id and the data set's own."""

    row: int
    score: float
    columns: dict[str, Any]


class ImageIndex:
    """Safe to search from several threads."""

    def __init__(self, about: IndexAbout, folder: Path) -> None:
        """What `open` calls."""
        self.about = about
        self._index = _read_features(folder / FEATURES)
        self._batches = _read_rows(folder / ROWS)
        self._starts = list(itertools.accumulate(map(len, self._batches), initial=0))
        if (self._index.d, self._index.ntotal, self._starts[-1]) != (about.width, about.count, about.count):
            raise InputError(
                f"{folder} doesn't fit together: {about.count} rows of width {about.width} by its {ABOUT}, "
                f"{self._index.ntotal} of {self._index.d} in {FEATURES}, {self._starts[-1]} in {ROWS}; make it anew"
            )

    @classmethod
    def open(cls, folder: str | Path) -> ImageIndex:
        """Raises InputError: no index there, a damaged one, FAISS or pyarrow are missing."""
        return cls(read_about(Path(folder)), Path(folder))

    def __len__(self) -> int:
        return self.about.count

    def search(self, features: Any, top: int = 10) -> list[list[Hit]]:
        """The `top` best rows for each feature, best first; all of them where there are fewer.

        features: (queries, width), an array or a tensor on the CPU, of any length but 0. Raises InputError.
        """
        import numpy as np

        if top < 1:
            raise InputError(f"top {top}: expected at least 1")
        queries = np.ascontiguousarray(features, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.about.width:
            raise InputError(
                f"features of shape {queries.shape}, expected (queries, {self.about.width}): this index is of {self.about.model}"
            )
        lengths = np.linalg.norm(queries, axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and lengths.all()):
            raise InputError("features to search with are NaN, infinite or all 0")
        scores, rows = search_features(self._index, queries / lengths, min(top, self.about.count), self.about.depth)
        return [
            [
                Hit(row, max(-1.0, min(1.0, score)), self.columns(row))
                for score, row in zip(*found, strict=True)
                if row >= 0
            ]
            for found in zip(scores.tolist(), rows.tolist(), strict=True)
        ]

    def columns(self, row: int) -> dict[str, Any]:
        """What the data set says of a row; what it doesn't say is left out."""
        batch = bisect.bisect_right(self._starts, row) - 1
        (found,) = self._batches[batch].slice(row - self._starts[batch], 1).to_pylist()
        return {name: value for name, value in found.items() if value is not None}


def query_features(scorer: PromptScorer, prompts: Sequence[str], image: AnyImage | None = None) -> Features:
    """A query for each prompt: its features, or where an image is given as well, the mean of both; the image's own without
    prompts. Raises InputError for neither, an empty prompt, an image that can't be used."""
    if not prompts and image is None:
        raise InputError("nothing to search with: expected a prompt, an image, or both")
    features = scorer.text_features(list(prompts))
    if image is not None:
        of_image = scorer.image_features(image)
        features = features + of_image if prompts else of_image
    found: Features = features.numpy()
    return found


def search_features(index: Any, queries: Features, top: int, depth: int) -> tuple[Features, npt.NDArray[np.int64]]:
    """Scores and rows (queries, top) of FAISS's index, -1 where it has none. A search that finds too few looks further."""
    scores, rows = index.search(queries, top, params=_parameters(index, max(depth, 1), top))
    if (rows < 0).any():
        scores, rows = index.search(queries, top, params=_parameters(index, index.ntotal, top))
    return scores, rows


def _parameters(index: Any, depth: int, top: int) -> Any:
    import faiss

    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=min(depth, index.nlist))
    return faiss.SearchParametersHNSW(efSearch=max(depth, top)) if isinstance(index, faiss.IndexHNSW) else None


def read_about(folder: Path) -> IndexAbout:
    """What an index is of. Raises InputError where there is none."""
    try:
        found = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        is_newer = found["format"] > FORMAT
        names = {each.name for each in dataclasses.fields(IndexAbout)}
        about = IndexAbout(**{name: value for name, value in found.items() if name in names})
        if not all(isinstance(each, str) for each in (about.model, about.kind, about.of, about.root)):
            raise TypeError
        operator.index(about.depth)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise InputError(
            f"{folder} has no {ABOUT} of an index: expected a folder that `altdiffusion batch index` wrote"
        ) from None
    if is_newer:
        raise InputError(f"{folder} was written by a newer altdiffusion: pip install --upgrade altdiffusion")
    return about


def check_libraries() -> None:
    """Raise InputError where FAISS or pyarrow is missing."""
    try:
        import faiss  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise InputError(
            f'an index is made and searched by FAISS and pyarrow: pip install "altdiffusion[batch]" ({error})'
        ) from None


def _read_features(path: Path) -> Any:
    """FAISS's index; an ivf stays on the disk, of which a search reads what it looks at."""
    check_libraries()
    import faiss

    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise InputError(f"{path} can't be read ({first_line(error)[-200:]}): make the index anew") from None


def _read_rows(path: Path) -> list[Any]:
    """Arrow's batches of rows in a file that is memory-mapped: none of them is read."""
    import pyarrow

    try:
        reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
        return [reader.get_batch(number) for number in range(reader.num_record_batches)]
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path} can't be read ({first_line(error)}): make the index anew") from None
