"""The manifest of a folder of images: what each was asked to be, so that an interrupted run goes on where it stopped.

`manifest.jsonl` is only ever appended to. A run begins with a line of its first seed and the names that it will give,
then has a line for each image that lies in the folder, written after the image:

    {"seed": 1, "planned": {"5f0c...": "一只猫-1.png", ...}}
    {"key": "5f0c...", "image": "一只猫-1.png", "filtered": false, "settings": {"prompt": "一只猫", "steps": 25, ...}}

Light on purpose: no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from altdiffusion import files
from altdiffusion.errors import InputError
from altdiffusion.generation.settings import ImageSettings

NAME = "manifest.jsonl"
SHEET = "sheet-"  # how the key of a contact sheet begins, which has no line of its own


def key_of(settings: ImageSettings, **run: Any) -> str:
    """What tells apart images that were asked for. run: what else of the run they depend on; None is as good as unsaid."""
    asked = settings.model_dump(mode="json", exclude_defaults=True)
    asked |= {f"run {name}": value for name, value in run.items() if value is not None}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


class Manifest:
    """What earlier runs have written into a folder. Raises InputError for a file that is no manifest.

    seed: the first one of the last run; None before any run. planned: key -> name, by the last run that planned the key.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.seed: int | None = None
        self.planned: dict[str, str] = {}
        self._lines: dict[str, dict[str, Any]] = {}  # by key
        self._whole = 0  # bytes of whole lines
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise InputError(f"{self.path} can't be read: {error.strerror}") from None
        for number, line in enumerate(content.splitlines(keepends=True), 1):
            if line.endswith(b"\n"):  # else a killed process left a part
                self._whole += len(line)
                self._read(number, line)

    @property
    def unfinished(self) -> bool:
        """Whether an image that was planned isn't there."""
        return any(self.done(key) is None for key in self.planned if not key.startswith(SHEET))

    def begin(self, seed: int, planned: Mapping[str, str]) -> None:
        """Append a run's first line. Raises InputError where it can't be written."""
        self.seed = seed
        self.planned |= planned
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                os.truncate(self.path, self._whole)
        except OSError as error:
            raise self._unwritable(error) from None
        self._append({"seed": seed, "planned": dict(planned)})

    def add(self, key: str, settings: ImageSettings, filtered: bool) -> None:
        """Append the line of an image that was saved under its planned name. Raises InputError where it can't be written."""
        values = settings.model_dump(mode="json", exclude_none=True)
        self._append({"key": key, "image": self.planned[key], "filtered": filtered, "settings": values})

    def done(self, key: str) -> tuple[ImageSettings, bool] | None:
        """The settings of an image that is there under its planned name, and whether it was filtered; else None."""
        line = self._lines.get(key)
        if line is None or line["image"] != self.planned.get(key) or not (self.path.parent / line["image"]).is_file():
            return None
        return ImageSettings.model_construct(**line["settings"]), bool(line["filtered"])

    def _append(self, line: dict[str, Any]) -> None:
        try:
            files.append_line(self.path, json.dumps(line, ensure_ascii=False))
        except OSError as error:
            raise self._unwritable(error) from None
        self._keep(line)

    def _read(self, number: int, line: bytes) -> None:
        try:
            self._keep(json.loads(line))
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
            raise InputError(
                f"{self.path}:{number} is no line of a manifest: move the file away, or give another --out"
            ) from None

    def _keep(self, line: dict[str, Any]) -> None:
        if "planned" in line:
            self.seed = int(line["seed"])
            self.planned |= {str(key): files.plain_name(name) for key, name in line["planned"].items()}
        else:
            kept = {name: line[name] for name in ("image", "filtered", "settings")}
            if not kept["settings"].keys() <= ImageSettings.model_fields.keys():
                raise ValueError(kept["settings"])
            self._lines[line["key"]] = kept

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"{self.path} can't be written ({error.strerror}): pick another --out or make room")
