"""`altdiffusion batch embed`: features in clip-retrieval's layout, which its tools and autofaiss read.

OUT/img_emb/img_emb_00017.npy        float16 (items, projection_dim), unit vectors of the images
OUT/text_emb/text_emb_00017.npy      of the captions
OUT/metadata/metadata_00017.parquet  a row an item, in the same order: image_path, caption, and what the input says
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from altdiffusion.batch.feature_rows import as_text
from altdiffusion.batch.folder import OutputFolder
from altdiffusion.batch.items import Item
from altdiffusion.batch.partitions import Partition
from altdiffusion.batch.settings import EmbedBatch
from altdiffusion.batch.tasks.base import Made, OnDone, Task, write_parquet
from altdiffusion.batch.tasks.features import features, load_scorer


class EmbedTask(Task):
    settings: EmbedBatch

    def __init__(self, settings: EmbedBatch, device: str | None) -> None:
        super().__init__(settings, device)
        self._scorer = load_scorer(settings, device)

    def run(self, partition: Partition, folder: OutputFolder, on_done: OnDone) -> Made:
        what = self.settings.what
        found = features(self._scorer, self.read(partition), what != "captions", what != "images", on_done)
        number, names = f"{partition.number:05}", list[str]()
        for kind, rows in (("img", found.images), ("text", found.texts)):
            if rows is not None:
                names.append(f"{kind}_emb/{kind}_emb_{number}.npy")
                with folder.new_file(names[-1]) as path, path.open("wb") as file:
                    np.save(file, rows.half().numpy())
        names.append(f"metadata/metadata_{number}.parquet")
        with folder.new_file(names[-1]) as path:
            write_parquet(path, metadata(found.items))
        return Made(names, len(found.items), found.bad)


def metadata(items: Sequence[Item]) -> dict[str, list[Any]]:
    """clip-retrieval's columns, `id`, and beside them the input's own as text, as partitions must agree on their types."""
    columns: dict[str, list[Any]] = {
        "image_path": [item.image_path or item.where for item in items],
        "caption": [item.text for item in items],
        "id": [item.id for item in items],
    }
    names = dict.fromkeys(name for item in items for name in item.columns if name not in columns)
    return columns | {name: [as_text(item.columns.get(name)) for item in items] for name in names}
