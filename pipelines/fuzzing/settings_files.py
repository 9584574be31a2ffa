"""Parsers of small files: styles, settings, manifests, notes of LoRAs, calibrations."""

# ruff: noqa: PT018
from __future__ import annotations

import contextlib
import json
from functools import cache

import numpy as np
from fuzzing.file_parsers import encoded, folder, written
from fuzzing.inputs import Maker, corpus
from safetensors.numpy import save

from altdiffusion.altclip.calibration import ABOUT, LEVELS, TENSORS, Calibration
from altdiffusion.checkpoints.textual_inversions import read_notes
from altdiffusion.errors import InputError
from altdiffusion.generation import lora_triggers as triggers
from altdiffusion.generation.manifest import NAME, Manifest
from altdiffusion.generation.settings import ImageSettings
from altdiffusion.generation.styles import apply_styles, read_styles
from altdiffusion.settings import read_settings


def some_styles(make: Maker) -> bytes:
    return encoded(
        make.text(
            corpus("styles"),
            ["[ink]", "\n", "prompt = ", '"', "{prompt}", "negative_prompt = ", "name = [", "]", "'", "=", "."],
        )
    )


def styles(content: bytes) -> None:
    for style in read_styles(written("styles.toml", content)).values():
        assert apply_styles([style], "a cat")[0].count("a cat") == 1


def a_config(make: Maker) -> tuple[str, bytes]:
    return make.one([".toml", ".json"]), encoded(
        make.text(corpus("configs"), ["steps", " = ", "\n", "[", "]", '"', "1e-4", "true", "{", ":", "}"])
    )


def config(given: tuple[str, bytes]) -> None:
    ending, content = given
    read_settings(ImageSettings, {"prompt": ["a"]}, written(f"config{ending}", content))


def a_manifest(make: Maker) -> bytes:
    words = [
        '{"seed": 1, "planned": ',
        '{"a": "b.png"}',
        "}",
        "\n",
        '"key"',
        '"image"',
        '"filtered"',
        '"settings"',
        ": ",
        "null",
        "../x.png",
        "C:x.png",
    ]
    return encoded(make.text(corpus("manifests"), words))


def manifest(content: bytes) -> None:
    written(f"run/{NAME}", content)
    read = Manifest(folder() / "run")
    for key, name in read.planned.items():
        assert (folder() / "run" / name).parent == folder() / "run", "no name leads out of the folder"
        assert ":" not in name and "\\" not in name, "nor out of it on Windows"
        read.done(key)
    assert read.seed is None or isinstance(read.seed, int)


@cache
def lora_seeds() -> list[bytes]:
    tensors = {"lora_unet_x.lora_down.weight": np.zeros((1, 2), np.float32)}
    frequency = json.dumps({"10_sks dog": {"sks": 3, "a": 1}})
    return [save(tensors, {"ss_tag_frequency": frequency, "ss_dataset_dirs": json.dumps({"10_sks dog": {"img_count": 3}})}),
            save(tensors, {"modelspec.trigger_phrase": "sks dog, (red:1.2) <lora:x:1>"}), save(tensors)]  # fmt: skip


def a_lora_file(make: Maker) -> bytes:
    if make.chance(0.5):
        return make.data(lora_seeds(), [b'"__metadata__":{', b'"', b"{", b"}", b"[", b"(" * 50])
    text = make.text(corpus("lora_metadata"), ['{"', '"', "10_sks dog", ":", "{", "}", "1", "(", ")", "<lora:"])
    names = ["modelspec.trigger_phrase", "ss_tag_frequency", "ss_dataset_dirs", "other"]
    header = json.dumps({"__metadata__": {make.one(names): text, make.one(names): make.value()}}).encode()
    return len(header).to_bytes(8, "little") + header


def lora_triggers(content: bytes) -> None:
    path = written("lora.safetensors", content)
    written("lora.json", content[8:])
    words = triggers.trigger_words(path)
    assert len(words) <= 50 and all(1 < len(word) <= 75 for word in words)


def inversion_notes(content: bytes) -> None:
    assert all(isinstance(note, str) for note in read_notes(written("word.safetensors", content)).values())


@cache
def calibration_seeds() -> list[bytes]:
    rising = np.linspace(0, 1, len(LEVELS)).astype(np.float16)
    return [save({"wrong": np.stack([rising, rising]), "right": rising[None], "logistic": np.ones((1, 2), np.float32)})]


def a_calibration(make: Maker) -> tuple[bytes, bytes]:
    words = [
        '"format": 1',
        ",",
        '"languages": {',
        '"en"',
        '{"texts": 100',
        '"told_apart": 0.9',
        "}",
        '"weights": [',
        "1.0",
        "]",
        '"made_from": "x"',
    ]
    about = encoded(make.text(corpus("calibrations"), words))
    return about, make.data(calibration_seeds()) if make.chance(0.3) else calibration_seeds()[0]


def calibration(given: tuple[bytes, bytes]) -> None:
    written(f"model/{ABOUT}", given[0])
    written(f"model/{TENSORS}", given[1])
    read = Calibration.load(folder() / "model")
    if read is not None:
        read.fits([1.0, 2.0])
        for language in read.languages:
            read.find(language)
            for kind in ("percentile", "match_percentile", "probability"):
                with contextlib.suppress(InputError):
                    assert read.convert(np.zeros(2), language, kind).shape == (2,)  # type: ignore[arg-type]
