"""The loop under every stage: accelerate, AdamW, a schedule, a moving average, the log, checkpoints and resuming.

Written by hand: the libraries' loops keep random states and a place in the data, which get out of step when the process is
killed. Here all that is random comes from (seed, step, process), so a training resumes from its step and its weights bit
for bit.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from altdiffusion.data.open_tables import check_there, describe_data
from altdiffusion.errors import InputError, TrainingStopped, first_line
from altdiffusion.files import new_folder
from altdiffusion.prefetch import prefetch
from altdiffusion.training.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from altdiffusion.training.log import Log, check_trackers
from altdiffusion.training.processes import check_same_step, check_shared, told_of_lost_processes
from altdiffusion.training.settings import TrainingSettings
from altdiffusion.training.sharding import copy_to_shard, divided, gather_into, set_up_fsdp, undivided, whole

Batch = dict[str, Any]


class Batches(Protocol):
    """`batches(step, index, count)`: micro-batch `index` of the step's batch, cut into `count` equal ones. A pure function."""

    def __call__(self, step: int, index: int, count: int, /) -> Batch: ...


def start(settings: TrainingSettings) -> Accelerator:
    """The accelerator of a training, and its output folder.

    Raises InputError where the folder holds another run, and for data that isn't there, before any model is loaded.
    """
    for name in ("train_data", "validation_data"):
        check_there(getattr(settings, name, []), download=True)
    check_trackers(settings)
    # accelerate keeps one state for the whole process, and a training before this one may have had other settings
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        # without cpu=True, processes on a CPU don't join a group: each would train alone
        cpu = settings.device == "cpu" or not torch.accelerator.is_available()
        accelerator = Accelerator(mixed_precision=settings.mixed_precision, cpu=cpu, project_dir=settings.output_dir)
    except ValueError as error:
        raise InputError(
            f"--mixed-precision {settings.mixed_precision} can't be had here ({first_line(error)}): take bf16 or no"
        ) from None
    set_up_fsdp(accelerator)
    micro_batches = accelerator.num_processes * settings.gradient_accumulation_steps
    if settings.batch_size % micro_batches:
        raise InputError(
            f"--batch-size {settings.batch_size} can't be shared by {accelerator.num_processes} processes with "
            f"{settings.gradient_accumulation_steps} micro-batches each: expected a multiple of {micro_batches}"
        )
    folder = settings.output_dir
    if not settings.resume and (has_checkpoint(folder / "checkpoints") or (folder / "model").exists()):
        raise InputError(
            f"{folder} holds a training already: the same command with --resume goes on, another --output-dir begins anew"
        )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except FileExistsError:
            raise InputError(f"--output-dir {folder} is a file: expected a folder") from None
        except OSError as error:
            raise InputError(f"--output-dir {folder} can't be written: {error.strerror}") from None
    check_shared(folder, accelerator)
    return accelerator


def frozen_dtype(settings: TrainingSettings) -> torch.dtype:
    """The dtype of the frozen models beside the trained one."""
    return {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[settings.mixed_precision]


def fit(
    model: nn.Module,
    batches: Batches,
    settings: TrainingSettings,
    accelerator: Accelerator,
    *,
    records: int,
    validate: Callable[[int], dict[str, float]] | None = None,
) -> None:
    """Train the parameters of `model` that require gradients; finally it holds their moving average, if there is one.

    model: its forward takes a batch and gives {"loss": the mean over the batch, ...}; all of it is logged.
    batches: see `Batches`; records: how many there are, which a resumed training must find again.
    validate: called with the step on the main process, in eval mode and with the averaged weights; its metrics are logged.
    Raises TrainingStopped for a loss that is not a number and for a full disk, InputError for a resume that doesn't fit.
    """
    sharded = copy_to_shard(model) if accelerator.is_fsdp2 else None
    trained = model if sharded is None else sharded
    if sharded is not None:
        model.cpu()
    optimizer = torch.optim.AdamW(
        _trainable(trained),
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
    trained.to(accelerator.device)
    ddp_model, ddp_optimizer = accelerator.prepare(trained, optimizer)
    parameters = _trainable(trained)  # FSDP has put others in their place
    average = EMAModel(parameters, decay=settings.ema_decay) if settings.ema_decay else None
    state = _TrainingState(trained, optimizer, schedule, average, accelerator)
    folder = settings.output_dir / "checkpoints"
    data = _describe_data(settings)
    about = {"records": records, "settings": json.loads(settings.save_as_json()), "data": data}
    first = 0
    if settings.resume and (checkpoint := load_checkpoint(folder)):
        _check_same(settings, records, data, checkpoint["about"])
        state.load_state_dict(checkpoint)
        first = int(checkpoint["step"])
    check_same_step(first, folder, accelerator)

    trained.train()
    steps = range(first, settings.max_train_steps)
    with (
        told_of_lost_processes(accelerator),
        closing(Log(settings, first, accelerator)) as log,
        closing(_micro_batches(batches, steps, settings, accelerator)) as loader,
    ):
        for step in steps:
            torch.manual_seed(mix_seeds(settings.seed, step, accelerator.process_index))  # dropout, if a model has any
            totals = _accumulate_gradients(ddp_model, loader, settings, accelerator)
            norm = undivided(accelerator.clip_grad_norm_(parameters, settings.max_grad_norm))
            totals["gradient_norm"] = (
                norm.float() / accelerator.num_processes
            )  # all hold the same: their sum restores it
            metrics = _sum_over_processes(totals, accelerator)
            _check_finite(metrics, step + 1, folder, scaled=accelerator.scaler is not None)
            learning_rate = schedule.get_last_lr()[0]
            ddp_optimizer.step()
            schedule.step()
            ddp_optimizer.zero_grad()
            if average is not None:
                average.step(parameters)
            log.step(step + 1, metrics, learning_rate)

            finished = step + 1 == settings.max_train_steps
            due = (step + 1) % settings.validation_steps == 0 or finished
            if validate is not None and due and (accelerator.is_main_process or sharded is not None):
                with _averaged(parameters, average):
                    if sharded is not None:
                        gather_into(model, sharded)
                    if accelerator.is_main_process:
                        with _evaluating(model, accelerator.device):
                            log.validation(step + 1, validate(step + 1))
                if sharded is not None:
                    model.cpu()
            if (step + 1) % settings.checkpointing_steps == 0 or finished:
                saved = {"step": step + 1, "about": about}
                if sharded is not None:
                    saved |= whole(state.state_dict())
                elif accelerator.is_main_process:
                    saved |= state.state_dict()
                if accelerator.is_main_process:
                    save_checkpoint(folder, step + 1, saved, settings.checkpoints_total_limit)
                accelerator.wait_for_everyone()
    if average is not None:
        average.copy_to(parameters)
    if sharded is not None:
        gather_into(model, sharded)
        model.to(accelerator.device)
    model.eval()


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@contextmanager
def export(settings: TrainingSettings, accelerator: Accelerator) -> Iterator[Path | None]:
    """The folder to save the trained model into, on the main process; it becomes output_dir/model when it is whole."""
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        yield None
    else:
        final = settings.output_dir / "model"
        for leftover in final.parent.glob(".model.*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            with new_folder(final) as folder:
                yield folder
                if final.exists():  # a resumed training that had ended
                    shutil.rmtree(final)
        except (OSError, safetensors.SafetensorError) as error:
            raise TrainingStopped(
                f"the model can't be written to {final} ({first_line(error)}): make room and go on with --resume"
            ) from error
    accelerator.wait_for_everyone()


class _TrainingState:
    """What a checkpoint holds of the objects that a training changes."""

    def __init__(
        self, model: nn.Module, optimizer: Any, schedule: Any, average: EMAModel | None, accelerator: Accelerator
    ) -> None:
        self._trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._optimizer, self._schedule, self._average, self._accelerator = optimizer, schedule, average, accelerator

    def state_dict(self) -> dict[str, Any]:
        scaler = self._accelerator.scaler
        return {
            "model": {name: parameter.detach() for name, parameter in self._trained.items()},
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "average": self._average.state_dict() if self._average else None,
            "scaler": scaler.state_dict() if scaler else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises InputError where the state is of another model."""
        saved, current = (
            {(name, tuple(tensor.shape)) for name, tensor in tensors.items()}
            for tensors in (state["model"], self._trained)
        )
        if saved != current:
            name, shape = min(saved ^ current)
            raise InputError(
                f"the checkpoint is of another model (only one has {name!r} in shape {shape}): start a new --output-dir"
            )
        with torch.no_grad():
            for name, tensor in state["model"].items():
                self._trained[name].copy_(divided(tensor, self._trained[name]))
        parameters = list(self._trained.values())
        moments = {
            number: {name: divided(value, parameters[number]) for name, value in entry.items()}
            for number, entry in state["optimizer"]["state"].items()
        }
        self._optimizer.load_state_dict({**state["optimizer"], "state": moments})
        self._schedule.load_state_dict(state["schedule"])
        if self._average:
            shadows = list(map(divided, state["average"]["shadow_params"], parameters))
            self._average.load_state_dict({**state["average"], "shadow_params": shadows})
            self._average.to(self._accelerator.device)
        if self._accelerator.scaler:
            self._accelerator.scaler.load_state_dict(state["scaler"])


def _micro_batches(
    batches: Batches, steps: range, settings: TrainingSettings, accelerator: Accelerator
) -> Generator[Batch, None, None]:
    """This process's micro-batches in order, prepared by threads while the model computes."""
    processes = accelerator.num_processes
    count = settings.gradient_accumulation_steps * processes
    # assigned to the processes in turn, so that a single process with as many micro-batches computes the same losses
    places = ((step, index) for step in steps for index in range(accelerator.process_index, count, processes))
    workers = settings.data_workers
    return prefetch(lambda place: batches(*place, count), places, ahead=2 * workers + 1, workers=workers)


def _accumulate_gradients(
    wrapped: nn.Module, loader: Iterator[Batch], settings: TrainingSettings, accelerator: Accelerator
) -> dict[str, Tensor]:
    """One step forward and backward. Returns this process's part of each metric's mean over all micro-batches."""
    count = settings.gradient_accumulation_steps
    totals: dict[str, Tensor] = {}
    for index in range(count):
        # gradients cross between processes once a step, with the last micro-batch
        with nullcontext() if index + 1 == count else accelerator.no_sync(wrapped):
            losses = wrapped(to_device(next(loader), accelerator.device))
            accelerator.backward(losses["loss"] / count)
        for name, value in losses.items():
            totals[name] = totals.get(name, 0) + value.detach().float() / (count * accelerator.num_processes)
    return totals


@contextmanager
def _averaged(parameters: list[nn.Parameter], average: EMAModel | None) -> Iterator[None]:
    """The parameters hold their moving average."""
    if average is not None:
        average.store(parameters)
        average.copy_to(parameters)
    yield
    if average is not None:
        average.restore(parameters)


@contextmanager
def _evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model in eval mode on a device, all random states untouched."""
    model.to(device).eval()
    with torch.no_grad(), torch.random.fork_rng():
        yield
    model.train()


def _describe_data(settings: TrainingSettings) -> dict[str, list[list[int]]]:
    """Of each setting that names data, what lies there."""
    given = {name: getattr(settings, name) for name in settings.data_fields()}
    return {
        name: describe_data(paths if isinstance(paths, list) else [paths]) for name, paths in given.items() if paths
    }


def _check_same(
    settings: TrainingSettings, records: int, data: dict[str, list[list[int]]], former: dict[str, Any]
) -> None:
    """Raise InputError where the numbers of a resumed training would not be those of the one that began.

    The same data under another path is the same; other data under the same name, as a data set of the hub may be, is not.
    """
    then = former.get("data", {})
    same = [name for name, described in data.items() if described == then.get(name)]
    differences = settings.differences(former["settings"], same)
    if then.get("train_data", data.get("train_data")) != data.get("train_data") and not any(
        difference.startswith("train_data ") for difference in differences
    ):
        differences.append("train_data holds other data than then, under the same name")
    if records != former["records"]:
        differences.append(f"records was {former['records']}, is {records}")
    if differences:
        raise InputError(
            f"--resume needs the settings and data it began with: {'; '.join(differences)}. To train on with others, begin "
            "another --output-dir from the trained model"
        )


def _check_finite(metrics: dict[str, float], step: int, folder: Path, scaled: bool) -> None:
    """Raise TrainingStopped before weights take a step that would spoil them. scaled: the scaler of fp16 skips such steps."""
    for name in ("loss",) if scaled else ("loss", "gradient_norm"):
        if not math.isfinite(metrics[name]):
            raise TrainingStopped(
                f"the {name.replace('_', ' ')} became {metrics[name]} at step {step}: lower --learning-rate or "
                f"--max-grad-norm, or use bf16 for fp16; the checkpoints in {folder} are from before"
            )


def _sum_over_processes(totals: dict[str, Tensor], accelerator: Accelerator) -> dict[str, float]:
    """Each metric summed over the processes, in one transfer."""
    values = accelerator.reduce(torch.stack(list(totals.values())), "sum")
    return dict(zip(totals, values.tolist(), strict=True))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on the device."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def mix_seeds(*seeds: int) -> int:
    """One seed of several numbers, below 2**63 as torch wants it."""
    return int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1)
