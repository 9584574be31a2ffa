"""The page's sentences in English and in Chinese, from translations.toml, and the errors that speak both."""

from __future__ import annotations

from typing import Any, Literal

from altdiffusion.errors import InputError
from altdiffusion.files import packaged_toml

Language = Literal["en", "zh"]
LANGUAGES: dict[Language, str] = {"en": "English", "zh": "中文"}

_FILE = packaged_toml(__package__, "translations.toml")
TEXTS: dict[str, tuple[str, str]] = {key: (english, chinese) for key, (english, chinese) in _FILE["page"].items()}
GRADIO_ZH: dict[str, dict[str, str]] = _FILE["gradio_zh"]


def say(key: str, language: str = "en", **values: Any) -> str:
    """A sentence of TEXTS; any language but Chinese gets English."""
    text = TEXTS[key][1 if language == "zh" else 0]
    return text.format(**values) if values else text


class Refused(InputError):
    """A visitor's request that isn't granted. Its message is English; `said` has it in the page's languages. No path is in it."""

    def __init__(self, key: str, **values: Any) -> None:
        super().__init__(_filled(key, "en", values))
        self.key, self.values = key, values

    def said(self, language: str) -> str:
        return _filled(self.key, language, self.values)


def _filled(key: str, language: str, values: dict[str, Any]) -> str:
    """The sentence, with the name of a setting as the page calls it."""
    named = {"name": say(values["name"], language)} if values.get("name") in TEXTS else {}
    return say(key, language, **(values | named))
