"""What a training tells while it runs: output_dir/log.jsonl, the progress bar and, if asked for, TensorBoard."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from altdiffusion.errors import InputError, TrainingStopped, first_line
from altdiffusion.files import write_text
from altdiffusion.training.settings import TrainingSettings


class Log:
    """output_dir/log.jsonl, the progress bar and, if asked for, TensorBoard."""

    def __init__(self, settings: TrainingSettings, first: int, shown: bool) -> None:
        self._settings, self._shown = settings, shown
        self._path = settings.output_dir / "log.jsonl"
        self._since, self._last = time.monotonic(), first
        self._board = None
        if not shown:
            return
        with self._writing():
            write_text(settings.output_dir / "settings.json", settings.save_as_json())
            # what was logged after the checkpoint is about to be logged again; a kill may have cut the last line
            lines = (
                self._path.read_bytes().decode(errors="replace").splitlines() if self._path.exists() and first else []
            )
            write_text(self._path, "".join(line + "\n" for line in lines if _step_of(line) <= first))
        self._bar = tqdm(total=settings.max_train_steps, initial=first, unit="step", dynamic_ncols=True,
                         mininterval=0.5 if sys.stderr.isatty() else 30)  # fmt: skip
        if settings.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise InputError('--tensorboard needs: pip install "altdiffusion[train]"') from None
            self._board = SummaryWriter(str(settings.output_dir / "tensorboard"), purge_step=first)

    def step(self, step: int, figures: dict[str, float], learning_rate: float) -> None:
        if not self._shown:
            return
        self._bar.update()
        if step % self._settings.logging_steps and step != self._settings.max_train_steps:
            return
        now = time.monotonic()
        rate = (step - self._last) * self._settings.batch_size / max(now - self._since, 1e-9)
        self._since, self._last = now, step
        line = {"step": step, **figures, "learning_rate": learning_rate, "samples_per_second": round(rate, 2)}
        line = {name: value for name, value in line.items() if math.isfinite(value)}  # JSON knows no infinity
        self._bar.set_postfix(loss=f"{figures['loss']:.4g}", samples_per_s=f"{rate:.3g}", refresh=False)
        self.write(line)

    def write(self, line: dict[str, Any]) -> None:
        figures = line.get("validation")
        if figures:
            self._bar.write(
                f"step {line['step']}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()), sys.stderr
            )
        with self._writing():
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            for name, value in (line if figures is None else figures).items():
                if self._board is not None and name != "step":
                    self._board.add_scalar(f"validation/{name}" if figures else name, value, line["step"])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingStopped(
                f"the log {self._path} can't be written ({first_line(error)}): make room and go on with --resume"
            ) from error

    def close(self) -> None:
        if self._shown:
            self._bar.close()
            if self._board is not None:
                self._board.close()


def _step_of(line: str) -> float:
    """The step of a line of the log; a line that a kill cut short counts as later than any."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf
