"""The embedded default: small, stock; and what lies beside it: AltCLIP, SD-mini and the bridge between them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import AltCLIPModel

from altdiffusion import AltCLIP, AltCLIPProcessor, AltDiffusionPipeline, PromptScorer, generate, swap_text_encoder
from altdiffusion.checkpoints.hub import mini_folder
from altdiffusion.cli.main import main
from altdiffusion.generation.settings import default_guidance_scale

pytestmark = pytest.mark.long

THINGS = {
    "a cat": "一只猫",
    "a banana": "一根香蕉",
    "a rocket": "火箭",
    "a tulip": "郁金香",
    "a pizza": "披萨",
    "a guitar": "一把吉他",
    "a panda": "一只熊猫",
    "a top hat": "礼帽",
}


@pytest.fixture(scope="module")
def mini():
    pipe = AltDiffusionPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def english(mini):
    """Images of THINGS from their English prompts, float (8, 64, 64, 3), 0 to 1."""
    return pictures(mini, THINGS)


@pytest.fixture(scope="module")
def drawn(mini, english, tmp_path_factory):
    """Paths of the same."""
    folder = tmp_path_factory.mktemp("drawn")
    for prompt, picture in zip(THINGS, mini.numpy_to_pil(english), strict=True):
        picture.save(folder / f"{prompt}.png")
    return {prompt: str(folder / f"{prompt}.png") for prompt in THINGS}


def seeded(count):
    return [torch.Generator().manual_seed(1) for _ in range(count)]


def pictures(pipe, prompts):
    return pipe(list(prompts), num_inference_steps=15, generator=seeded(len(prompts)), output_type="np").images


def nearest(ours, others):
    """For each of our images the number of the other that looks most like it."""
    return np.square(ours[:, None] - others[None]).mean((2, 3, 4)).argmin(1).tolist()


def test_every_part_is_float32_unless_asked_otherwise(mini):
    """It is stored in float16."""
    parts = [part for part in mini.components.values() if isinstance(part, torch.nn.Module)]
    assert {part.dtype for part in parts} == {torch.float32}
    assert AltDiffusionPipeline.from_pretrained(dtype=torch.bfloat16).unet.dtype == torch.bfloat16


def test_a_chinese_prompt_draws_what_the_english_one_draws(mini, english):
    chinese = pictures(mini, THINGS.values())
    assert nearest(chinese, english) == list(range(len(THINGS)))
    assert nearest(english, chinese) == list(range(len(THINGS)))


def test_background_is_the_one_that_was_asked_for(mini):
    red, blue = pictures(mini, ["红色背景上的猫", "a cat on a blue background"])
    assert red[:6].mean((0, 1)).argmax() == 0
    assert blue[:6].mean((0, 1)).argmax() == 2


def test_plain_diffusers_draws_the_same(mini):
    plain = StableDiffusionPipeline.from_pretrained(mini_folder())
    plain.set_progress_bar_config(disable=True)
    ours, theirs = pictures(mini, ["一只猫"]), pictures(plain, ["一只猫"])
    np.testing.assert_allclose(theirs, ours, atol=1e-3)


def test_sd_mini_reads_english_alone_and_by_the_bridge_chinese(mini):
    pipe = AltDiffusionPipeline.from_pretrained("sd-mini")
    pipe.set_progress_bar_config(disable=True)
    english, chinese = pictures(pipe, THINGS), pictures(pipe, THINGS.values())
    assert sum(found == i for i, found in enumerate(nearest(chinese, english))) <= 3
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    bridged = swap_text_encoder(pipe, bridge="mini")
    assert nearest(pictures(bridged, THINGS.values()), english) == list(range(len(THINGS)))
    assert nearest(pictures(bridged, THINGS), english) == list(range(len(THINGS)))
    assert all(torch.equal(value, before[name]) for name, value in bridged.unet.state_dict().items())


def test_generate_with_the_bridge(tmp_path):
    (picture,) = generate("一只猫", model="sd-mini", bridge="mini", seed=1, steps=2)
    assert (picture.settings.model, picture.settings.bridge) == ("sd-mini", "mini")
    assert picture.settings.guidance_scale == 4
    assert (
        main(["generate", "一只猫", "--model", "sd-mini", "--bridge", "mini", "--steps", "2", "--out", str(tmp_path)])
        == 0
    )


def test_the_seeds_snippet_on_mini(drawn):
    model, processor = AltCLIP.from_pretrained(), AltCLIPProcessor.from_pretrained()
    inputs = processor(text=list(THINGS.values()), images=Image.open(drawn["a cat"]), return_tensors="pt", padding=True)
    probabilities = model(**inputs).logits_per_image.softmax(dim=1)
    assert probabilities.argmax() == 0


def test_plain_transformers_loads_its_altclip():
    plain, ours = AltCLIPModel.from_pretrained(mini_folder() / "altclip"), AltCLIP.from_pretrained()
    assert all(
        torch.equal(value, ours.state_dict()[name].to(value.dtype)) for name, value in plain.state_dict().items()
    )


def test_every_picture_ranks_first_for_its_own_prompt_in_chinese(drawn):
    scores = PromptScorer.from_pretrained(device="cpu").score(list(drawn.values()), THINGS.values())
    assert scores.argmax(0).tolist() == scores.argmax(1).tolist() == list(range(len(THINGS)))


def test_score_on_the_command_line(drawn, capsys):
    assert main(["score", drawn["a cat"], drawn["a panda"], "--prompt", "猫", "--prompt", "熊猫", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["results"]
    assert first["scores"][0] > first["scores"][1]
    assert second["scores"][1] > second["scores"][0]


def test_it_is_small_and_says_nothing_of_the_machine_that_built_it():
    files = [file for file in mini_folder().rglob("*") if file.is_file()]
    beside = [file for file in files if file.relative_to(mini_folder()).parts[0] in ("sd-mini", "bridge")]
    assert sum(file.stat().st_size for file in set(files) - set(beside)) < 30e6
    assert sum(file.stat().st_size for file in files) < 50e6
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".ckpt")]
    index = json.loads((mini_folder() / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    for file in files:
        if file.suffix == ".json" and file.name != "tokenizer.json":
            assert str(Path.home()) not in file.read_text()
            assert "_name_or_path" not in json.loads(file.read_text()), file


@pytest.mark.parametrize(("model", "scale"), [(None, 4), ("mini", 4), ("sd-mini", 4), ("BAAI/AltDiffusion-m9", 7.5)])
def test_the_embedded_models_are_guided_less(model, scale):
    assert default_guidance_scale(model) == scale
    assert default_guidance_scale(AltDiffusionPipeline.from_pretrained()) == 4
