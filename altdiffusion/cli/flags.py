"""Flags read off a class of settings: one for each field, with its help, default and choices.

    class ScoreSettings(Settings):
        images: list[str] = setting(..., "image files, or folders of them", positional="IMAGE", source="images")
        sort: bool = setting(False, "best image first")

    @command(ScoreSettings)
    def score(settings: ScoreSettings) -> None: ...

cyclopts only splits and completes the words; `read_settings` validates them, so that all errors appear together, in one line.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from cyclopts import Parameter, Token
from pydantic import SkipValidation
from pydantic.fields import FieldInfo

from altdiffusion.cli.sources import missing
from altdiffusion.errors import InputError
from altdiffusion.files import local_path
from altdiffusion.settings import Settings, about_of, choices_of, flag_of, is_list, read_settings, suggest

S = TypeVar("S", bound=Settings)


class Call(NamedTuple):
    """A command with what was asked of it."""

    run: Callable[[Any], None]
    settings: Any


def command(cls: type[S], config: bool = False) -> Callable[[Callable[[S], None]], Callable[..., Call]]:
    """Makes a function of settings a command that cyclopts can register. config: whether it takes `--config FILE`."""

    def wrap(run: Callable[[S], None]) -> Callable[..., Call]:
        def read(*words: Any, unknown: Sequence[str] = (), **typed: Any) -> Call:
            return Call(run, read_flags(cls, words, typed, unknown))

        read.__signature__ = _signature(cls, config)  # type: ignore[attr-defined]
        read.__annotations__ = {}  # they stand in the signature
        read.__name__ = run.__name__
        read.__doc__ = run.__doc__ or cls.__doc__
        read.settings_class = cls  # type: ignore[attr-defined]
        read.takes_config = config  # type: ignore[attr-defined]
        return read

    return wrap


def read_flags(cls: type[S], words: Sequence[Any], typed: Mapping[str, Any], unknown: Sequence[str]) -> S:
    """The settings. words: those without a flag; a list each where there may be any number. unknown: flags that there aren't.

    Raises InputError, naming unknown flags, wrong values, and files and models that aren't there.
    """
    fields = cls.model_fields
    names = [name for name, field in fields.items() if is_positional(field)]
    if names and is_list(fields[names[-1]]):
        single = len(names) - 1  # words of one value each before those
        words = [*words[:single], *[None] * (single - len(words)), [each for group in words[single:] for each in group]]
        words[-1] = words[-1] or None
    given = {**typed, **dict(zip(names, words, strict=False))}
    # an empty list is a bare switch
    flags = {name: "true" if value == [] else value for name, value in given.items() if value is not None}
    config = flags.pop("config", None)
    known = [flag_of(name, field) for name, field in fields.items() if not is_positional(field)]
    problems = [f"{flag} is no option{suggest(flag, [*known, '--config'])}" for flag in unknown]
    values: Mapping[str, Any] = flags
    try:
        settings = read_settings(cls, flags, local_path(config) if config else None)
        values = dict(settings)
    except InputError as error:
        problems.append(str(error))
    problems += [
        f"{flag_of(name, fields[name])}: {_NO_TEXT}" for name in values if _is_no_text(fields[name], values[name])
    ]
    if problems := problems + missing(cls, values):
        raise InputError("; ".join(problems))
    return settings


_NO_TEXT = "these bytes are no UTF-8: run it under a UTF-8 locale (LC_ALL=C.UTF-8), in a terminal that sends UTF-8"


def _is_no_text(field: FieldInfo, value: Any) -> bool:
    """Whether words that aren't a file's name hold bytes that Python couldn't decode."""
    if about_of(field).get("source") or not isinstance(value, str | list):
        return False
    return any("\udc80" <= char <= "\udcff" for word in ([value] if isinstance(value, str) else value) for char in word)


def is_positional(field: FieldInfo) -> bool:
    """Whether it is a word of the command line without a flag."""
    return "positional" in about_of(field)


def is_switch(field: FieldInfo) -> bool:
    """Whether the flag needs no value."""
    return bool in (field.annotation, *typing.get_args(field.annotation))


def metavar_of(name: str, field: FieldInfo) -> str:
    """What stands for the value in the help: N, X, PATH, a|b|c, or the last word of the name."""
    hints = {int: "N", float: "X", Path: "PATH"}
    kind = next((hints[hint] for hint in (field.annotation, *typing.get_args(field.annotation)) if hint in hints), None)
    metavar = about_of(field).get("metavar") or "|".join(choices_of(field)) or kind or name.split("_")[-1].upper()
    return f"{metavar}..." if is_list(field) and not about_of(field).get("repeat") else metavar


def _signature(cls: type[Settings], config: bool) -> inspect.Signature:
    fields = cls.model_fields
    has_words = any(map(is_positional, fields.values()))
    parameters = [_parameter(name, field, has_words) for name, field in fields.items()]
    keyword = inspect.Parameter.KEYWORD_ONLY
    if config:
        annotation = _annotated(Path, name="--config", converter=_last, allow_repeating=True, help="file of settings")
        parameters.append(inspect.Parameter("config", keyword, default=None, annotation=annotation))
    unparsed = Annotated[Any, Parameter(parse=False)]
    parameters.append(inspect.Parameter("unknown", keyword, default=(), annotation=unparsed))
    return inspect.Signature(sorted(parameters, key=lambda parameter: parameter.kind))


def _parameter(name: str, field: FieldInfo, has_words: bool) -> inspect.Parameter:
    """For cyclopts: a type that it can complete, and a converter that leaves everything as it was typed."""
    hint = _completion_type(field)
    about: dict[str, Any] = {"help": field.description, "converter": _all if is_list(field) else _last}
    if is_positional(field):
        kind = inspect.Parameter.VAR_POSITIONAL if is_list(field) else inspect.Parameter.POSITIONAL_ONLY
        default = inspect.Parameter.empty if is_list(field) else None
        return inspect.Parameter(name, kind, default=default, annotation=_annotated(hint, **about))
    about |= {"name": flag_of(name, field), "allow_repeating": True, "negative": ()}
    if is_switch(field) and has_words:  # beside positional words, `true` would be one of them
        hint = bool
    elif is_switch(field):  # `--resume`, `--resume false`
        hint, about["consume_multiple"] = _list_of(Literal["true", "false"]), (0, 1)
    elif is_list(field):
        hint = _list_of(hint)
        if not about_of(field).get("repeat"):
            about["consume_multiple"] = (1, None)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=None, annotation=_annotated(hint, **about))


def _annotated(hint: Any, **about: Any) -> Any:
    return Annotated[hint, SkipValidation, Parameter(**about)]


def _list_of(hint: Any) -> Any:
    return list[hint]


def _completion_type(field: FieldInfo) -> Any:
    """What the shell completes a value with: choices, paths, or nothing."""
    if choices := choices_of(field):
        return Literal[choices]
    is_path = Path in (field.annotation, *typing.get_args(field.annotation)) or "source" in about_of(field)
    return Path if is_path else str


def _all(_: Any, tokens: Sequence[Token]) -> list[str]:
    return [token.value for token in tokens]


def _last(_: Any, tokens: Sequence[Token]) -> str:
    """A flag that is given twice counts as it is given last."""
    return tokens[-1].value
