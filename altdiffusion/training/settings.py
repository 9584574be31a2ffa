"""Settings of a training: a flat dataclass, filled from flags, from a TOML or JSON file or in Python, all errors at once.

Light on purpose: the command line reads these classes for `--help`, without torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from altdiffusion.checkpoints.hub import local_path
from altdiffusion.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

S = TypeVar("S", bound="Settings")


def setting(
    default: Any, help: str, *, choices: Sequence[str] = (), minimum: float | None = None, maximum: float | None = None
) -> Any:
    """A field with its help and its range (ends included). `...` as default: the setting must be given."""
    about = {"help": help, "choices": tuple(choices), "minimum": minimum, "maximum": maximum}
    if default is ...:
        return field(metadata=about)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=about)
    return field(default=default, metadata=about)


@dataclass(kw_only=True)
class Settings:
    """What every stage shares. Raises InputError, naming every setting of a wrong type or out of its range."""

    output_dir: Path = setting(..., "folder for the log, the checkpoints and the trained model")
    max_train_steps: int = setting(1000, "optimizer steps", minimum=1)
    batch_size: int = setting(32, "samples of one optimizer step, over all processes", minimum=1)
    gradient_accumulation_steps: int = setting(1, "pieces that a process cuts its share of a batch into", minimum=1)
    gradient_checkpointing: bool = setting(False, "spend time to save memory: activations are computed twice")
    learning_rate: float = setting(1e-4, "the highest of the schedule", minimum=0)
    lr_scheduler: str = setting(
        "cosine", "schedule after the warmup", choices=("cosine", "linear", "constant", "constant_with_warmup")
    )
    lr_warmup_steps: int = setting(0, "steps over which the learning rate rises from 0", minimum=0)
    adam_beta1: float = setting(0.9, "AdamW's first moment", minimum=0, maximum=0.9999)
    adam_beta2: float = setting(0.999, "AdamW's second moment", minimum=0, maximum=0.999999)
    weight_decay: float = setting(1e-2, "AdamW's", minimum=0)
    max_grad_norm: float = setting(1.0, "the gradient is clipped to this norm", minimum=1e-8)
    ema_decay: float = setting(0.0, "moving average of the weights, which is then what is saved; 0: none",
                               minimum=0, maximum=0.999999)  # fmt: skip
    mixed_precision: str = setting("no", "arithmetic of the model that is trained", choices=("no", "fp16", "bf16"))
    device: str = setting("auto", "auto takes a GPU if there is one", choices=("auto", "cpu"))
    seed: int = setting(0, "of everything random", minimum=0, maximum=2**32 - 1)
    checkpointing_steps: int = setting(500, "steps from one checkpoint to the next", minimum=1)
    checkpoints_total_limit: int = setting(2, "checkpoints kept; 2 survive the damage of one", minimum=1)
    validation_steps: int = setting(500, "steps from one validation to the next", minimum=1)
    logging_steps: int = setting(10, "steps from one line of the log to the next", minimum=1)
    tensorboard: bool = setting(False, "write TensorBoard events beside the log")
    data_workers: int = setting(2, "threads that prepare batches ahead", minimum=1, maximum=64)
    max_skipped: float = setting(0.01, "share of unusable records that is put up with", minimum=0, maximum=1)
    resume: bool = setting(False, "go on from the newest good checkpoint in output_dir, if there is one")

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        problems: list[str] = []
        for each in dataclasses.fields(self):
            value, wrong = _checked(each, hints[each.name], getattr(self, each.name), each.name)
            problems += wrong
            setattr(self, each.name, value)
        if problems := problems or self.problems():
            raise InputError("; ".join(problems))

    def problems(self) -> list[str]:
        """What is wrong between settings that are each in their range."""
        return []

    def changed(self, *names: str) -> str:
        """Which of these settings are not their defaults, as flags; "" if none."""
        defaults = {each.name: each.default for each in dataclasses.fields(self)}
        return ", ".join(_as_flag(name) for name in names if getattr(self, name) != defaults[name])

    def save_as_json(self) -> str:
        """A JSON document of all settings."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, default=str) + "\n"


def read_settings(cls: type[S], flags: Mapping[str, Any], config: Path | None = None) -> S:
    """Settings from a file and from flags, which win.

    flags: name -> strings as typed (a list, or "true" for a bare switch). config: TOML with the settings' names as keys, or
        the settings.json of an earlier training.
    Raises InputError with everything that is wrong: unknown names, types, ranges, what is missing.
    """
    given: dict[str, Any] = {}
    origin: dict[str, str] = {}
    problems: list[str] = []
    known = {each.name: each for each in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for name, value in _read_config(config).items():
        given[name.replace("-", "_")], origin[name.replace("-", "_")] = value, f"{config}: {name}"
    for name, value in flags.items():
        given[name], origin[name] = value, _as_flag(name)

    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            spelled = _as_flag if origin[name].startswith("--") else str
            problems.append(f"{origin[name]} is no setting" + (f": do you mean {spelled(close[0])}?" if close else ""))
            continue
        values[name], wrong = _checked(known[name], hints[name], value, origin[name])
        problems += wrong
    for name, each in known.items():
        if name not in values and each.default is MISSING and each.default_factory is MISSING:
            problems.append(f"{_as_flag(name)} is missing: {each.metadata['help']}")
    if problems:
        raise InputError("; ".join(problems))
    return cls(**values)


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    is_json = path.suffix.lower() == ".json"
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if is_json else tomllib.loads(text)
    except OSError as error:
        raise InputError(f"--config {path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        form = "JSON" if is_json else "TOML"
        expected = (
            'an object of settings, as {"learning_rate": 1e-4}' if is_json else "lines such as learning_rate = 1e-4"
        )
        raise InputError(f"--config {path} is no {form} ({error}): expected {expected}") from None
    if not isinstance(found, dict):
        raise InputError(f'--config {path} holds no settings: expected an object, as {{"learning_rate": 1e-4}}')
    return found


def _as_flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _checked(each: dataclasses.Field[Any], hint: Any, value: Any, origin: str) -> tuple[Any, list[str]]:
    """The value in the type of its setting, and what is wrong with it. origin: its name in errors."""
    try:
        found = _convert(value, hint)
    except (ValueError, TypeError, OverflowError):
        return None, [f"{origin}: expected {_describe(hint)}, got {value!r}"]
    return found, _out_of_range(each.metadata, found, origin)


def _convert(value: Any, hint: Any) -> Any:
    """A value from TOML or from the command line, in the type of its setting."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):  # X | None
        inner = next(each for each in typing.get_args(hint) if each is not type(None))
        return None if value is None or value in ("none", ["none"]) else _convert(value, inner)
    if typing.get_origin(hint) is list:
        (inner,) = typing.get_args(hint)
        return [_convert(each, inner) for each in (value if isinstance(value, list | tuple) else [value])]
    if isinstance(value, list):
        (value,) = value  # ValueError if several were given
    if hint is bool:
        if isinstance(value, str):
            value = {"true": True, "false": False}.get(value.lower())
        if not isinstance(value, bool):
            raise TypeError
        return value
    if isinstance(value, bool) or (hint is int and isinstance(value, float)) or isinstance(value, dict):
        raise TypeError
    if hint is not str and hint is not Path:
        return hint(value)
    if not isinstance(value, str | Path) or "\0" in str(value):
        raise TypeError
    return local_path(value) if hint is Path else value


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join("none" if each is type(None) else _describe(each) for each in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        return f"a list, each {_describe(typing.get_args(hint)[0])}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    return names[hint]


def _out_of_range(about: Mapping[str, Any], value: Any, origin: str) -> list[str]:
    if about["choices"] and value is not None and value not in about["choices"]:
        return [f"{origin}: expected one of {', '.join(about['choices'])}, got {value!r}"]
    if not isinstance(value, int | float) or isinstance(value, bool):
        return []
    low, high = about["minimum"], about["maximum"]
    if math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high):
        return []
    wanted = f"{low} to {high}" if high is not None else f"at least {low}" if low is not None else "a finite number"
    return [f"{origin}: expected {wanted}, got {value}"]
