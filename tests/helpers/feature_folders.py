"""Folders of features as `batch embed` and clip-retrieval write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from altdiffusion.altclip.image_index import IndexAbout
from altdiffusion.batch.index import build_index


def clustered(count: int, width: int = 16, seed: int = 0) -> np.ndarray:
    """Unit vectors around 20 centres."""
    rng = np.random.default_rng(seed)
    rows = np.random.default_rng(9).standard_normal((20, width))[rng.integers(0, 20, count)]
    return unit(rows + 0.7 * rng.standard_normal((count, width)))


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def save_part(folder: Path, digits: str, rows: Any, columns: Mapping[str, Sequence[Any]], kind: str = "img") -> None:
    """A file of features and its metadata. digits: its number as it stands in the names."""
    for name in (f"{kind}_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{kind}_emb/{kind}_emb_{digits}.npy", rows)
    parquet.write_table(pyarrow.table(dict(columns)), folder / f"metadata/metadata_{digits}.parquet")


def save_features(folder: Path, rows: np.ndarray, kind: str = "img") -> Path:
    """One file; row i is of the image i.png, whose caption is "caption i"."""
    names = [f"{row}.png" for row in range(len(rows))]
    captions = [f"caption {row}" for row in range(len(rows))]
    save_part(folder, "0", rows.astype(np.float16), {"image_path": names, "caption": captions}, kind)
    return folder


def build(features: Path, out: Path, **options: Any) -> IndexAbout:
    """`build_index` without a word."""
    given = {"model": "mini", "counting": silent, "say": lambda line: None} | options
    return build_index(features, out, **given)


@contextmanager
def silent(total: int, unit: str):
    yield lambda count: None
