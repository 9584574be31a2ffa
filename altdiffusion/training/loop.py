"""The loop under every stage: accelerate, AdamW, a schedule, a moving average, the log, checkpoints and resuming."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm.auto import tqdm

from altdiffusion.errors import InputError, TrainingStopped
from altdiffusion.files import new_folder, write_text
from altdiffusion.training.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from altdiffusion.training.settings import Settings

Batch = dict[str, Any]

# Settings that may change when a training is resumed: the numbers it computes do not depend on them.
_NEUTRAL = {
    *("output_dir", "resume", "checkpointing_steps", "checkpoints_total_limit", "validation_steps", "logging_steps"),
    *("tensorboard", "data_workers", "max_skipped", "gradient_checkpointing", "device"),
}


class Batches(Protocol):
    """`batches(step, piece, pieces)`: that piece of the step's batch, cut into equal ones. A pure function."""

    def __call__(self, step: int, piece: int, pieces: int) -> Batch: ...


def start(settings: Settings) -> Accelerator:
    """The accelerator of a training, and its output folder. Raises InputError where the folder holds another run."""
    accelerator = Accelerator(mixed_precision=settings.mixed_precision, cpu=settings.device == "cpu")
    pieces = accelerator.num_processes * settings.gradient_accumulation_steps
    if settings.batch_size % pieces:
        raise InputError(
            f"--batch-size {settings.batch_size} can't be shared by {accelerator.num_processes} processes of "
            f"{settings.gradient_accumulation_steps} pieces each: expected a multiple of {pieces}"
        )
    folder = settings.output_dir
    if not settings.resume and (has_checkpoint(folder / "checkpoints") or (folder / "model").exists()):
        raise InputError(f"{folder} holds a training already: go on with --resume, or give another --output-dir")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / "settings.json", settings.save_as_json())
        except OSError as error:
            raise InputError(f"--output-dir {folder} can't be written: {error.strerror}") from None
    return accelerator


def frozen_dtype(settings: Settings) -> torch.dtype:
    """Of the models beside the trained one."""
    return {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[settings.mixed_precision]


def fit(
    model: nn.Module,
    batches: Batches,
    settings: Settings,
    accelerator: Accelerator,
    *,
    records: int,
    validate: Callable[[int], dict[str, float]] | None = None,
) -> None:
    """Train the parameters of `model` that require gradients; it ends with their moving average if there is one.

    model: its forward takes a batch and gives {"loss": the mean over the batch, ...}; all of it is logged.
    batches: see `Batches`; records: how many there are, which a resumed training must find again.
    validate: called with the step on the main process, in eval mode and with the averaged weights; its figures are logged.
    Raises TrainingStopped for a loss that is not a number and for a full disk, InputError for a resume that doesn't fit.
    """
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    schedule = get_scheduler(
        settings.lr_scheduler,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=settings.max_train_steps,
    )
    model.to(accelerator.device)
    average = EMAModel(parameters, decay=settings.ema_decay) if settings.ema_decay else None
    state = _State(model, optimizer, schedule, average, accelerator)
    folder = settings.output_dir / "checkpoints"
    about = {"records": records, "settings": json.loads(settings.save_as_json())}
    first = 0
    if settings.resume and (found := load_checkpoint(folder)):
        _check_same(about, found[1])
        state.load(found[0])
        first = int(found[1]["step"])
    wrapped, prepared = accelerator.prepare(model, optimizer)
    log = _Log(settings, first, accelerator.is_main_process)
    pieces = settings.gradient_accumulation_steps * accelerator.num_processes

    model.train()
    loader = _ahead(batches, range(first, settings.max_train_steps), settings, accelerator)
    for step in range(first, settings.max_train_steps):
        torch.manual_seed(_mixed(settings.seed, step, accelerator.process_index))  # dropout, if a model has any
        totals: dict[str, Tensor] = {}
        for number in range(settings.gradient_accumulation_steps):
            last = number + 1 == settings.gradient_accumulation_steps
            # gradients cross between processes once a step, with the last piece
            crossing: AbstractContextManager[Any] = nullcontext() if last else accelerator.no_sync(wrapped)
            with crossing:
                losses = wrapped(_to_device(next(loader), accelerator.device))
                accelerator.backward(losses["loss"] / settings.gradient_accumulation_steps)
            for name, value in losses.items():
                totals[name] = totals.get(name, 0) + value.detach().float() / pieces
        figures = _mean(totals, accelerator)
        if not math.isfinite(figures["loss"]):
            raise TrainingStopped(
                f"the loss became {figures['loss']} at step {step + 1}: lower --learning-rate or --max-grad-norm, or use "
                f"bf16 for fp16; the checkpoints in {folder} are from before"
            )
        accelerator.clip_grad_norm_(parameters, settings.max_grad_norm)
        prepared.step()
        schedule.step()
        prepared.zero_grad()
        if average is not None:
            average.step(parameters)
        log.step(step + 1, figures, schedule.get_last_lr()[0])

        finished = step + 1 == settings.max_train_steps
        if (
            validate is not None
            and accelerator.is_main_process
            and ((step + 1) % settings.validation_steps == 0 or finished)
        ):
            with _averaged(model, parameters, average):
                log.write({"step": step + 1, "validation": validate(step + 1)})
        if (step + 1) % settings.checkpointing_steps == 0 or finished:
            if accelerator.is_main_process:
                save_checkpoint(folder, step + 1, state.save(), about, settings.checkpoints_total_limit)
            accelerator.wait_for_everyone()
    log.close()
    if average is not None:
        average.copy_to(parameters)
    model.eval()


@contextmanager
def export(settings: Settings, accelerator: Accelerator) -> Iterator[Path | None]:
    """The folder to save the trained model into, on the main process; it becomes output_dir/model when it is whole."""
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        yield None
    else:
        final = settings.output_dir / "model"
        if final.exists():  # a resumed training that had ended
            shutil.rmtree(final)
        with new_folder(final) as folder:
            yield folder
    accelerator.wait_for_everyone()


class _State:
    """What a checkpoint holds of the objects that a training changes."""

    def __init__(
        self, model: nn.Module, optimizer: Any, schedule: Any, average: EMAModel | None, accelerator: Accelerator
    ) -> None:
        self._trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self._optimizer, self._schedule, self._average, self._accelerator = optimizer, schedule, average, accelerator

    def save(self) -> dict[str, Any]:
        scaler = self._accelerator.scaler
        return {
            "model": {name: each.detach() for name, each in self._trained.items()},
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "average": self._average.state_dict() if self._average else None,
            "scaler": scaler.state_dict() if scaler else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        if set(state["model"]) != set(self._trained):
            odd = sorted(set(state["model"]) ^ set(self._trained))[0]
            raise InputError(
                f"the checkpoint is of another model ({odd!r} is in one of them only): start a new --output-dir"
            )
        with torch.no_grad():
            for name, value in state["model"].items():
                self._trained[name].copy_(value)
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        if self._average:
            self._average.load_state_dict(state["average"])
            self._average.to(self._accelerator.device)
        if self._accelerator.scaler:
            self._accelerator.scaler.load_state_dict(state["scaler"])


class _Log:
    """output_dir/log.jsonl, the progress bar and, if asked for, TensorBoard."""

    def __init__(self, settings: Settings, first: int, shown: bool) -> None:
        self._settings, self._shown = settings, shown
        self._path = settings.output_dir / "log.jsonl"
        self._since, self._last = time.monotonic(), first
        self._board = None
        if not shown:
            return
        # what was logged after the checkpoint is about to be logged again
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() and first else []
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
        self._bar.set_postfix(loss=f"{figures['loss']:.4g}", samples_per_s=f"{rate:.3g}", refresh=False)
        self.write(line)

    def write(self, line: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        figures = line.get("validation")
        if figures:
            self._bar.write(
                f"step {line['step']}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()), sys.stderr
            )
        if self._board is not None:
            for name, value in (figures or line).items():
                if name != "step":
                    self._board.add_scalar(f"validation/{name}" if figures else name, value, line["step"])

    def close(self) -> None:
        if self._shown:
            self._bar.close()
            if self._board is not None:
                self._board.close()


def _ahead(batches: Batches, steps: range, settings: Settings, accelerator: Accelerator) -> Iterator[Batch]:
    """This process's pieces in order, prepared by threads while the model computes."""
    count, process = settings.gradient_accumulation_steps, accelerator.process_index
    pieces = count * accelerator.num_processes
    # piece by piece over the processes, so that one process with the same pieces computes the same losses
    wanted = ((step, number * accelerator.num_processes + process) for step in steps for number in range(count))
    with ThreadPoolExecutor(settings.data_workers) as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for step, piece in wanted:
                waiting.append(pool.submit(batches, step, piece, pieces))
                if len(waiting) > 2 * settings.data_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _averaged(model: nn.Module, parameters: list[nn.Parameter], average: EMAModel | None) -> Iterator[None]:
    """The model in eval mode, with its averaged weights, all random states untouched."""
    if average is not None:
        average.store(parameters)
        average.copy_to(parameters)
    model.eval()
    with torch.no_grad(), torch.random.fork_rng():
        yield
    model.train()
    if average is not None:
        average.restore(parameters)


def _check_same(about: dict[str, Any], found: dict[str, Any]) -> None:
    now, then = about["settings"] | {"records": about["records"]}, found["settings"] | {"records": found["records"]}
    changed = [
        f"{name} was {then.get(name)}, is {now.get(name)}"
        for name in now
        if name not in _NEUTRAL and now[name] != then.get(name)
    ]
    if changed:
        raise InputError(f"--resume needs the settings and data it began with: {'; '.join(changed)}")


def _mean(totals: dict[str, Tensor], accelerator: Accelerator) -> dict[str, float]:
    """Each figure's mean over the processes' pieces, in one transfer."""
    values = accelerator.reduce(torch.stack(list(totals.values())), "sum")
    return dict(zip(totals, values.tolist(), strict=True))


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _mixed(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _step_of(line: str) -> float:
    """The step of a line of the log; a line that a kill cut short counts as later than any."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf
