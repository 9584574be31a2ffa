"""What --help prints, and docs/cli.md shows: a command's example, and its flags in groups.

Written here, and not by cyclopts, as its pages need rich, which takes longer to import than Python to start.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts import App
    from pydantic.fields import FieldInfo

    from altdiffusion.cli.main import Command

WIDTH = 110
_COLUMN = 28  # where the second one begins

Rows = list[tuple[str, str]]


def root_page(commands: Iterable[Command]) -> str:
    """The commands, in their groups."""
    groups: dict[str, Rows] = {}
    for command in commands:
        groups.setdefault(command.group, []).append((command.name, command.help))
    groups["Options"] = [
        ("--help, -h", "of this program, or of a command: altdiffusion generate --help"),
        ("--version", "of this program"),
        ("--install-completion", "complete commands and flags in this shell"),
    ]
    about = "Stable Diffusion in Chinese, English and sixteen more languages."
    return _page("altdiffusion COMMAND ...", f'{about}\n\naltdiffusion generate "一只猫" "a cat"', groups)


def page(words: Sequence[str], app: App) -> str:
    """Of a command, or of a group of commands. words: what is typed for it."""
    if app.default_command is not None:
        return _command_page(" ".join(words), app.default_command)
    rows = [(name, _first_line(app[name])) for name in app if not name.startswith("-")]
    return _page(" ".join([*words, "COMMAND ..."]), app.help, {"Commands": rows})


def _first_line(app: App) -> str:
    return app.help.strip().splitlines()[0]


def _command_page(name: str, read: Any) -> str:
    """read: what `flags.command` has made."""
    from altdiffusion.cli.flags import is_positional
    from altdiffusion.settings import flag_of

    groups: dict[str, Rows] = {"Arguments": []}
    usage, cls = [name], read.settings_class
    if read.takes_config:
        about = "file of settings: TOML, or the settings.json of a training; flags win over it"
        groups["Options"] = [("--config PATH", about)]
    owners = {field_name: _owner(cls, field_name) for field_name in cls.model_fields}
    for field_name in sorted(owners, key=lambda field_name: cls.__mro__.index(owners[field_name])):
        field = cls.model_fields[field_name]
        if is_positional(field):
            word = flag_of(field_name, field) + ("..." if str(field.annotation).startswith("list") else "")
            usage.append(word if field.is_required() else f"[{word}]")
            groups["Arguments"].append((word, field.description or ""))
        else:
            title = vars(owners[field_name]).get("group", "Options")
            groups.setdefault(title, []).append((_names(field_name, field), _about(field)))
    return _page(" ".join([*usage, "[OPTIONS]"]), read.__doc__, groups)


def _page(usage: str, about: str, groups: dict[str, Rows]) -> str:
    """about: what it does, in a paragraph, and the lines of an example."""
    text, *examples = inspect.cleandoc(about).split("\n\n")
    blocks = [f"Usage: {usage}", text]
    blocks += ["\n".join([f"{title}:", *map(_row, rows)]) for title, rows in groups.items() if rows]
    blocks += ["Example:\n" + textwrap.indent(example, "  ") for example in examples]
    return "\n\n".join(blocks)


def _row(row: tuple[str, str]) -> str:
    name, about = row
    indent = " " * _COLUMN
    lines = textwrap.wrap(about, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    first = f"  {name}"
    if len(first) > _COLUMN - 2 or not lines:
        return "\n".join([first, *lines])
    return "\n".join([first + lines[0][len(first) :], *lines[1:]])


def _owner(cls: type, field_name: str) -> type:
    """The first class that has the field."""
    return next(base for base in reversed(cls.__mro__) if field_name in getattr(base, "model_fields", {}))


def _names(field_name: str, field: FieldInfo) -> str:
    from altdiffusion.cli.flags import is_switch, metavar_of
    from altdiffusion.settings import flag_of

    flag = flag_of(field_name, field)
    return flag if is_switch(field) else f"{flag} {metavar_of(field_name, field)}"


def _about(field: FieldInfo) -> str:
    """The help, the range where it is short, and the default."""
    from altdiffusion.settings import range_of

    default, limits = field.get_default(call_default_factory=True), range_of(field)
    about, *default_in_words = (field.description or "").partition("(default")
    about = "; ".join(filter(None, [about.strip(), limits if len(limits) < 20 else ""]))
    if field.is_required():
        return f"{about} (must be given)"
    if default is None or default is False or default in ("", []):
        return " ".join(filter(None, [about, "".join(default_in_words)]))
    return f"{about} (default: {' '.join(default) if isinstance(default, list) else default})"
