"""docs/layout.md: every module of the library with the first line of its docstring, and the layers of imports.

    PYTHONPATH=tests python -m helpers.layout_page

Modules are parsed, not imported, so this takes a moment.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "layout.md"
_HEAD = """# Layout

<!-- Generated from the code by `PYTHONPATH=tests python -m helpers.layout_page`: edit docstrings, not this file. -->

Every module of `altdiffusion/`, with the first line of its docstring. `tests/` mirrors the folders.

## Imports go down

A module imports from the lines below its own; folders on one line never import each other. `lint-imports` checks it
(the contract is in [pyproject.toml](../pyproject.toml)).
"""


def page() -> str:
    """The whole of docs/layout.md."""
    layers = "\n".join(layers_of(ROOT / "pyproject.toml"))
    sections = [f"{_HEAD}\n```\n{layers}\n```"]
    for folder, title in _folders():
        heading = f"## `{folder.relative_to(ROOT).as_posix()}/`"
        sections.append("\n\n".join(part for part in (heading, title, _table(folder)) if part))
    return "\n\n".join(sections) + "\n"


def layers_of(pyproject: Path) -> list[str]:
    """The layers of the import contract, highest first."""
    contracts = tomllib.loads(pyproject.read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    return next(list(contract["layers"]) for contract in contracts if contract["type"] == "layers")


def first_line(module: Path) -> str:
    """Of a module's docstring; empty where there is none."""
    docstring = ast.get_docstring(ast.parse(module.read_text("utf-8")))
    return docstring.splitlines()[0] if docstring else ""


def _folders() -> Iterator[tuple[Path, str]]:
    """Every folder of the library with what its `__init__.py` says, then those of the recipes."""
    for folder in _with_modules(ROOT / "altdiffusion"):
        package = folder / "__init__.py"
        yield folder, first_line(package) if package.exists() else ""
    recipes, *parts = _with_modules(ROOT / "pipelines")
    yield recipes, "Recipes to read, and to run by path. The library doesn't import them."
    for folder in parts:
        yield folder, ""


def _with_modules(root: Path) -> list[Path]:
    """The folder and those below it that hold modules."""
    return sorted({module.parent for module in root.rglob("*.py")})


def _table(folder: Path) -> str:
    """The folder's own modules, one a row; empty where it holds only folders."""
    modules = sorted(module for module in folder.glob("*.py") if module.name != "__init__.py")
    rows = [
        f"| [{module.name}]({'../' + module.relative_to(ROOT).as_posix()}) | {first_line(module).replace('|', chr(92) + '|')} |"
        for module in modules
    ]
    return "\n".join(["| file | |", "|---|---|", *rows]) if rows else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
