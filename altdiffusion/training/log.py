"""What a training tells while it runs: output_dir/log.jsonl, the progress on standard error, accelerate's trackers.

log.jsonl is written by hand, as resuming needs to cut it back to the step of the checkpoint.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker, get_available_trackers
from tqdm.auto import tqdm

from altdiffusion.errors import InputError, TrainingStopped, first_line
from altdiffusion.files import write_text
from altdiffusion.training.settings import TrainingSettings


class Log:
    """output_dir/log.jsonl, the progress and the trackers. Only the main process writes.

    first: the steps that were taken before, of a training that is resumed.
    """

    def __init__(self, settings: TrainingSettings, first: int, accelerator: Accelerator) -> None:
        self._settings, self._accelerator = settings, accelerator
        self._path = settings.output_dir / "log.jsonl"
        self._time, self._logged = time.monotonic(), first  # when, and of which step, the last line was written
        if not accelerator.is_main_process:
            return
        with self._writing():
            write_text(settings.output_dir / "settings.json", settings.save_as_json())
            write_text(self._path, "".join(_lines_until(first, self._path)))
        self._bar = progress("training", settings.max_train_steps, "step", initial=first)
        accelerator.log_with = [
            # named here, as accelerate would name its folder after the project
            TensorBoardTracker("tensorboard", settings.output_dir, purge_step=first) if name == "tensorboard" else name
            for name in _trackers(settings)
        ]
        accelerator.init_trackers("altdiffusion")

    def step(self, step: int, metrics: dict[str, float], learning_rate: float) -> None:
        """Called after every step; every `logging_steps` and the last make a line."""
        if not self._accelerator.is_main_process:
            return
        self._bar.update()
        if step % self._settings.logging_steps and step != self._settings.max_train_steps:
            return
        now = time.monotonic()
        rate = (step - self._logged) * self._settings.batch_size / max(now - self._time, 1e-9)
        self._time, self._logged = now, step
        line = {**metrics, "learning_rate": learning_rate, "samples_per_second": round(rate, 2)}
        line = {name: value for name, value in line.items() if math.isfinite(value)}  # JSON knows no infinity
        told = f"loss {metrics['loss']:.4g}, {rate:.3g} samples/s"
        self._bar.set_postfix_str(told, refresh=False)
        if self._bar.disable:
            print(f"step {step} of {self._settings.max_train_steps}: {told}", file=sys.stderr, flush=True)
        self._write(step, line, line)

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        """A line of a validation's metrics."""
        if metrics:
            told = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            self._bar.write(f"step {step}: {told}", sys.stderr)
        self._write(step, {"validation": metrics}, {f"validation/{name}": value for name, value in metrics.items()})

    def close(self) -> None:
        if self._accelerator.is_main_process:
            self._bar.close()
            for tracker in self._accelerator.trackers:
                tracker.finish()

    def _write(self, step: int, line: dict[str, Any], metrics: dict[str, float]) -> None:
        """A line of the log, and what the trackers get of it."""
        with self._writing():
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **line}, ensure_ascii=False) + "\n")
            if metrics:
                self._accelerator.log(metrics, step=step)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingStopped(
                f"the log {self._path} can't be written ({first_line(error)}): make room and go on with --resume"
            ) from error


def progress(title: str, total: int, unit: str, initial: int = 0) -> tqdm[Any]:
    """A bar on standard error; where that is no terminal there is none, and one line says what begins."""
    watched = sys.stderr.isatty()
    if not watched:
        print(f"{title}: {total} {unit}s", file=sys.stderr, flush=True)
    return tqdm(total=total, initial=initial, desc=title, unit=unit, dynamic_ncols=True, disable=not watched)


def check_trackers(settings: TrainingSettings) -> None:
    """Raise InputError for a tracker whose library is not installed."""
    available = [str(name.value) for name in get_available_trackers()]
    for name in _trackers(settings):
        if name not in available:
            package = '"altdiffusion[train]"' if name == "tensorboard" else name.replace("_", "-")
            raise InputError(f"--trackers {name} needs: pip install {package}")


def _trackers(settings: TrainingSettings) -> list[str]:
    return list(dict.fromkeys([*settings.trackers, *(["tensorboard"] if settings.tensorboard else [])]))


def _lines_until(step: int, log: Path) -> list[str]:
    """What was logged after a checkpoint is about to be logged again; a kill may have cut the last line."""
    if not step or not log.exists():
        return []
    lines = log.read_bytes().decode(errors="replace").splitlines()
    return [f"{line}\n" for line in lines if _step_of(line) <= step]


def _step_of(line: str) -> float:
    """The step of a line of the log; a line that a kill cut short counts as later than any."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf
