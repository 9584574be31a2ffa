"""Settings in a PNG: what goes in comes out, ours and the web UIs'."""

import json
import shlex
import signal

import pytest
from PIL import ExifTags, Image, PngImagePlugin

from altdiffusion import InputError
from altdiffusion.cli.main import main
from altdiffusion.generation import generate as generation
from altdiffusion.generation.infotext import from_infotext, open_info, png_info, to_command, to_infotext
from altdiffusion.generation.runnable import runnable
from altdiffusion.generation.schedulers import find_scheduler
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
    mask_blur=4,
    only_masked=32,
    lora="a b.safetensors",
    dtype="float16",
    allow_pickle=True,
)


@pytest.mark.parametrize(
    "settings",
    [
        FULL,
        ImageSettings(prompt="a cat", steps=1, seed=7),
        ImageSettings(prompt="a", steps=2, lora=["a, b.safetensors:0.8", "水墨.safetensors", 'c"d'], lora_dir="x: y"),
        ImageSettings(prompt="a", steps=2, lora=['["a"]'], textual_inversion=["<b>.safetensors"], vae="v", clip_skip=2),
        ImageSettings(prompt="a", steps=2, controlnet="c", control_image="d.png", control_scale=0.5),
        ImageSettings(prompt="a", steps=2, ip_adapter="c", ip_image="d.png", ip_scale=0.5),
        ImageSettings(prompt="a", steps=9, hires=1.5, hires_strength=0.5, hires_steps=4),
        ImageSettings(prompt="two\nlines", negative_prompt="and\nmore", steps=2),
        ImageSettings(prompt="ends in a break\n", steps=2),
        ImageSettings(prompt="Steps: 3, Sampler: x", steps=2),
        ImageSettings(prompt="a\nNegative prompt: b", negative_prompt="c", steps=2),
        ImageSettings.model_construct(prompt="", negative_prompt="only this", steps=2),
        ImageSettings(prompt="قطة 🐈 \\ \" ' $(rm)", steps=2),
    ],
    ids=range(13),
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


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("Mask blur: 4, Inpaint area: Only masked, Masked area padding: 32", (4, 32)),
        ("Mask blur: 8, Inpaint area: Only masked", (8, 32)),
        ("Inpaint area: Only masked, Masked area padding: 0", (None, 0)),
        ("Mask blur: 4, Inpaint area: Whole picture, Masked area padding: 32", (4, None)),
        ("Masked area padding: 32", (None, None)),
        ("Mask blur: x", (None, None)),
    ],
)
def test_masks_are_read_as_the_web_uis_write_them(said, read):
    settings = from_infotext(f"a cat\nSteps: 3, Denoising strength: 0.8, {said}, Seed: 1")
    assert (settings.mask_blur, settings.only_masked, settings.seed) == (*read, 1)
    assert "Mask blur: 4, Inpaint area: Only masked, Masked area padding: 32" in to_infotext(FULL)


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


LINE = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 64x64"
SWARM = {
    "sui_image_params": {
        "prompt": "a cat", "negativeprompt": "blurry", "model": "sd_xl_base_1.0", "seed": 5, "steps": 20, "cfgscale": 7.0,
        "aspectratio": "1:1", "width": 64, "height": 64, "sampler": "euler_ancestral", "scheduler": "normal",
        "swarm_version": "0.9.3",
    },
    "sui_extra_data": {"date": "2025-01-01"},
}  # fmt: skip
FOOOCUS = {
    "adm_guidance": "(1.5, 0.8, 0.3)", "base_model": "juggernautXL_v8Rundiffusion", "base_model_hash": "aeb7e9e689",
    "guidance_scale": 7.0, "lora_combined_1": "sd_xl_offset : 0.1", "metadata_scheme": "fooocus", "negative_prompt": "blurry",
    "performance": "Speed", "prompt": "a cat", "refiner_model": "None", "resolution": "(64, 64)", "sampler": "euler_ancestral",
    "scheduler": "normal", "seed": "5", "sharpness": 2.0, "steps": 20, "styles": "[]", "version": "Fooocus v2.4.3",
}  # fmt: skip
NOVEL = {
    "prompt": "a cat", "uc": "blurry", "steps": 20, "scale": 7, "seed": 5, "width": 64, "height": 64,
    "sampler": "k_euler_ancestral", "sm": False,
}  # fmt: skip
INVOKE = {
    "positive_prompt": "a cat", "negative_prompt": "blurry", "steps": 20, "cfg_scale": 7, "seed": 5, "width": 64, "height": 64,
    "scheduler": "euler_ancestral", "model": {"name": "juggernaut", "hash": "x"},
}  # fmt: skip
TEXTS = {
    "line break at the end": f"a cat\nNegative prompt: blurry\n{LINE}\n",
    "several line breaks": f"a cat\n\nNegative prompt: blurry\n\n{LINE}\n\n",
    "CR LF": f"a cat\r\nNegative prompt: blurry\r\n{LINE}",
    "CR LF at the end": f"a cat\r\nNegative prompt: blurry\r\n{LINE}\r\n",
    "templates": f"a cat\nNegative prompt: blurry\n{LINE}\nTemplate: a {{cat|dog}}\nNegative Template: blurry",
    "a template of two lines": f"a cat\nNegative prompt: blurry\n{LINE}\nTemplate: a\n{{cat|dog}}, Steps: 9\n",
    "no space": f"a cat\nNegative prompt:blurry\n{LINE}",
    "large P": f"a cat\nNegative Prompt: blurry\n{LINE}",
    "SwarmUI": json.dumps(SWARM, indent=2),
    "Fooocus": json.dumps(FOOOCUS),
    "NovelAI": json.dumps(NOVEL),
    "InvokeAI": json.dumps(INVOKE),
}


def assert_is_the_cat(settings):
    assert (settings.prompt, settings.negative_prompt, settings.steps, settings.seed) == ("a cat", "blurry", 20, 5)
    assert (settings.guidance_scale, settings.width, settings.height) == (7.0, 64, 64)
    assert find_scheduler(settings.scheduler).class_name == "EulerAncestralDiscreteScheduler"


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_other_programs_texts_are_read(text):
    assert_is_the_cat(from_infotext(text))


def test_a_prompt_of_several_lines_and_templates():
    got = from_infotext(f"a cat,\r\nblack\r\nNegative prompt:blurry,\r\nugly\r\n{LINE}\r\nTemplate: x\r\n")
    assert (got.prompt, got.negative_prompt, got.seed) == ("a cat,\nblack", "blurry,\nugly", 5)


@pytest.mark.parametrize(
    "text", ['{"a": 1}', '{"prompt"', "{cat|dog}", '{"sui_image_params": 3}', "[1]", '{"prompt": {}}']
)
def test_other_json_is_a_prompt_as_any_text(text):
    assert from_infotext(text).prompt == text


COMMENTS = {
    "web UI": lambda text: b"UNICODE\0" + text.encode("utf-16-be"),
    "SwarmUI": lambda text: b"UNICODE\0" + text.encode("utf-16-le"),
    "order mark": lambda text: b"UNICODE\0" + text.encode("utf-16"),
    "UTF-8": lambda text: b"UNICODE\0" + text.encode(),
    "ASCII": lambda text: b"ASCII\0\0\0" + text.encode(),
    "no encoding said": lambda text: b"\0" * 8 + text.encode(),
}


@pytest.mark.parametrize("ending", ["jpg", "webp", "png"])
@pytest.mark.parametrize("encoded", COMMENTS.values(), ids=COMMENTS)
@pytest.mark.parametrize("program", ["CR LF", "SwarmUI", "Fooocus"])
def test_settings_in_exif(tmp_path, ending, encoded, program):
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: encoded(TEXTS[program])}
    Image.new("RGB", (8, 8)).save(tmp_path / f"x.{ending}", exif=exif)
    assert_is_the_cat(open_info(tmp_path / f"x.{ending}"))


def test_chinese_in_exif(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + to_infotext(FULL).encode("utf-16-be")
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", exif=exif)
    assert open_info(tmp_path / "x.jpg") == FULL


@pytest.mark.parametrize(
    ("key", "program"),
    [("parameters", "SwarmUI"), ("parameters", "Fooocus"), ("Comment", "NovelAI"), ("invokeai_metadata", "InvokeAI")],
)
def test_json_in_a_png(tmp_path, key, program):
    info = PngImagePlugin.PngInfo()
    info.add_text(key, TEXTS[program])
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    assert_is_the_cat(open_info(tmp_path / "x.png"))


def test_a_cameras_comment_is_no_settings(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "DCIM"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0taken in Peking"
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", exif=exif)
    with pytest.raises(InputError, match="no settings"):
        open_info(tmp_path / "x.jpg")


@pytest.mark.parametrize(
    ("said", "left_out"),
    [
        (", Denoising strength: 0.7, Hires upscale: 2, Hires steps: 1, Hires upscaler: Latent", ["Hires upscaler"]),
        (", Denoising strength: 0.7, Hires steps: 1", ["strength 0.7", "hires steps 1: there is no hires"]),
        (", VAE: vae-ft-mse-840000.safetensors", ["vae vae-ft-mse-840000.safetensors"]),
        (", Model: v1-5-pruned-emaonly, Model hash: 6ce0161689", ["model v1-5-pruned-emaonly"]),
        (", Model: C:\\\\models\\\\cat.safetensors", ["model C:"]),
        (", Schedule type: Karras", ["schedule type Karras"]),  # Euler a has none
        (", Schedule type: Align Your Steps", ["schedule type Align Your Steps"]),
        (", Clip skip: 2, ENSD: 31337", ["ENSD"]),
        ("\nTemplate: a {cat|dog}\nNegative Template: x", ["Template", "Negative Template"]),
        (", Size: 500x333", ["size 500x333"]),
        (", Seed: -1, CFG scale: -2", ["guidance scale -2.0", "seed -1"]),
        (", Sampler: DPM++ 3M SDE Karras", ["unknown scheduler 'DPM++ 3M SDE'"]),
        (", Sampler: DPM++ 2M, Schedule type: Karras", []),
        (", Sampler: DPM++ 2M Karras, Version: v1.10.1", []),
        (", Sampler: DPM++ 2M, Schedule type: Automatic", []),
    ],
)  # fmt: skip
def test_the_command_runs_and_what_it_leaves_out_is_said(tmp_path, monkeypatch, capsys, said, left_out):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)  # this process's own handlers stay
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", f"a cat\nNegative prompt: blurry\n{LINE}{said}\n")
    Image.new("RGB", (8, 8)).save("x.png", pnginfo=info)
    assert main(["info", "x.png"]) == 0
    text, _, listed = capsys.readouterr().out.partition("\nleft out of the command:\n")
    assert all(words in listed for words in left_out), listed
    assert bool(listed) == bool(left_out)
    command = shlex.split(text.strip().splitlines()[-1])
    assert main([*command[1:], "--steps", "1", "--out", "again.png"]) == 0
    again = open_info("again.png")
    assert (again.prompt, again.negative_prompt) == ("a cat", "blurry")
    assert again.clip_skip == (2 if "Clip skip" in said else None)
    assert (again.hires, again.hires_strength) == ((2.0, 0.7) if "Hires upscale:" in said else (None, None))
    if "Karras" in said and not left_out:
        assert again.scheduler == "DPM++ 2M Karras"
    assert main(["info", "x.png", "--json"]) == 0


@pytest.mark.parametrize(
    ("prompt", "negative", "kept", "left_out"),
    [
        ("(cat:1.2) <lora:ink:0.8>, fur", "", "(cat:1.2) , fur", ["<lora:ink:0.8>: name its file with --lora"]),
        ("<lora:here:0.8>cat<lora:ink>", "", "<lora:here:0.8>cat", ["<lora:ink>: name its file"]),
        ("cat", "<lora:bad:1> ugly", "cat", ["<lora:bad:1>: it stands in the negative prompt"]),
        ("<lora:here:0.8>cat", "", "<lora:here:0.8>cat", []),
    ],
)
def test_loras_of_other_programs_prompts_need_a_file(tmp_path, monkeypatch, prompt, negative, kept, left_out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.safetensors").touch()
    settings = ImageSettings.model_construct(prompt=prompt, negative_prompt=negative, steps=2, lora_dir=".")
    can_run, lines = runnable(settings)
    assert (can_run.prompt, can_run.prompt_syntax) == (kept, "webui")
    assert len(lines) == len(left_out)
    assert all(part in line for part, line in zip(left_out, lines, strict=True))


def test_the_command_names_every_lora(tmp_path):
    settings = ImageSettings(prompt="a", steps=2, lora=["a.safetensors:0.8", "-b.safetensors"], hires=1.5)
    command = shlex.split(to_command(settings))
    assert command[2:] == [
        "--steps",
        "2",
        "--lora",
        "a.safetensors:0.8",
        "--lora=-b.safetensors",
        "--hires",
        "1.5",
        "a",
    ]
