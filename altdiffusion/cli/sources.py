"""What a command needs is looked for before the libraries load, which takes seconds. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic.fields import FieldInfo

from altdiffusion.checkpoints import hub
from altdiffusion.errors import InputError
from altdiffusion.files import local_path
from altdiffusion.settings import Settings, about_of, flag_of


def missing(
    cls: type[Settings], values: Mapping[str, Any], named: Callable[[str, FieldInfo], str] = flag_of
) -> list[str]:
    """A line for each file and model that can't be there, of the fields that say what `source` they have.

    named: what a field is called in it.
    """
    problems = []
    for name, field in cls.model_fields.items():
        check, value = CHECKS.get(about_of(field).get("source", "")), values.get(name)
        if check is None or value in (None, "none"):
            continue
        for word in value if isinstance(value, list) else [value]:
            try:
                check(str(word))
            except InputError as error:
                problems.append(f"{named(name, field)}: {error}")
    return problems


def check_some(names: Iterable[str], check: Callable[[str], None]) -> None:
    """Raise InputError if not one of these is there. If some are, the command does those, and names the others."""
    problems = []
    for name in names:
        try:
            return check(name)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("; ".join(problems))


def check_model(name: str) -> None:
    """Raise InputError for what is neither here nor an id on the hub, and for an empty folder."""
    path = local_path(name)
    if path.is_dir() and not any(path.iterdir()):
        raise InputError(f"{name} is an empty folder: expected a model's")
    if path.exists() or not hub.is_hub_id(name):
        hub.resolve(name)


def check_model_with_parts(name: str) -> None:
    """The same for a model and its parts, as the page's owner names them."""
    from altdiffusion.web.model_entry import parse_entry

    entry = parse_entry(name)
    check_model(entry.name)
    for part, value in entry.parts.items():
        for each in value if isinstance(value, list) else [value]:
            (check_lora if part == "lora" else check_model)(each)


def check_system(name: str) -> None:
    """The same for a system to evaluate, where FAMILY:NAME is that family's to judge."""
    if ":" not in name:
        check_model(name.partition("+")[0])


def check_lora(name: str) -> None:
    """The same for a LoRA with its weight."""
    from altdiffusion.generation import loras

    loras.check_lora(loras.parse_lora(name))


def check_image(name: str) -> None:
    """Raise InputError where no file is."""
    path = local_path(name)
    if not path.is_file():
        raise InputError(f"{name} is a folder: expected an image" if path.is_dir() else f"no such image: {name}")


def check_path(name: str) -> None:
    """Raise InputError where neither file nor folder is."""
    if not local_path(name).exists():
        raise InputError(f"there is no {name}")


def check_data(name: str) -> None:
    """Raise InputError where a pattern stands for nothing."""
    from altdiffusion.data.open_tables import check_there

    check_there([name])


def check_scheduler(name: str) -> None:
    """Raise InputError for what is no scheduler."""
    from altdiffusion.generation.schedulers import parse_scheduler

    parse_scheduler(name)


# What isn't here, such as score's images, is checked by the command, which does without some of them.
CHECKS: dict[str, Callable[[str], None]] = {
    "model": check_model,
    "model_with_parts": check_model_with_parts,
    "lora": check_lora,
    "image": check_image,
    "path": check_path,
    "data": check_data,
    "scheduler": check_scheduler,
}
