"""Part d: training steps at full size by `altdiffusion train` beside a plain PyTorch loop, and what a bridge takes.

The plain loop is what tutorials show: texts padded to 77, what is frozen computed at every step, one batch after the other.
Both train in bfloat16 (autocast; on a CPU in float32), with AdamW, on the same models, data and batch.
"""

from __future__ import annotations

import json
import random
import runpy
import shutil
import signal
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from gpu import plain
from gpu.models import Setup, random_model, release, save_altclip, save_pipeline, saved
from gpu.timing import Row, reason, row
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextModel,
    CLIPTokenizer,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS = Path(__file__).parents[1] / "settings"
WORDS = ["a", "photo", "of", "small", "red", "cat", "on", "the", "green", "grass", "under", "blue", "sky", "and"]


def training(setup: Setup) -> Iterator[Row]:
    """Each stage by both loops; a stage that fails is named, and the others go on."""
    data(setup)
    yield from each_way(setup, "bridge")
    yield from schedule(setup)
    for stage in ("align", "distill", "contrast"):
        yield from each_way(setup, stage)


def each_way(setup: Setup, stage: str) -> Iterator[Row]:
    """One stage by both loops."""
    table = f"Training: {stage}, batch {batch_of(setup, stage)}, {'bfloat16' if setup.on_gpu else 'float32'}"
    ways: dict[str, Callable[[], list[float]]] = {
        "plain PyTorch": lambda: plain.steps(setup, stage, batch_of(setup, stage)),
        "altdiffusion train": lambda: command_line(setup, stage, flags(setup, stage)),
    }
    first: float | None = None
    for name, way in ways.items():
        release()
        held = {"held before (GB)": torch.cuda.memory_allocated() / 1e9} if setup.on_gpu else {}
        try:
            median = statistics.median(way())
        except Exception as error:  # out of memory, say
            traceback.print_exc()
            yield reason(table, name, error)
            continue
        figures = {
            "step (s)": median,
            "steps a second": 1 / median,
            "samples a second": batch_of(setup, stage) / median,
        }
        first = median if first is None and name == "plain PyTorch" else first
        yield row(table, name, **figures, **{"times plain": first and first / median}, **peak(setup), **held)


SCHEDULE = ("bridge-1-states", "bridge-2-unet")


def schedule(setup: Setup) -> Iterator[Row]:
    """Hours of a bridge for Stable Diffusion 1.5, by steps of both of its settings files."""
    table = "Training: the schedule of a bridge for Stable Diffusion 1.5"
    hours: list[float] = []
    for name in SCHEDULE:
        yield from scheduled(setup, table, name, hours)
    if len(hours) == len(SCHEDULE):
        yield row(table, "both", hours=sum(hours))


def scheduled(setup: Setup, table: str, name: str, hours: list[float]) -> Iterator[Row]:
    """Some steps of one of them, and the hours that all of them would take, which are added to `hours`.

    Where the whole batch does not fit, it is cut into pieces, which the row's name says.
    """
    settings = read_settings(name)
    for pieces in (1, 8) if setup.on_gpu else (1,):
        release()
        way = name if pieces == 1 else f"{name}, --gradient-accumulation-steps {pieces}"
        given = ["--config", str(SETTINGS / f"{name}.toml"), "--gradient-accumulation-steps", str(pieces)]
        given += ["--mixed-precision", setup.precision, "--tensorboard", "false", *sizes_of_bridge(setup)]
        given += [] if setup.batch is None else ["--batch-size", str(setup.batch)]
        try:
            median = statistics.median(command_line(setup, "bridge", given))
        except Exception as error:
            traceback.print_exc()
            yield reason(table, way, error)
            continue
        steps = settings["max_train_steps"]
        hours.append(median * steps / 3600)
        figures = {"batch": setup.batch or settings["batch_size"], "step (s)": median, "steps": steps}
        yield row(table, way, **figures, hours=hours[-1], **peak(setup))
        return


def read_settings(name: str) -> dict[str, Any]:
    return tomllib.loads((SETTINGS / f"{name}.toml").read_text(encoding="utf-8"))


def peak(setup: Setup) -> dict[str, float]:
    """Since the last `release`, loading included."""
    if not setup.on_gpu:
        return {}
    return {
        "allocated (GB)": torch.cuda.max_memory_allocated() / 1e9,
        "reserved (GB)": torch.cuda.max_memory_reserved() / 1e9,
    }


# The models and data


def data(setup: Setup) -> None:
    """Captions of 4 to 12 words, with noise for images, and the models that no other part makes."""
    needed = {"pipeline": save_pipeline, "altclip": save_altclip, "clip": save_clip}
    for name, save in (needed | {"sd": save_sd, "student": save_student}).items():
        saved(setup, name, save)
    words, lines, images = random.Random(0), [], setup.folder / "training-images"
    images.mkdir(exist_ok=True)
    for number in range(2048 if setup.on_gpu else 16):
        path = images / f"{number % 64}.jpg"
        if not path.exists():
            Image.effect_noise((setup.side, setup.side), 60).convert("RGB").save(path)
        caption = " ".join(words.choices(WORDS, k=words.randint(4, 12)))
        lines.append(json.dumps({"image": f"{images.name}/{path.name}", "en": caption, "zh": f"{caption} {number}"}))
    (setup.folder / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def save_clip(setup: Setup, folder: Path) -> None:
    """CLIP ViT-L/14's text tower; of the vision tower, which no stage runs, a crumb."""
    words = CLIPTokenizer().train_new_from_iterator([WORDS], vocab_size=400)
    text = {"hidden_size": setup.states, "intermediate_size": 4 * setup.states, "num_hidden_layers": setup.clip_layers}
    text |= {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    crumb = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(text_config=text | {"num_attention_heads": setup.states // 64}, vision_config=crumb)
    random_model(lambda: CLIPModel(config), setup).save_pretrained(folder)
    words.save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)


def save_sd(setup: Setup, folder: Path) -> None:
    """The pipeline of the other parts with CLIP's text tower in AltCLIP's place, as a bridge wants it."""
    unlike = shutil.ignore_patterns("text_encoder", "tokenizer")
    shutil.copytree(setup.folder / "pipeline", folder, ignore=unlike, copy_function=link)
    tower = CLIPTextModel.from_pretrained(setup.folder / "clip", dtype=setup.dtype)
    tower.save_pretrained(folder / "text_encoder")
    AutoTokenizer.from_pretrained(setup.folder / "clip").save_pretrained(folder / "tokenizer")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    (folder / "model_index.json").unlink()  # a link to the other pipeline's
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def save_student(setup: Setup, folder: Path) -> None:
    """The pipeline's text tower and tokenizer by themselves."""
    shutil.copytree(setup.folder / "pipeline/text_encoder", folder, copy_function=link)
    shutil.copytree(setup.folder / "pipeline/tokenizer", folder, copy_function=link, dirs_exist_ok=True)


def link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


# Ours


def batch_of(setup: Setup, stage: str) -> int:
    return setup.batch or {"bridge": 512, "align": 8, "distill": 256, "contrast": 128}[stage]


def flags(setup: Setup, stage: str) -> list[str]:
    """Of a stage, beside what all share."""
    given = {
        "bridge": sizes_of_bridge(setup),
        "align": ["--trainable", "kv", "--resolution", str(setup.side)],
        "distill": ["--teacher", str(setup.folder / "clip"), "--student", str(setup.folder / "student")],
        "contrast": ["--model", str(setup.folder / "altclip")],
    }[stage]
    return [*given, "--batch-size", str(batch_of(setup, stage)), "--mixed-precision", setup.precision]


def sizes_of_bridge(setup: Setup) -> list[str]:
    """At full size those of the settings, which are the defaults too."""
    if setup.states == 768:
        return []
    return ["--hidden-size", "64", "--num-attention-heads", "2", "--intermediate-size", "64", "--num-layers", "1"]


def command_line(setup: Setup, stage: str, given: list[str]) -> list[float]:
    """Seconds of each step of `python -m altdiffusion.cli train`, by its log, interrupted when it has enough of them.

    In this process, whose peak memory can be read. Raises RuntimeError where it ended before.
    """
    folder = setup.folder
    out = folder / f"trained-{stage}-{time.monotonic_ns()}"
    shared = ["--train-data", str(folder / "data.jsonl"), "--languages", "zh", "--output-dir", str(out)]
    if stage in ("bridge", "align"):
        shared += ["--text-encoder", str(folder / "pipeline"), "--model"]
        shared += [str(folder / ("sd" if stage == "bridge" else "pipeline"))]
    every = ["--checkpointing-steps", "--validation-steps", "--max-train-steps"]
    shared += [word for name in every for word in (name, "1000000")]
    shared += ["--logging-steps", "1", "--device", "auto" if setup.on_gpu else "cpu"]
    ended = threading.Event()
    watcher = threading.Thread(target=interrupt, args=(out / "log.jsonl", setup.warm_up + setup.train_steps, ended))
    before, code = sys.argv, 0
    sys.argv = ["altdiffusion", "train", stage, *given, *shared]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    watcher.start()
    try:
        runpy.run_module("altdiffusion.cli", run_name="__main__", alter_sys=False)
    except (SystemExit, KeyboardInterrupt) as error:
        code = getattr(error, "code", None) or 130
    finally:
        ended.set()
        watcher.join()
        sys.argv = before
    rows = read_log(out / "log.jsonl")[setup.warm_up :]
    if len(rows) < setup.train_steps:
        raise RuntimeError(
            f"altdiffusion train {stage} ended with status {code} after {len(rows)} timed steps, see stderr"
        )
    size = int(given[given.index("--batch-size") + 1]) if "--batch-size" in given else None
    if size is None:
        size = read_settings(Path(given[given.index("--config") + 1]).stem)["batch_size"]
    return [size / each["samples_per_second"] for each in rows]


def read_log(path: Path) -> list[dict[str, Any]]:
    """The steps in a training's log.jsonl; its last line may not be whole yet."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [each for each in map(json.loads, lines) if "loss" in each]


def interrupt(log: Path, steps: int, ended: threading.Event) -> None:
    """Ctrl-C for this process, once a log has so many steps: what a training saves at its end is gigabytes."""
    while not ended.wait(0.05):
        if len(read_log(log)) >= steps:
            signal.raise_signal(signal.SIGINT)
            return
