"""Settings as classes: each field has its type, range and help in one line; they are checked all at once.

    class Tuning(Settings):
        steps: int = setting(25, "denoising steps", minimum=1, maximum=999)

    Tuning(steps=0)                              # InputError: steps: expected 1 to 999, got 0
    read_settings(Tuning, {"steps": "0"}, None)  # InputError: --steps: expected 1 to 999, got 0

Command line, files, web API and documentation are read off these classes. Light on purpose: pydantic, no torch.
"""

from __future__ import annotations

import difflib
import functools
import json
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, create_model, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from typing_extensions import Self

from altdiffusion.errors import InputError
from altdiffusion.files import as_json, local_path, parse_toml

S = TypeVar("S", bound="Settings")
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    multiple_of: int | None = None,
    pattern: str | None = None,
    **about: Any,
) -> Any:
    """A field with its help and its range: minimum and maximum included, `above` not. `...` as default: it must be given.

    pattern: of a text, whose `form` in words is told then, such as form="WIDTHxHEIGHT".
    about: what else is read off the field, such as its name in a PNG; `about_of` gives it back. The command line reads
        flag (where that isn't the field's name), positional (the name of a word without a flag, such as PROMPT), metavar,
        repeat (of a list: one value each time the flag is given; else it takes all that follow), and source (what a path
        or name stands for, and so how it is checked: see cli/sources.py).
    """
    is_list = isinstance(default, list)
    return Field(
        **{"default_factory": default.copy} if is_list else {"default": default},
        description=help, ge=minimum, le=maximum, gt=above, multiple_of=multiple_of, pattern=pattern,
        json_schema_extra=about,
    )  # fmt: skip


def neutral(default: Any, help: str, **about: Any) -> Any:
    """A setting that may change when a run that was cut off goes on: what is computed doesn't depend on it."""
    return setting(default, help, neutral=True, **about)


def device_setting(**about: Any) -> Any:
    """Of every command. Whether this machine has the device is seen when torch is there."""
    return setting(
        None, "cuda, cuda:1, mps, cpu (default: the best there is)",
        pattern=r"^(cuda(:\d+)?|mps|cpu)$", form="cuda, cuda:1, mps or cpu", metavar="D", **about,
    )  # fmt: skip


class Settings(BaseModel):
    """Raises InputError, naming every setting that is unknown, missing, of a wrong type or out of its range."""

    group: ClassVar[str] = "Options"  # the title of its own fields in the help, where the class says none itself

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )

    def __init__(self, origins: Mapping[str, str] = types.MappingProxyType({}), /, **values: Any) -> None:
        """origins: what a setting is called in errors, where that isn't its name, such as --batch-size."""
        try:
            super().__init__(**type(self).fill_in(values))
        except ValidationError as error:
            raise InputError("; ".join(_explain(type(self), error.errors(), origins))) from None
        if problems := self.problems():
            raise InputError("; ".join(problems))

    @field_validator("*", mode="before")
    @classmethod
    def _convert(cls, value: Any, info: ValidationInfo) -> Any:
        """What a person types, or TOML holds, for pydantic; ValueError where pydantic would guess."""
        assert info.field_name is not None
        return _convert(value, cls.model_fields[info.field_name].annotation)

    @classmethod
    def fill_in(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those given with what follows from them, such as a preset's settings. Raises InputError."""
        return dict(given)

    def problems(self) -> list[str]:
        """What is wrong between settings that are each in their range."""
        return []

    def changed(self, *names: str) -> str:
        """Which of these settings are not their defaults, as flags; "" if none."""
        fields = type(self).model_fields
        return ", ".join(as_flag(name) for name in names if getattr(self, name) != fields[name].get_default())

    def replace(self, **changes: Any) -> Self:
        """The same with changes, checked as ever."""
        return type(self)(**(dict(self) | changes))

    def save_as_json(self) -> str:
        """A JSON document of all settings."""
        try:
            return self.model_dump_json(indent=2) + "\n"
        except ValueError:  # a path in bytes that the locale can't decode
            return as_json({name: str(value) if isinstance(value, Path) else value for name, value in self}) + "\n"


def read_settings(cls: type[S], flags: Mapping[str, Any], config: Path | None = None) -> S:
    """Settings from a file and from flags, which win.

    flags: name -> strings as typed (a list, or "true" for a bare switch). config: TOML with the settings' names as keys, or
        the settings.json of an earlier training.
    Raises InputError with everything that is wrong: unknown names, types, ranges, what is missing.
    """
    in_file = {name.replace("-", "_"): (value, f"{config}: {name}") for name, value in _read_config(config).items()}
    origins = {name: flag_of(name, field) for name, field in cls.model_fields.items()}  # of those that are missing
    given = in_file | {name: (value, origins.get(name) or as_flag(name)) for name, value in flags.items()}
    origins |= {name: origin for name, (_, origin) in given.items()}
    return cls(origins, **{name: value for name, (value, _) in given.items()})


def subset_of(cls: type[Settings], names: Iterable[str], group: str) -> type[Settings]:
    """A class of some of the fields of another, for a command that asks for the rest in its own way."""
    fields: dict[str, Any] = {name: (cls.model_fields[name].annotation, cls.model_fields[name]) for name in names}
    part = create_model(f"{cls.__name__}Flags", __base__=Settings, __module__=cls.__module__, **fields)
    part.group = group
    return part


def about_of(field: FieldInfo) -> dict[str, Any]:
    """What `setting` was told besides help and range."""
    about = field.json_schema_extra
    return about if isinstance(about, dict) else {}


def type_of(field: FieldInfo) -> Any:
    """The type of what it holds, or of a list's elements, such as int of `int | None`; str for a few choices."""
    hint = _without_none(field.annotation)
    (hint,) = typing.get_args(hint) if typing.get_origin(hint) is list else (hint,)
    return str if choices_of(field) else hint


def is_list(field: FieldInfo) -> bool:
    """Whether it holds a list, or none."""
    return typing.get_origin(_without_none(field.annotation)) is list


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """The values of a field, or of a list's elements, that has a few, else ()."""
    hint = _without_none(field.annotation)
    if typing.get_origin(hint) is list:
        (hint,) = typing.get_args(hint)
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def bounds_of(field: FieldInfo) -> dict[str, float]:
    """Its bounds by pydantic's names: ge (minimum), gt (above), le (maximum), multiple_of."""
    names = ("ge", "gt", "le", "multiple_of")
    return {name: getattr(bound, name) for bound in field.metadata for name in names if hasattr(bound, name)}


def range_of(field: FieldInfo) -> str:
    """The range as words, such as "1 to 999" or "at least 0"; "" where there is none."""
    limits = bounds_of(field)
    low = f"{limits['ge']}" if "ge" in limits else f"above {limits['gt']}" if "gt" in limits else ""
    if "le" in limits:
        return f"{low}{' to' if 'ge' in limits else ', at most'} {limits['le']}" if low else f"at most {limits['le']}"
    return f"at least {low}" if "ge" in limits else low


def flag_of(name: str, field: FieldInfo) -> str:
    """What a person types for a setting: --batch-size, or PROMPT where it has no flag."""
    about = about_of(field)
    return about.get("positional") or as_flag(about.get("flag", name))


def as_flag(name: str) -> str:
    """batch_size -> --batch-size"""
    return f"--{name.replace('_', '-')}"


def suggest(name: str, known: Iterable[str]) -> str:
    """ ": do you mean steps?" for the name nearest to a misspelt one, "" where none is near."""
    names = {word.lstrip("-"): word for word in known}  # two dashes are no likeness
    close = difflib.get_close_matches(name.lstrip("-"), names, 1)
    return f": do you mean {names[close[0]]}?" if close else ""


def _explain(cls: type[Settings], errors: Sequence[ErrorDetails], origins: Mapping[str, str]) -> list[str]:
    """A line for each field that is wrong, in the order of the fields, unknown names first."""
    lines: dict[str, str] = {}
    for error in errors:
        name = str(error["loc"][0] if error["loc"] else error["input"])  # a name with half a character has no place
        origin = origins.get(name, name)
        lines.setdefault(name, f"{origin}{_explain_one(cls, name, error, origin.startswith('--'))}")
    order = list(cls.model_fields)
    names = sorted(lines, key=lambda name: order.index(name) if name in order else -1)
    return list(dict.fromkeys(lines[name] for name in names))  # one flag may stand for two fields


def _explain_one(cls: type[Settings], name: str, error: ErrorDetails, is_flag: bool) -> str:
    if name not in cls.model_fields:
        spelled = as_flag if is_flag else str
        return f" is no setting{suggest(spelled(name), map(spelled, cls.model_fields))}"
    field, value = cls.model_fields[name], error["input"]
    if error["type"] == "missing":
        return f" is missing: {field.description}"
    if error["type"] == "literal_error":
        return f": expected one of {', '.join(choices_of(field))}, got {value!r}"
    if error["type"] == "string_pattern_mismatch":
        return f": expected {about_of(field)['form']}, got {value!r}"
    if error["type"] == "multiple_of":
        return f": expected a multiple of {error['ctx']['multiple_of']}, got {value}"
    if error["type"] in ("finite_number", "greater_than_equal", "less_than_equal", "greater_than"):
        return f": expected {range_of(field) or 'a finite number'}, got {value}"
    return f": expected {_describe(field.annotation)}, got {value!r}"


def _convert(value: Any, hint: Any) -> Any:
    inner = _without_none(hint)
    is_none = value in ("none", ["none"]) and "none" not in typing.get_args(inner)  # which may be a choice
    if inner is not hint and (value is None or is_none):
        return None
    if typing.get_origin(inner) is list:
        return [
            _convert(each, *typing.get_args(inner)) for each in (value if isinstance(value, list | tuple) else [value])
        ]
    if isinstance(value, list):
        (value,) = value  # ValueError if several were given
    if inner is bool:
        value = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
        if not isinstance(value, bool):
            raise ValueError
    elif isinstance(value, bool) or (inner is int and isinstance(value, float)):
        raise ValueError
    elif inner in (str, Path):
        if not isinstance(value, str | Path) or "\0" in str(value):
            raise ValueError
        return local_path(value) if inner is Path else str(value)
    return value


def _without_none(hint: Any) -> Any:
    """X of `X | None`; anything else as it is."""
    return _known_without_none(hint)


@functools.cache  # asked for every field of every request
def _known_without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(each for each in typing.get_args(hint) if each is not types.NoneType)
    return hint


def _describe(hint: Any) -> str:
    if (inner := _without_none(hint)) is not hint:
        return f"{_describe(inner)} or none"
    if typing.get_origin(hint) is list:
        return f"a list, each {_describe(typing.get_args(hint)[0])}"
    return _NAMES[hint] if hint in _NAMES else f"one of {', '.join(typing.get_args(hint))}"


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    is_json = path.suffix.lower() == ".json"
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if is_json else parse_toml(text)
    except OSError as error:
        raise InputError(f"--config {path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        form, expected = ("JSON", _JSON_EXAMPLE) if is_json else ("TOML", "lines such as learning_rate = 1e-4")
        raise InputError(f"--config {path} is no {form} ({error}): expected {expected}") from None
    if not isinstance(found, dict):
        raise InputError(f"--config {path} holds no settings: expected {_JSON_EXAMPLE}")
    return found


_JSON_EXAMPLE = 'an object of settings, as {"learning_rate": 1e-4}'
