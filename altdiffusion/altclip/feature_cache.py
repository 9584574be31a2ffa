"""Features that were computed are kept: the last used, by what they were computed of."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from torch import Tensor


def file_key(path: str | Path) -> Hashable:
    """What identifies a file's content; None where it can't be looked at, which `as_image` then explains."""
    try:
        file = Path(path).expanduser()
        stat = file.stat()
    except (OSError, RuntimeError, ValueError):
        return None
    return os.path.abspath(file), stat.st_size, stat.st_mtime_ns


class FeatureCache:
    """The features last used, at most `limit`, by key. Safe to use from several threads. Copies start empty."""

    def __init__(self, limit: int) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self._rows: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable) -> Tensor | None:
        with self._lock:
            if key in self._rows:
                self._rows.move_to_end(key)
            return self._rows.get(key)

    def put(self, key: Hashable, row: Tensor) -> None:
        with self._lock:
            self._rows[key] = row.clone()  # a row of a batch would keep the whole batch
            self._rows.move_to_end(key)
            while len(self._rows) > self._limit:
                self._rows.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._rows.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._limit,)
