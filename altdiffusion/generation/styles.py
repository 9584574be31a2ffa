"""Named styles: texts that stand around a prompt, from a TOML file. styles.toml beside this module is the default one.

    prompt, negative_prompt = apply_styles(find_styles(read_styles(), ["ink"]), "一只猫")

Light on purpose: no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from altdiffusion.errors import InputError
from altdiffusion.settings import Settings, setting, suggest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLACE = "{prompt}"
DEFAULT_STYLES = Path(__file__).parent / "styles.toml"


class Style(Settings):
    """A table of the file; its name there is what the API calls it."""

    name: list[str] = setting([], "what the page calls it: in English, in Chinese")
    prompt: str = setting(PLACE, "the prompt in this style; {prompt} is the place of what is written")
    negative_prompt: str = setting("", "what comes after the negative prompt")

    def problems(self) -> list[str]:
        problems = []
        if self.prompt.count(PLACE) != 1:
            problems.append(f"prompt: expected {PLACE} once, got {self.prompt!r}")
        if len(self.name) not in (0, 2):
            problems.append(f'name: expected ["English", "中文"], got {self.name}')
        return problems


def read_styles(path: Path | None = None) -> dict[str, Style]:
    """The styles in a file, in its order; None: the default ones. Raises InputError, one line with all that is wrong."""
    path = path or DEFAULT_STYLES
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--styles {path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"--styles {path} is no TOML ({error}): expected tables as in {DEFAULT_STYLES}") from None
    styles, problems = {}, []
    for name, table in tables.items():
        try:
            if not isinstance(table, dict):
                raise InputError(f"expected a table [{name}], got {table!r}")
            styles[name] = Style(**table)
        except InputError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise InputError(f"--styles {path}: {'; '.join(problems)}")
    return styles


def find_styles(styles: Mapping[str, Style], names: Iterable[str]) -> list[Style]:
    """The styles of these names. Raises InputError for one that isn't there."""
    for name in names:
        if name not in styles:
            raise InputError(
                f"{name!r} is no style{suggest(name, styles) or ': expected ' + (', '.join(styles) or 'none, the file has none')}"
            )
    return [styles[name] for name in names]


def apply_styles(styles: Iterable[Style], prompt: str, negative_prompt: str = "") -> tuple[str, str]:
    """Prompt and negative prompt in each of these styles, the first one innermost."""
    for style in styles:
        before, _, after = style.prompt.partition(PLACE)
        prompt = f"{before}{prompt}{after}"
        negative_prompt = ", ".join(text for text in (negative_prompt, style.negative_prompt) if text.strip())
    return prompt, negative_prompt
