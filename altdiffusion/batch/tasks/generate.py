"""`altdiffusion batch generate`: OUT/images/00017.tar, webdataset's, with 000001234.png, .txt (the prompt), .json (all settings).

Item i has the seed S + i, or its own, so that the order and the number of workers change nothing.
"""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

from altdiffusion.batch.folder import OutputFolder
from altdiffusion.batch.items import ID_COLUMNS, Item
from altdiffusion.batch.partitions import Partition
from altdiffusion.batch.settings import GenerateBatch
from altdiffusion.batch.tasks.base import Made, OnDone, Task
from altdiffusion.errors import InputError, first_line
from altdiffusion.generation.generate import generate_all
from altdiffusion.generation.load import load_pipeline
from altdiffusion.generation.loras import loras_to_load
from altdiffusion.generation.prompts_file import read_row
from altdiffusion.generation.result import encoded
from altdiffusion.generation.settings import ImageSettings, settings_with
from altdiffusion.images import WRITTEN


class GenerateTask(Task):
    settings: GenerateBatch

    def __init__(self, settings: GenerateBatch, device: str | None) -> None:
        super().__init__(settings, device)
        said = settings.said
        loading = {name: said.pop(name) for name in settings_with("loading") if name in said}
        loras = loras_to_load(loading.pop("lora", None), loading.pop("lora_dir", None), [], settings.prompt_syntax)
        self._pipe = load_pipeline(said.pop("model", None), device=device, lora=loras, **loading)
        self._pipe.set_progress_bar_config(disable=True)
        said.pop("seed", None)  # each item's own
        self._defaults = said | {"model": self._pipe.name_or_path}
        self._others = [*ID_COLUMNS, *settings.keep]

    def run(self, partition: Partition, folder: OutputFolder, on_done: OnDone) -> Made:
        items, wanted, besides = list[Item](), list[ImageSettings](), list[dict[str, Any]]()
        bad: list[tuple[Item, str]] = []
        for item in self.read(partition):
            try:
                if item.defect and "prompt" not in item.columns:
                    raise InputError(item.defect)
                settings, others = self._of_row(item, partition)
            except InputError as error:
                bad.append((item, str(error)))
                on_done(1)
                continue
            items.append(item)
            wanted.append(settings)
            besides.append(others)
        images: dict[int, tuple[bytes, dict[str, Any]]] = {}
        failed: dict[int, Exception] = {}
        form = f".{self.settings.form}"
        for index, image in generate_all(wanted, pipe=self._pipe, batch_size=self.settings.batch_size, failed=failed):
            said = image.settings.model_dump(mode="json", exclude_none=True) | besides[index]
            said |= {"id": items[index].id} | ({"filtered": True} if image.filtered else {})
            images[index] = encoded(image, WRITTEN[form], self.settings.label), said
            on_done(1)
        bad += [(items[index], first_line(error)) for index, error in failed.items()]
        on_done(len(failed))
        name = f"images/{partition.number:05}.tar"
        with folder.new_file(name) as path, tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            for index in sorted(images):
                content, said = images[index]
                key = f"{(partition.first or 0) + items[index].index:09}"
                _add(tar, key + form, content)
                _add(tar, f"{key}.txt", wanted[index].prompt.encode())
                _add(tar, f"{key}.json", json.dumps(said, ensure_ascii=False, indent=2, default=str).encode())
        return Made([name], len(images), sorted(bad, key=lambda found: found[0].index))

    def _of_row(self, item: Item, partition: Partition) -> tuple[ImageSettings, dict[str, Any]]:
        settings, others = read_row(item.columns, self._defaults, self._others)
        if loading := [name for name in settings_with("loading") if getattr(settings, name) not in (None, False)]:
            raise InputError(f"{', '.join(loading)}: the same for all images, so a flag, not a column")
        if settings.seed is None:
            settings = settings.replace(seed=self.settings.seed + (partition.first or 0) + item.index)
        return settings, others


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """A member without date and owner: the same images are the same tar."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
