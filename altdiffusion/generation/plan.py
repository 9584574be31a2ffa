"""What a run over many prompts generates: each image's settings and file name, and the contact sheets, before any is there.

Light on purpose: no torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from altdiffusion.altclip.score_kinds import ScoreAs
from altdiffusion.generation.grid import Axis, variants
from altdiffusion.generation.manifest import SHEET, key_of
from altdiffusion.generation.result import free_path
from altdiffusion.generation.settings import ImageSettings


@dataclass(frozen=True)
class PlannedImage:
    """An image to generate.

    key: as in the manifest. settings: with best of several, those of the first. rank: among the best, from 0.
    suffix: what tells its file's name from those of its prompt's other variants.
    """

    key: str
    settings: ImageSettings
    rank: int
    suffix: str


@dataclass(frozen=True)
class PlannedSheet:
    """A contact sheet of one prompt's images, which are named by their keys, the last axis changing fastest."""

    key: str
    settings: ImageSettings
    axes: tuple[tuple[str, ...], ...]  # the labels of each
    images: tuple[str, ...]


class Plan:
    """The images and the sheets of a run, in order.

    num_images: of each variant of a prompt; image i has the seed of its prompt + i. best_of, scorer, score_as: as in
        `generate`.
    """

    def __init__(
        self,
        num_images: int = 1,
        best_of: int | None = None,
        scorer: str | None = None,
        score_as: ScoreAs = "cosine",
    ) -> None:
        self.images: list[PlannedImage] = []
        self.sheets: list[PlannedSheet] = []
        self._num_images, self._best_of, self._scorer = num_images, best_of, scorer
        self._score_as = None if score_as == "cosine" else score_as  # the keys of earlier runs have none
        self._asked = Counter[str]()

    def add(self, settings: ImageSettings, axes: Sequence[Axis] = ()) -> list[str]:
        """Plan the images of a prompt, which has its seed, and their sheet where it has variants.

        Returns the images' keys. Raises InputError.
        """
        found = variants(settings, axes)
        of_file = [""] if not axes else [_suffix(labels) for labels in product(*(axis.labels for axis in axes))]
        new = [
            image
            for number, variant in enumerate(found.settings)
            for image in self._images(variant, of_file[number % len(of_file)])
        ]
        keys = [image.key for image in new]
        if found.axes:
            labels = list(found.axes)
            if self._num_images > 1:
                word = "image" if self._best_of is None else "rank"
                labels.append(tuple(f"{word} {number}" for number in range(1, self._num_images + 1)))
            key = f"{SHEET}{key_of(settings, sheet=keys)}"
            of_sheet = settings.replace(seed=found.settings[0].seed)  # which an image has, where the seed is an axis
            self.sheets.append(PlannedSheet(key, of_sheet, tuple(labels), tuple(keys)))
        self.images += new
        return keys

    def names(self, folder: Path, earlier: Mapping[str, str], taken: Collection[str]) -> dict[str, str]:
        """The file name of every image and sheet by its key: the one it had earlier, else one that isn't taken yet."""
        names: dict[str, str] = {}
        used = {*taken, *earlier.values()}
        every = [(image.key, image.settings, image.suffix) for image in self.images]
        every += [(sheet.key, sheet.settings, "-sheet") for sheet in self.sheets]
        for key, settings, suffix in every:
            names[key] = earlier.get(key) or free_path(folder, settings, suffix, used).name
            used.add(names[key])
        return names

    def _images(self, variant: ImageSettings, suffix: str) -> list[PlannedImage]:
        seed, numbers = variant.seed or 0, range(self._num_images)
        if self._best_of is None:
            every = [(variant.replace(seed=seed + number), 0, suffix) for number in numbers]
        else:
            variant.replace(seed=seed + self._best_of - 1)  # the last one's, which must be in its range
            every = [(variant, number, f"{suffix}-best-{number + 1}") for number in numbers]
        run = {"best_of": self._best_of, "scorer": self._scorer, "score_as": self._score_as}
        return [
            PlannedImage(self._unique(key_of(settings, rank=rank or None, **run)), settings, rank, suffix)
            for settings, rank, suffix in every
        ]

    def _unique(self, key: str) -> str:
        """The key, numbered where the same was asked for before."""
        self._asked[key] += 1
        return key if self._asked[key] == 1 else f"{key}-{self._asked[key]}"


def _suffix(labels: Sequence[str]) -> str:
    """Of a file's name: -steps-10-guidance_scale-3, cut where it is long."""
    return "-" + re.sub(r"[^\w.+]+", "-", " ".join(labels)).encode()[:80].decode(errors="ignore").strip("-.")
