"""Search in a million features: how long the index takes to build, a query takes, and how much of the exact result it finds.

    python pipelines/measure_search.py --count 1000000

Features are made up: images around topics and themes within them, and captions of them that lie apart from all images, as a
CLIP's do. `batch index` builds the index of the kind that its rule chooses; each query is timed alone, with one thread and its
rows' metadata. Needs 4 KB of disk for each feature of 768 values, and half of that in memory. No model, no torch.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow
from pyarrow import parquet

from altdiffusion.altclip.image_index import ImageIndex
from altdiffusion.batch.index import build_index, chunks, open_partitions

PARTITION = 50_000  # rows of a file
TOPICS, THEMES = 1_000, 20  # of a topic
TOP = 10
Array = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000, help="features (default: %(default)s)")
    parser.add_argument("--width", type=int, default=768, help="of a feature (default: %(default)s, as AltCLIP's)")
    parser.add_argument("--queries", type=int, default=200, help="of each kind (default: %(default)s)")
    parser.add_argument("--kind", help="of the index (default: the rule's)")
    parser.add_argument("--folder", type=Path, help="keep features and index here, and take those that are there")
    settings = parser.parse_args()
    faiss.omp_set_num_threads(1)
    folder = settings.folder or Path(tempfile.mkdtemp(prefix="altdiffusion-search-"))
    try:
        print(json.dumps(measure(settings, folder), indent=2))
    finally:
        if settings.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def measure(settings: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures, as one document."""
    world, features, out = World(settings.width), folder / "features", folder / f"index-{settings.kind or 'rule'}"
    if not features.exists():
        write_features(world, settings.count, features)
    report: dict[str, Any] = {"features": settings.count, "width": settings.width, "threads": 1}
    if not out.exists():
        begun = time.perf_counter()
        build_index(features, out, kind=settings.kind, model="mini", counting=silent, say=print)
        report["build"] = {"minutes": round((time.perf_counter() - begun) / 60, 1), "peak_gb": peak_gb()}
    index = ImageIndex.open(out)
    about = index.about
    size = sum(path.stat().st_size for path in out.iterdir())
    report |= {"kind": about.kind, "depth": about.depth, "disk_gb": round(size / 1e9, 2), "at_building": about.recall}
    new = 10**9  # a seed that no file of features has
    ways = {"images": world.images(settings.queries, new), "captions": world.captions(settings.queries, new)}
    for name, queries in ways.items():
        truth = exact(features, queries)
        seconds, found = [], []
        for query in queries:
            begun = time.perf_counter()
            (hits,) = index.search(query[None], TOP)
            seconds.append(time.perf_counter() - begun)
            found.append({hit.row for hit in hits})
        recall = statistics.mean(
            len(some & set(right)) / TOP for some, right in zip(found, truth.tolist(), strict=True)
        )
        milliseconds = sorted(1000 * each for each in seconds)
        report[name] = {
            "median_ms": round(statistics.median(milliseconds), 2),
            "p99_ms": round(milliseconds[int(0.99 * len(milliseconds))], 2),
            "first_ms": round(1000 * seconds[0], 2),
            "recall_at_10": round(recall, 4),
        }
    return report


class World:
    """Where features lie: images around the themes of topics, captions beside them, all in a direction of their own."""

    def __init__(self, width: int) -> None:
        rng = np.random.default_rng(0)
        self.topics = unit(rng.standard_normal((TOPICS, width), np.float32))
        self.themes = unit(rng.standard_normal((TOPICS * THEMES, width), np.float32))
        self.gap = unit(rng.standard_normal((1, width), np.float32))
        self.width = width

    def images(self, count: int, seed: int) -> Array:
        return unit(self._middles(count, seed) + 1.2 * self._noise(count, seed))

    def captions(self, count: int, seed: int) -> Array:
        """Of the same themes as `images` with that seed."""
        return unit(self._middles(count, seed) + 1.2 * self._noise(count, seed + 1) + 1.5 * self.gap)

    def _middles(self, count: int, seed: int) -> Array:
        topics, themes = np.random.default_rng(seed).integers((TOPICS, THEMES), size=(count, 2)).T
        return self.topics[topics] + 0.7 * self.themes[THEMES * topics + themes]

    def _noise(self, count: int, seed: int) -> Array:
        return unit(np.random.default_rng([seed, 1]).standard_normal((count, self.width), np.float32))


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_features(world: World, count: int, folder: Path) -> None:
    """In clip-retrieval's layout; captions of the first file alone, for the index to measure itself with."""
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    starts = range(0, count, PARTITION)
    for number, start in enumerate(starts):
        rows = min(PARTITION, count - start)
        np.save(folder / f"img_emb/img_emb_{number:02}.npy", world.images(rows, number).astype(np.float16))
        names = [f"{row // 10_000:05}.tar:{row:09}.jpg" for row in range(start, start + rows)]
        table = pyarrow.table({"image_path": names, "caption": [f"caption of image {name}" for name in names]})
        parquet.write_table(table, folder / f"metadata/metadata_{number:02}.parquet")
    np.save(folder / f"text_emb/text_emb_{0:02}.npy", world.captions(min(PARTITION, count), 0).astype(np.float16))


def exact(features: Path, queries: Array) -> npt.NDArray[np.int64]:
    """The rows of the highest cosines, by comparing all."""
    scores = np.concatenate([queries @ rows.T for rows in chunks(open_partitions(features, "images"))], axis=1)
    return np.argpartition(-scores, TOP, axis=1)[:, :TOP]


@contextmanager
def silent(total: int, unit: str) -> Iterator[Any]:
    yield lambda count: None


def peak_gb() -> float:
    """The most that this process held, files that it has mapped included."""
    return round(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9, 2
    )


if __name__ == "__main__":
    main()
