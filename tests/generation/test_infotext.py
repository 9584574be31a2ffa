"""Settings in a PNG: what goes in comes out, ours and the web UIs'."""

import shlex

import pytest
from PIL import Image

from altdiffusion import InputError
from altdiffusion.cli.main import parse
from altdiffusion.generation.infotext import from_infotext, open_info, png_info, to_command, to_infotext
from altdiffusion.generation.settings import Settings

FULL = Settings(
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
        Settings("a cat", steps=1, seed=7),
        Settings("two\nlines", negative_prompt="and\nmore", steps=2),
        Settings("ends in a break\n", steps=2),
        Settings("Steps: 3, Sampler: x", steps=2),
        Settings("a\nNegative prompt: b", negative_prompt="c", steps=2),
        Settings("", negative_prompt="only this", steps=2),
        Settings("قطة 🐈 \\ \" ' $(rm)", steps=2),
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
    assert isinstance(from_infotext(text), Settings)


def test_png_keeps_chinese(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=png_info(FULL))
    assert b"iTXt" in (tmp_path / "x.png").read_bytes()
    assert open_info(tmp_path / "x.png") == FULL


def test_picture_without_settings_is_one_clear_line(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(InputError, match="no settings"):
        open_info(tmp_path / "x.png")


@pytest.mark.parametrize("prompt", ["一只猫", "--help", "-x", 'it\'s "a" $cat', "two\nlines"])
def test_the_command_asks_for_the_same_settings(prompt):
    words = shlex.split(to_command(Settings(prompt, negative_prompt="-ugly", seed=0, steps=3, width=64, height=32)))
    assert words[0] == "altdiffusion"
    settings = parse(words[1:]).settings
    assert settings.prompts == [prompt]
    assert (settings.negative_prompt, settings.seed, settings.steps, settings.pixels) == ("-ugly", 0, 3, (64, 32))
