"""`altdiffusion batch score`: OUT/scores/00017.parquet has a row an item: its number, its id, and its scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from altdiffusion.altclip.calibrated_scores import check_kind, convert, pair_languages, prompt_languages
from altdiffusion.batch.folder import OutputFolder
from altdiffusion.batch.items import Item
from altdiffusion.batch.partitions import Partition
from altdiffusion.batch.settings import ScoreBatch
from altdiffusion.batch.tasks.base import Made, OnDone, Task, write_parquet
from altdiffusion.batch.tasks.features import Features, features, load_scorer

DECIMALS = 6  # of a score: what follows depends on the machine


class ScoreTask(Task):
    """The columns: of each kind one a prompt, cosine_0, cosine_1; of a single prompt, or of captions, cosine."""

    settings: ScoreBatch

    def __init__(self, settings: ScoreBatch, device: str | None) -> None:
        super().__init__(settings, device)
        self._scorer = load_scorer(settings, device, settings.calibration)
        for kind in settings.score_as:
            check_kind(self._scorer.calibration, kind, settings.language if kind != "cosine" else None)
        self._warned: set[str] = set()
        if settings.prompt:
            self._prompts = self._scorer.text_features(settings.prompt)
            self._languages = {
                kind: prompt_languages(
                    self._scorer.calibration, settings.prompt, kind, None if kind == "cosine" else settings.language
                )
                for kind in settings.score_as
            }

    def run(self, partition: Partition, folder: OutputFolder, on_done: OnDone) -> Made:
        has_prompts = bool(self.settings.prompt)
        found = features(self._scorer, self.read(partition), True, not has_prompts, on_done)
        bad = list(found.bad)
        if has_prompts:
            scores = self._of_prompts(found)
            items = found.items
        else:
            items, scores = self._of_captions(found, bad)
        name = f"scores/{partition.number:05}.parquet"
        columns: dict[str, Any] = {
            "index": np.array([item.index for item in items], np.int64),
            "id": [item.id for item in items],
            **scores,
        }
        with folder.new_file(name) as path:
            write_parquet(path, columns, {"prompts": json.dumps(self.settings.prompt)} if has_prompts else None)
        return Made([name], len(items), bad)

    def _of_prompts(self, found: Features) -> dict[str, Any]:
        assert found.images is not None
        cosines = (found.images @ self._prompts.T).clamp(-1, 1)
        columns: dict[str, Any] = {}
        for kind in self.settings.score_as:
            table = convert(self._scorer.calibration, cosines, self._languages[kind], kind)
            for number, column in enumerate(table.T):
                columns[kind if len(self.settings.prompt) == 1 else f"{kind}_{number}"] = _rounded(column)
        return columns

    def _of_captions(self, found: Features, bad: list[tuple[Item, str]]) -> tuple[list[Item], dict[str, Any]]:
        assert found.images is not None
        assert found.texts is not None
        cosines, items = (found.images * found.texts).sum(1).clamp(-1, 1), found.items
        calibration, kinds = self._scorer.calibration, self.settings.score_as
        converted = [kind for kind in kinds if kind != "cosine"]
        languages: Sequence[str | None] = []
        if converted:  # a caption without calibrated language is bad, as in `score --pairs`
            defects: dict[int, str] = {}
            texts = [item.text or "" for item in items]
            given = [self.settings.language] * len(items)
            languages = pair_languages(calibration, texts, converted[0], given, defects, self._warned)
            bad += [(items[index], reason) for index, reason in sorted(defects.items())]
            good = [index for index in range(len(items)) if index not in defects]
            cosines, items = cosines[good], [items[index] for index in good]
            languages = [languages[index] for index in good]
        columns: dict[str, Any] = {"language": list(languages)} if converted else {}
        for kind in kinds:
            columns[kind] = _rounded(convert(calibration, cosines[None], languages, kind)[0])
        return items, columns


def _rounded(column: torch.Tensor) -> Any:
    return torch.round(column.double(), decimals=DECIMALS).float().numpy()
