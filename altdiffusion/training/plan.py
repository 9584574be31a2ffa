"""What a training will take on this machine: a few of its steps are measured, and hours, memory, disk and money follow."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import safetensors
import torch
from torch import Tensor

from altdiffusion.data import hub_datasets
from altdiffusion.errors import InputError, first_line
from altdiffusion.settings import about_of
from altdiffusion.training.settings import TrainingSettings
from altdiffusion.training.stage_settings import run_stage
from altdiffusion.training.stand_ins import stand_in, stand_in_folder

STEPS = 3  # that are measured; the first, in which all is warmed up, isn't counted
CPU_SAMPLES = 4  # of a measured step, where there is no accelerator; more would take as long for each
CAPTION = "a cat, a dog, a tree, a house, the sun"  # 22 tokens of AltCLIP's, 16 of CLIP's: as long as a prompt
GB = 1e9


@dataclass(frozen=True)
class Plan:
    """samples_per_second: measured. memory: bytes at its peak. disk: what for -> bytes. notes: what was guessed, and how."""

    machine: str
    steps: int
    batch_size: int
    samples_per_second: float
    memory: float
    disk: dict[str, float]
    notes: list[str]
    hour_price: float | None = None

    @property
    def hours(self) -> float:
        return self.steps * self.batch_size / self.samples_per_second / 3600

    @property
    def money(self) -> float | None:
        return None if self.hour_price is None else self.hours * self.hour_price

    def __str__(self) -> str:
        disk = ", ".join(f"{what} {size / GB:.2g} GB" for what, size in self.disk.items())
        price = "say what an hour of this machine costs: --hour-price"
        if self.money is not None:
            price = f"{self.money:,.2f}, at {self.hour_price:g} an hour"
        rows = {
            "machine": self.machine,
            "time": f"{self.hours:,.3g} hours: {self.steps:,} steps of {self.batch_size:,} at {self.samples_per_second:.3g} "
            "samples a second; validation, downloads and checking the data come on top",
            "memory": f"{self.memory / GB:.3g} GB",
            "disk": f"{sum(self.disk.values()) / GB:.3g} GB: {disk}",
            "money": price,
        }
        return "\n".join(
            [*(f"{name:8} {value}" for name, value in rows.items()), *(f"- {note}" for note in self.notes)]
        )


def make_plan(stage: str, settings: TrainingSettings) -> Plan:
    """Measure a few steps of a training in a temporary folder beside its own, which stays as it is.

    Models of the presets aren't downloaded, others of their sizes stand in for them; nor is parallel text of the hub. Without
    an accelerator smaller batches are measured, and time and memory of the whole ones follow from them.
    Raises InputError: several processes, too little disk or memory; and what the training itself raises.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--plan measures one process: run it without accelerate launch or torchrun")
    on_accelerator = torch.accelerator.is_available() and settings.device != "cpu"
    whole = max(1, settings.batch_size // settings.gradient_accumulation_steps)
    micro_batch = whole if on_accelerator else min(whole, CPU_SAMPLES)
    notes, disk = list[str](), dict[str, float]()
    with _folder_beside(settings.output_dir) as folder:
        ready = _with_data(_with_models(settings, folder, notes, disk), folder, notes)
        run = _measure(stage, ready, folder / "run", micro_batch, on_accelerator)
        memory = run.memory
        if micro_batch < whole:
            few = micro_batch // 2
            fewer = _measure(stage, ready, folder / "few", few, on_accelerator, steps=1)
            memory += (run.saved - fewer.saved) / (micro_batch - few) * (whole - micro_batch)
            notes.append(f"measured with {micro_batch} samples a step, from which those of {whole:,} follow")
    disk["checkpoints"] = run.checkpoint * (settings.checkpoints_total_limit + 1)  # one more while it is written
    disk["the trained model"] = run.model
    return Plan(
        _machine(on_accelerator), settings.max_train_steps, settings.batch_size, run.rate, memory, disk, notes,
        settings.hour_price,
    )  # fmt: skip


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder on the disk that a path will lie on. Raises InputError where it can't be written, or is full."""
    near = next(parent for parent in path.absolute().parents if parent.is_dir())
    try:
        with tempfile.TemporaryDirectory(dir=near, prefix=".plan-") as name:
            yield Path(name)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"--plan can't write beside {path}: {first_line(error)}") from error


@dataclass(frozen=True)
class _Run:
    """rate: samples a second. memory: bytes at the peak. saved: of it what is kept for the way back. The rest: bytes on disk."""

    rate: float
    memory: float
    saved: float
    checkpoint: int
    model: int


def _with_models(
    settings: TrainingSettings, folder: Path, notes: list[str], disk: dict[str, float]
) -> TrainingSettings:
    """The settings with stand-ins for the published models that they name."""
    changes: dict[str, Any] = {}
    for name in _fields(settings, "model"):
        model = getattr(settings, name)
        if isinstance(model, str) and (count := stand_in(model, folder)):
            changes[name] = str(stand_in_folder(model, folder))
            disk[model] = 4.0 * count
            notes.append(f"{model} is stood in for by made-up weights of its size")
    return settings.replace(**changes)


def _with_data(settings: TrainingSettings, folder: Path, notes: list[str]) -> TrainingSettings:
    """The settings with made-up captions for parallel text of the hub."""
    names = list(getattr(settings, "train_data", []))
    teacher = getattr(settings, "teacher_language", None)
    if teacher is None or not any(map(hub_datasets.is_hub_name, names)):
        return settings
    languages = [*(getattr(settings, "languages", ()) or ["zh"]), *getattr(settings, "keep", ())]
    columns = list(dict.fromkeys([teacher, *(each.partition("=")[0] for each in languages)]))
    row = "\t".join([CAPTION] * len(columns))
    (folder / "captions.tsv").write_text("\n".join(["\t".join(columns), *[row] * 64]), encoding="utf-8")
    notes.append(
        f"data of the hub is stood in for by captions of {len(CAPTION.split())} words; its size on disk isn't known here"
    )
    return settings.replace(train_data=[str(folder / "captions.tsv")])


def _fields(settings: TrainingSettings, source: str) -> list[str]:
    fields = type(settings).model_fields
    return [name for name, field in fields.items() if about_of(field).get("source") == source]


def _measure(
    stage: str, settings: TrainingSettings, out: Path, batch_size: int, on_accelerator: bool, steps: int = STEPS
) -> _Run:
    """Run a few steps of a stage."""
    changes: dict[str, Any] = {
        "output_dir": out, "max_train_steps": steps, "batch_size": batch_size, "gradient_accumulation_steps": 1,
        "checkpointing_steps": steps, "validation_steps": steps, "logging_steps": 1, "validation_data": [],
        "validation_prompts": [], "trackers": [], "tensorboard": False, "resume": False, "plan": False,
        "hour_price": None, "caption_like": False, "minimum_retrieval": 0.0, "maximum_prediction_error": None,
        "interpolate": False,
    }  # fmt: skip
    changes |= {name: None for name, field in type(settings).model_fields.items() if about_of(field).get("cache")}
    few = settings.replace(**{name: value for name, value in changes.items() if name in type(settings).model_fields})
    try:
        with _peak_memory(on_accelerator) as peak, _saved_bytes(not on_accelerator) as saved:
            run_stage(stage, few)
    except torch.OutOfMemoryError:
        raise InputError(
            f"--plan: micro-batches of {batch_size} don't fit into the memory of {_machine(on_accelerator)}: give "
            f"--gradient-accumulation-steps {2 * settings.gradient_accumulation_steps} or a smaller --batch-size"
        ) from None
    lines = map(json.loads, (out / "log.jsonl").read_text(encoding="utf-8").splitlines())
    rates = [line["samples_per_second"] for line in lines if "samples_per_second" in line]
    return _Run(
        statistics.median(rates[1:] or rates), peak[0], saved[0], _size(out / "checkpoints"), _size(out / "model")
    )


@contextmanager
def _peak_memory(on_accelerator: bool) -> Iterator[list[float]]:
    """What is used at most meanwhile: of the accelerator's memory, or by this process."""
    peak = [0.0]
    if on_accelerator:
        torch.accelerator.reset_peak_memory_stats()
        yield peak
        peak[0] = float(torch.accelerator.max_memory_allocated())
        return
    ended, process = threading.Event(), psutil.Process()

    def watch() -> None:
        while not ended.wait(0.05):
            peak[0] = max(peak[0], float(process.memory_info().rss))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


@contextmanager
def _saved_bytes(counting: bool) -> Iterator[list[int]]:
    """What autograd keeps of the first forward pass for the way back, each storage once: the memory that grows with the batch.

    What gradient checkpointing computes a second time isn't counted.
    """
    kept: dict[int, int] = {}  # address -> bytes; none is used twice before the way back begins
    total, returning = [0], threading.Event()

    def pack(tensor: Tensor) -> Tensor:
        if not returning.is_set():
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def unpack(tensor: Tensor) -> Tensor:
        returning.set()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack) if counting else nullcontext():
        yield total
    total[0] = sum(kept.values())


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _machine(on_accelerator: bool) -> str:
    if on_accelerator:
        device = torch.accelerator.current_accelerator()
        return torch.cuda.get_device_name() if torch.cuda.is_available() else str(device)
    memory = psutil.virtual_memory().total / GB
    return f"{platform.processor() or platform.machine()} CPU, {os.cpu_count()} cores, {memory:.3g} GB, no accelerator"
