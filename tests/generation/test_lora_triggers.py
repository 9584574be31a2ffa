"""Trigger words that LoRAs' files name, and that they stay literal where a bridge reads prompts."""

import json
import logging

import pytest
import torch
from helpers import loras
from helpers.bridges import readable, small_entrance_bridge
from safetensors.torch import load_file, save_file

from altdiffusion import swap_text_encoder
from altdiffusion.generation.lora_triggers import trigger_words
from altdiffusion.generation.loras import parse_lora
from altdiffusion.generation.parts import load_loras


def saved(path, metadata, sidecar=None):
    save_file({"x": torch.zeros(1)}, path, metadata={name: _text(value) for name, value in metadata.items()})
    if sidecar is not None:
        path.with_suffix(".json").write_text(_text(sidecar), encoding="utf-8")
    return path


def _text(value):
    return value if isinstance(value, str) else json.dumps(value)


def kohya(folder, tags, count):
    return {"ss_tag_frequency": {folder: tags}, "ss_dataset_dirs": {folder: {"n_repeats": 10, "img_count": count}}}


@pytest.mark.parametrize(
    ("metadata", "sidecar", "words"),
    [
        ({}, None, []),
        ({"modelspec.trigger_phrase": "sks style"}, None, ["sks style"]),
        ({"modelspec.trigger_phrase": " ohwx, 国风，ohwx "}, None, ["ohwx", "国风"]),
        ({}, {"activation text": "hatsune_miku \\(vocaloid\\), (sks:1.2) <lora:miku:0.8>"},
         ["hatsune_miku (vocaloid)", "sks"]),
        ({"modelspec.trigger_phrase": "sks"}, {"activation text": "ohwx", "preferred weight": 0.8}, ["sks", "ohwx"]),
        ({}, {"description": "of a cat"}, []),
        ({}, {"activation text": 3}, []),
        (kohya("10_sks dog", {"sks": 20, "dog": 19, "solo": 20}, 20), None, ["sks"]),
        (kohya("10_sks dog", {"sks dog": 20}, 20), None, ["sks dog"]),
        (kohya("5_miku", {"1girl": 20, "solo": 20, "miku": 12}, 20), None, []),
        (kohya("5_miku_2", {"miku": 20, "miku_2": 20}, 20), None, ["miku_2"]),
        ({"ss_tag_frequency": {"10_sks": {"sks": 20}}}, None, []),  # of how many images is not known
        ({"ss_tag_frequency": "no JSON", "ss_dataset_dirs": "[]"}, None, []),
        ({"ss_tag_frequency": [1], "ss_dataset_dirs": {"10_sks": 3}}, None, []),
        ({"modelspec.trigger_phrase": "x, " + 80 * "y"}, None, []),
        ({"modelspec.trigger_phrase": ",".join(f"w{number}" for number in range(99))}, None,
         [f"w{number}" for number in range(50)]),
    ],
)  # fmt: skip
def test_triggers_are_what_a_file_or_its_sidecar_names(tmp_path, metadata, sidecar, words):
    assert trigger_words(saved(tmp_path / "a.safetensors", metadata, sidecar)) == words


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b"\x09\0\0\0\0\0\0\0{}"])
def test_a_damaged_file_names_none(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert trigger_words(path) == []
    assert trigger_words(path.with_suffix(".bin")) == []


@pytest.mark.parametrize("content", ["{", "\udcff"])
def test_a_sidecar_that_cannot_be_read_is_told(tmp_path, caplog, content):
    path = saved(tmp_path / "a.safetensors", {"modelspec.trigger_phrase": "sks"})
    path.with_suffix(".json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert trigger_words(path) == ["sks"]
    assert "a.json can't be read" in caplog.text


def test_a_loaded_loras_triggers_go_past_the_bridge_and_are_told(published, tmp_path, caplog):
    pipe = readable()
    path = loras.save_kohya(tmp_path / "ink.safetensors", pipe.unet, 1, clip=False)
    save_file(load_file(path), path, metadata={"modelspec.trigger_phrase": "sks"})
    pipe.load_lora_weights(str(path), adapter_name="before")
    assert "trigger words" not in caplog.text
    pipe = swap_text_encoder(pipe, published("m9"), bridge=small_entrance_bridge(pipe))
    assert pipe.tokenizer("sks风格的猫").input_ids[1] < 0
    with caplog.at_level(logging.WARNING):
        load_loras(pipe, [parse_lora(str(path))])
    assert "LoRA ink: its trigger words stay as they are in prompts: sks" in caplog.text
    literal = readable().tokenizer("sks", add_special_tokens=False).input_ids
    assert pipe.tokenizer("sks风格的猫").input_ids[1 : 1 + len(literal)] == literal
