"""Features of records that are computed once and kept on disk: teacher targets, image features, latents, text states.

Written by hand: `datasets.map` caches too, but processes don't share its work, and it takes a cache of another model.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import safetensors
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn

from altdiffusion.checkpoints.tensor_files import read_json
from altdiffusion.data.open_tables import describe_data
from altdiffusion.data.table import Table
from altdiffusion.errors import InputError, TrainingStopped, first_line
from altdiffusion.files import write_text
from altdiffusion.training.inputs.sampling import Records
from altdiffusion.training.log import progress


class FeatureCache:
    """A folder of safetensors shards that hold one (rows, width) tensor for each record, read by memory mapping.

    compute: given indices of records, their tensors, each (rows, width); rows may differ. It runs once, for what is not there.
    about: what the features depend on (models, data, settings). A folder made with anything else is refused (InputError).
    An interrupted run goes on with the shards that are missing; several processes share the work.
    """

    SHARD = 2048  # records

    def __init__(
        self,
        folder: Path,
        count: int,
        compute: Callable[[Sequence[int]], list[Tensor]],
        about: dict[str, Any],
        accelerator: Accelerator,
        batch: int = 64,
    ) -> None:
        self._folder, self._count = folder, count
        about = {**about, "records": count}
        if accelerator.is_main_process:
            self._claim(about)
        accelerator.wait_for_everyone()
        shards = [range(start, min(start + self.SHARD, count)) for start in range(0, count, self.SHARD)]
        missing = [shard for shard in shards if not self._path(shard.start).exists()]
        accelerator.wait_for_everyone()  # all share the same list: none is written before all have seen it
        mine = missing[accelerator.process_index :: accelerator.num_processes]
        if mine:
            with progress(f"computing {folder.name}", sum(map(len, mine)), "record") as bar:
                for shard in mine:
                    self._write(shard, compute, batch, bar)
        accelerator.wait_for_everyone()
        self._open(shards)

    def __getitem__(self, record: int) -> Tensor:
        """(rows, width) of one record, float16."""
        shard = bisect_right(self._starts, record) - 1
        place = record - self._starts[shard]
        ends = self._ends[shard]
        first = ends[place - 1] if place else 0
        with self._lock:
            return self._features[shard][first : ends[place]]

    def _claim(self, about: dict[str, Any]) -> None:
        mark = self._folder / "about.json"
        if mark.exists():
            former = {_CHECKSUMS: about.get(_CHECKSUMS), **read_json(mark)}  # those of before version 0.4 have none
            was, now = _comparable(former), _comparable(about)
            if changed := sorted(key for key in about if was.get(key) != now[key]):
                raise InputError(
                    f"the cache {self._folder} was made with {changed[0]} = {former.get(changed[0])}, this training has "
                    f"{about[changed[0]]}: give another folder or remove it"
                )
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if any(self._folder.iterdir()):
                raise InputError(f"{self._folder} is not empty and no cache: give a new folder")
            write_text(mark, json.dumps(about, indent=2, ensure_ascii=False))
        except OSError as error:
            raise InputError(f"the cache {self._folder} can't be written: {error.strerror}") from None

    def _write(self, shard: range, compute: Callable[[Sequence[int]], list[Tensor]], batch: int, bar: Any) -> None:
        features: list[Tensor] = []
        for start in range(shard.start, shard.stop, batch):
            records = range(start, min(start + batch, shard.stop))
            features += [rows.to("cpu", torch.float16) for rows in compute(records)]
            bar.update(len(records))
        tensors = {"features": torch.cat(features), "lengths": torch.tensor(list(map(len, features)))}
        aside = self._path(shard.start).with_suffix(f".{os.getpid()}.tmp")
        try:
            save_file(tensors, aside)
            os.replace(aside, self._path(shard.start))
        except (OSError, safetensors.SafetensorError) as error:
            aside.unlink(missing_ok=True)
            raise TrainingStopped(
                f"the cache {self._folder} can't be written ({first_line(error)}): make room and start again, it goes on"
            ) from error

    def _open(self, shards: list[range]) -> None:
        self._starts = [shard.start for shard in shards]
        self._features, self._ends = [], []
        self._lock = threading.Lock()
        for shard in shards:
            try:
                file: Any = safetensors.safe_open(self._path(shard.start), "pt")
                lengths = file.get_tensor("lengths").tolist()
            except (OSError, safetensors.SafetensorError) as error:
                raise InputError(f"{self._path(shard.start)} is damaged ({first_line(error)}): remove it") from None
            self._features.append(file.get_slice("features"))
            self._ends.append(list(accumulate(lengths)))

    def _path(self, start: int) -> Path:
        return self._folder / f"records-{start:09d}.safetensors"


class TextCache:
    """The same for every text of some records, language by language, and for the empty text, which comes last.

    compute: given texts, their features, each (rows, width).
    """

    def __init__(
        self,
        folder: Path,
        records: Records,
        languages: Iterable[str],
        compute: Callable[[list[str]], list[Tensor]],
        about: dict[str, Any],
        accelerator: Accelerator,
        batch: int = 64,
    ) -> None:
        self._languages, self._size = list(languages), len(records)
        self._empty = self._size * len(self._languages)

        def text(place: int) -> str:
            language, record = divmod(place, self._size)
            # a record of a table without this language has none: that place is never asked for
            return "" if place == self._empty else str(records[record].get(self._languages[language], ""))

        def compute_places(places: Sequence[int]) -> list[Tensor]:
            return compute(list(map(text, places)))

        about = {**about, **about_data(records.parts)}
        self._cache = FeatureCache(folder, self._empty + 1, compute_places, about, accelerator, batch)

    def __getitem__(self, text: tuple[int, str] | None) -> Tensor:
        """float32 (rows, width) for (record, language), or for the empty text: None."""
        if text is None:
            return self._cache[self._empty].float()
        record, language = text
        return self._cache[self._languages.index(language) * self._size + record].float()


def about_data(tables: Sequence[Table]) -> dict[str, Any]:
    """What features depend on of their data: its contents, neither where it lies nor what it is called."""
    return {"data": describe_tables(tables), _CHECKSUMS: describe_data([table.path for table in tables])}


def _comparable(about: dict[str, Any]) -> dict[str, Any]:
    """Without the names of the tables."""
    return {**about, "data": [size for _, *size in about.get("data", ())]}


_CHECKSUMS = "data checksums"


def describe_tables(tables: Sequence[Table]) -> list[list[str | int]]:
    """Of the data, in words that an error shows: each table's name, its records, the bytes of its files."""
    described: list[list[str | int]] = []
    for table in tables:
        files = sorted(table.path.rglob("*")) if table.path.is_dir() else [table.path]
        described.append([table.path.name, len(table), sum(file.stat().st_size for file in files if file.is_file())])
    return described


def checksum(*modules: nn.Module) -> int:
    """Of all weights: what features depend on."""
    crc = 0
    for module in modules:
        for tensor in module.state_dict().values():
            crc = zlib.crc32(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy(), crc)
    return crc
