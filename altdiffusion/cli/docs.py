"""`python -m altdiffusion.cli.docs > docs/cli.md`: what --help says of every command, as one page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from altdiffusion.cli.help import page, root_page
from altdiffusion.cli.main import COMMANDS, build_app

if TYPE_CHECKING:
    from cyclopts import App

_ABOUT = """\
# The command line

Written by `python -m altdiffusion.cli.docs`; a test compares. N is a whole number, X a number, `...` one or more values, and
`none` is a value where it is the default. Exit status: 0 done; 2 wrong input, in one line on standard error that names all
that is wrong; 130 interrupted, what was finished is kept; 1 anything else. After `--` a prompt may begin with `-`.
"""


def document() -> str:
    """The whole page, in Markdown."""
    parts = [_ABOUT, _block(root_page(COMMANDS))]
    for words, app in _commands(["altdiffusion"], build_app()):
        parts += [f"## {' '.join(words)}\n", _block(page(words, app))]
    return "\n".join(parts)


def _commands(words: list[str], app: App) -> Iterator[tuple[list[str], App]]:
    for name in app:
        if not name.startswith("-"):
            inner = [*words, name]
            if app[name].default_command is None:
                yield from _commands(inner, app[name])
            else:
                yield inner, app[name]


def _block(text: str) -> str:
    return f"```text\n{text}\n```\n"


if __name__ == "__main__":
    print(document(), end="")
