"""The embedded default: small, stock, and the same thing asked for in another language is the same picture's kin."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from altdiffusion import AltDiffusionPipeline
from altdiffusion.sources import mini_folder

THINGS = {
    "a cat": "一只猫",
    "a banana": "一根香蕉",
    "a rocket": "火箭",
    "a tulip": "郁金香",
    "a bus": "公交车",
    "a pizza": "披萨",
    "a guitar": "一把吉他",
    "a panda": "一只熊猫",
}


@pytest.fixture(scope="module")
def mini():
    pipe = AltDiffusionPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pictures(pipe, prompts):
    generators = [torch.Generator().manual_seed(1) for _ in prompts]
    return pipe(list(prompts), num_inference_steps=15, generator=generators, output_type="np").images


def test_every_part_is_float32_unless_asked_otherwise(mini):
    """It is stored in float16."""
    parts = [part for part in mini.components.values() if isinstance(part, torch.nn.Module)]
    assert {part.dtype for part in parts} == {torch.float32}
    assert AltDiffusionPipeline.from_pretrained(dtype=torch.bfloat16).unet.dtype == torch.bfloat16


def test_a_chinese_prompt_draws_what_the_english_one_draws(mini):
    english, chinese = pictures(mini, THINGS), pictures(mini, THINGS.values())
    distance = np.square(english[:, None] - chinese[None]).mean((2, 3, 4))
    assert distance.argmin(0).tolist() == list(range(len(THINGS)))
    assert distance.argmin(1).tolist() == list(range(len(THINGS)))


def test_background_is_the_one_that_was_asked_for(mini):
    red, blue = pictures(mini, ["红色背景上的猫", "a cat on a blue background"])
    assert red[:6].mean((0, 1)).argmax() == 0
    assert blue[:6].mean((0, 1)).argmax() == 2


def test_plain_diffusers_draws_the_same(mini):
    plain = StableDiffusionPipeline.from_pretrained(mini_folder())
    plain.set_progress_bar_config(disable=True)
    ours, theirs = pictures(mini, ["一只猫"]), pictures(plain, ["一只猫"])
    np.testing.assert_allclose(theirs, ours, atol=1e-3)


def test_it_is_small_and_says_nothing_of_the_machine_that_built_it():
    files = [file for file in mini_folder().rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 30e6
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".ckpt")]
    index = json.loads((mini_folder() / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    for file in files:
        if file.suffix == ".json" and file.name != "tokenizer.json":
            assert str(Path.home()) not in file.read_text()
            assert "_name_or_path" not in json.loads(file.read_text()), file
