"""Settings in a PNG: what goes in comes out, ours and the web UIs'."""

import shlex
import signal

import pytest
from PIL import Image

from altdiffusion import InputError
from altdiffusion.cli.main import main
from altdiffusion.generation import generate as generation
from altdiffusion.generation.infotext import from_infotext, open_info, png_info, to_command, to_infotext
from altdiffusion.generation.settings import ImageSettings

FULL = ImageSettings(
    prompt="一只猫，黑暗精灵公主",
    negative_prompt="模糊, 低质量",
    steps=25,
    scheduler="DDIM",
    guidance_scale=7.5,
    seed=0,
    width=64,
    height=128,
    model="BAAI/AltDiffusion-m9",
    strength=0.8,
    init_image="my, odd: name.png",
    mask='quo"te.png',
    lora="a b.safetensors",
    dtype="float16",
    allow_pickle=True,
)


@pytest.mark.parametrize(
    "settings",
    [
        FULL,
        ImageSettings(prompt="a cat", steps=1, seed=7),
        ImageSettings(prompt="two\nlines", negative_prompt="and\nmore", steps=2),
        ImageSettings(prompt="ends in a break\n", steps=2),
        ImageSettings(prompt="Steps: 3, Sampler: x", steps=2),
        ImageSettings(prompt="a\nNegative prompt: b", negative_prompt="c", steps=2),
        ImageSettings.model_construct(prompt="", negative_prompt="only this", steps=2),
        ImageSettings(prompt="قطة 🐈 \\ \" ' $(rm)", steps=2),
    ],
    ids=range(8),
)
def test_infotext_gives_the_same_settings_back(settings):
    assert from_infotext(to_infotext(settings)) == settings


def test_infotext_has_the_web_uis_form():
    lines = to_infotext(FULL).split("\n")
    assert lines[0] == "一只猫，黑暗精灵公主"
    assert lines[1] == "Negative prompt: 模糊, 低质量"
    assert lines[2].startswith(
        "Steps: 25, Sampler: DDIM, CFG scale: 7.5, Seed: 0, Size: 64x128, Model: BAAI/AltDiffusion-m9"
    )


def test_a_web_uis_infotext_is_read():
    text = (
        "masterpiece, (cat:1.2)\nNegative prompt: blurry\n"
        'Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 512x768, Model hash: abc, Lora hashes: "x: 1, y: 2"'
    )
    got = from_infotext(text)
    assert (got.prompt, got.negative_prompt) == ("masterpiece, (cat:1.2)", "blurry")
    assert (got.steps, got.scheduler, got.guidance_scale, got.seed) == (20, "Euler a", 7.0, 42)
    assert (got.width, got.height) == (512, 768)


@pytest.mark.parametrize("text", ["", "a cat", "Steps: many, Seed: x", 'Steps: 1, Model: "broken', "Size: 9x"])
def test_nonsense_is_no_error(text):
    assert isinstance(from_infotext(text), ImageSettings)


def test_png_keeps_chinese(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=png_info(FULL))
    assert b"iTXt" in (tmp_path / "x.png").read_bytes()
    assert open_info(tmp_path / "x.png") == FULL


def test_picture_without_settings_is_one_clear_line(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(InputError, match="no settings"):
        open_info(tmp_path / "x.png")


@pytest.mark.parametrize(
    ("text", "scheduler"),
    [
        ("Steps: 20, Sampler: DPM++ 2M Karras, Seed: 1", "DPM++ 2M Karras"),
        ("Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, Seed: 1", "DPM++ 2M Karras"),
        ("Steps: 20, Sampler: DPM++ 2M, Schedule type: Automatic, Seed: 1", "DPM++ 2M"),
        ("Steps: 20, Schedule type: Karras, Seed: 1", None),
    ],
)
def test_older_and_newer_web_uis_schedules_are_read(text, scheduler):
    assert from_infotext(f"a cat\n{text}").scheduler == scheduler


def test_values_out_of_range_are_read_as_they_are():
    got = from_infotext("a\nSteps: 999999, Sampler: x, CFG scale: -1, Seed: -5, Size: 99999x3, Precision: int3")
    assert (got.steps, got.guidance_scale, got.seed, got.width, got.dtype) == (999999, -1.0, -5, 99999, "int3")


@pytest.mark.parametrize("exact", ["[1", "[]", "3", '["a"]', '"[\\"a\\", \\"b\\", \\"c\\"]"'])
def test_exact_prompts_that_are_none_are_left_alone(exact):
    assert from_infotext(f"a cat\nSteps: 2, Exact prompts: {exact}").prompt == "a cat"


@pytest.mark.parametrize("prompt", ["一只猫", "--help", "-x", 'it\'s "a" $cat', "two\nlines"])
def test_the_command_asks_for_the_same_settings(prompt, monkeypatch, tmp_path):
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)  # this process's own handlers stay
    monkeypatch.setattr(generation, "generate", lambda prompts, **options: asked.append((prompts, options)) or iter([]))
    settings = ImageSettings(
        prompt=prompt, negative_prompt="-ugly", seed=0, steps=3, width=64, height=32, dtype="float32"
    )
    words = shlex.split(to_command(settings))
    assert words[0] == "altdiffusion"
    assert main(words[1:]) == 0
    ((prompts, options),) = asked
    size = dict(zip(("width", "height"), options.pop("size", None) or (), strict=False))
    said = {
        name: value
        for name, value in (options | size).items()
        if name in ImageSettings.model_fields and value is not False
    }
    assert list(prompts) == [prompt]
    assert ImageSettings(prompt=prompt, **said) == settings
