"""Presets of `altdiffusion train bridge`: everything but the languages, for a published Stable Diffusion. No torch.

They are declared in bridge_presets.toml.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from altdiffusion.checkpoints.hub import LANGUAGES
from altdiffusion.data import hub_datasets
from altdiffusion.errors import InputError
from altdiffusion.files import packaged_toml

ENGLISH = "en"
GATES = ("minimum_retrieval", "maximum_prediction_error")  # settings


@cache
def declared() -> dict[str, Any]:
    """The TOML file."""
    return packaged_toml("altdiffusion.training", "bridge_presets.toml")


def fill_in(preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, over the settings of a preset for its languages (by default all of the first text encoder's).

    English is added to them, as a bridge must go on reading it.
    Raises InputError for an unknown preset, and for a language that it has no data or no text encoder for.
    """
    presets = declared()["presets"]
    if preset not in presets:
        raise InputError(f"--preset: expected one of {', '.join(presets)}, got {preset!r}")
    asked = given.get("languages") or LANGUAGES[_name(declared()["text_encoders"][0])].split()
    weighted = [asked] if isinstance(asked, str) else list(map(str, asked))
    languages = [language.partition("=")[0] for language in weighted]
    if ENGLISH not in languages:
        weighted = [ENGLISH, *weighted]
    filled = {**declared()["settings"], **presets[preset].get("settings", {}), "model": presets[preset]["model"]}
    if not given.get("text_encoder"):
        filled["text_encoder"] = _text_encoder(preset, languages)
    if not given.get("train_data"):
        _check(preset, languages, {language for data in declared()["data"] for language in data["configs"]})
        filled["train_data"] = _names(languages, "train")
        filled["validation_data"] = _names(languages, "validation")
    elif not given.get("validation_data"):  # gates are judged by it
        filled = {name: value for name, value in filled.items() if name not in GATES}
    return {**filled, **given, "languages": weighted}


def licence_of_data(name: str) -> str | None:
    """What is known of the licence of data, by its name in `train_data`; None where nothing is."""
    if not hub_datasets.is_hub_name(name):
        return None
    repository = hub_datasets.parse(name).repository
    return next((data["licence"] for data in declared()["data"] if data["name"] == repository), None)


def licence_of_model(model: str) -> str | None:
    """The licence of a preset's Stable Diffusion, by its id; None for others."""
    return next((each["licence"] for each in declared()["presets"].values() if each["model"] == model), None)


def _text_encoder(preset: str, languages: list[str]) -> str:
    encoders: list[str] = declared()["text_encoders"]
    for encoder in encoders:
        if set(languages) <= set(LANGUAGES[_name(encoder)].split()):
            return encoder
    _check(preset, languages, set(LANGUAGES[_name(encoders[-1])].split()))
    raise AssertionError


def _check(preset: str, languages: list[str], known: set[str]) -> None:
    if unknown := [language for language in languages if language not in {*known, ENGLISH}]:
        raise InputError(
            f"--languages {' '.join(unknown)}: preset {preset} has {' '.join(sorted({*known, ENGLISH}))}; for others name "
            "--train-data and --text-encoder"
        )


def _names(languages: list[str], split: str) -> list[str]:
    """The data sets of these languages that have a split for training or validation, language by language."""
    return [
        f"{hub_datasets.PREFIX}{data['name']}/{data['configs'][language]}:{data[split]}"
        for language in languages
        for data in declared()["data"]
        if language in data["configs"] and split in data
    ]


def _name(model: str) -> str:
    return model.rpartition("/")[2]
