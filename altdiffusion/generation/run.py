"""A planned run: its images are generated, saved and noted in the manifest, those that are there already left out.

Killed at any moment and begun again, it ends with the files of a run that wasn't: an image is written whole, then its line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from altdiffusion.files import remove_partial
from altdiffusion.generation.contact_sheet import contact_sheet
from altdiffusion.generation.generate import generate_all
from altdiffusion.generation.label import DEFAULT, Label
from altdiffusion.generation.manifest import Manifest
from altdiffusion.generation.plan import Plan, PlannedImage
from altdiffusion.generation.result import GeneratedImage, save_image, save_png
from altdiffusion.generation.settings import ImageSettings
from altdiffusion.images import open_image


@dataclass(frozen=True)
class SavedImage:
    """An image of a run: where it lies, what it was generated from, whether the safety checker blackened it."""

    path: Path
    settings: ImageSettings
    filtered: bool


class Run:
    """A plan in a folder.

    resume: whether names and images of earlier runs in the folder are kept, else all images are new.
    label: of the images and sheets. remaining: the images that are still to be generated.
    """

    def __init__(
        self, plan: Plan, folder: Path, manifest: Manifest, seed: int, resume: bool, label: Label = DEFAULT
    ) -> None:
        self._label = label
        self.plan, self._folder, self._manifest = plan, folder, manifest
        self._names = plan.names(folder, manifest.planned if resume else {}, manifest.planned.values())
        manifest.begin(seed, self._names)
        done = {image.key for image in plan.images if manifest.done(image.key)} if resume else set()
        self.remaining = [image for image in plan.images if image.key not in done]
        remove_partial(folder, self._names.values())
        self.failed: dict[str, Exception] = {}  # by an image's key

    def images(self, num_images: int, best_of: int | None, **options: Any) -> Iterator[SavedImage]:
        """Generate and save what remains; each is yielded as soon as it is there. options: as in `generate_all`.

        What can't be generated is left out, and noted in `failed`.
        """
        per_request = 1 if best_of is None else num_images
        unfinished = {image.key for image in self.remaining}
        groups = [self.plan.images[at : at + per_request] for at in range(0, len(self.plan.images), per_request)]
        groups = [group for group in groups if unfinished & {image.key for image in group}]
        failed: dict[int, Exception] = {}
        results = generate_all(
            [group[0].settings for group in groups],
            num_images=per_request,
            best_of=best_of,
            failed=failed,
            **options,
        )
        counts = [0] * len(groups)
        for index, generated in results:
            image = groups[index][counts[index]]
            counts[index] += 1
            if image.key in unfinished:  # of the best of several, the others may be there
                yield self._save(image, generated)
        self.failed |= {image.key: error for index, error in failed.items() for image in groups[index]}

    def finished(self) -> Iterator[SavedImage]:
        """Every image of the plan that is there, in order."""
        for image in self.plan.images:
            if (found := self._manifest.done(image.key)) is not None:
                yield SavedImage(self._folder / self._names[image.key], *found)

    def draw_sheets(self) -> Iterator[Path]:
        """Draw the contact sheets; a place stays empty where an image couldn't be generated."""
        for sheet in self.plan.sheets:
            path = self._folder / self._names[sheet.key]
            images = [
                open_image(self._folder / self._names[key]) if self._manifest.done(key) else None
                for key in sheet.images
            ]
            save_png(contact_sheet(sheet.settings.prompt, sheet.axes, images), path, self._label.xmp(sheet.settings))
            yield path

    def _save(self, image: PlannedImage, generated: GeneratedImage) -> SavedImage:
        path = self._folder / self._names[image.key]
        save_image(generated, path, self._label)
        self._manifest.add(image.key, generated.settings, generated.filtered)
        return SavedImage(path, generated.settings, generated.filtered)
