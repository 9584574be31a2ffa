"""`altdiffusion generate`: the file that --out names, many prompts, and where no image comes out."""

import json
import shlex

import pytest
import torch
from helpers.loras import save_kohya
from PIL import Image, PngImagePlugin

from altdiffusion import AltDiffusionPipeline, InputError
from altdiffusion.cli.main import parse
from altdiffusion.generation.infotext import open_info
from altdiffusion.images import WRITTEN


@pytest.fixture(scope="module")
def overflowing(published, tmp_path_factory):
    """A model whose VAE is as an overflow leaves it."""
    pipe = AltDiffusionPipeline.from_pretrained(published("m9"))
    torch.nn.init.constant_(pipe.vae.post_quant_conv.weight, float("nan"))
    pipe.save_pretrained(folder := tmp_path_factory.mktemp("overflowing") / "model")
    return folder


@pytest.mark.parametrize(
    "flags",
    [["--out", "x.png"], ["--num-images", 3, "--batch-size", 2], ["--best-of", 2, "--scorer", "mini"], ["--json"]],
)
def test_images_out_of_nan_are_one_line_and_status_1(run, overflowing, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    result = run("generate", "一只猫", "--model", overflowing, "--steps", 1, "--seed", 1, "--size", "16x16", *flags)
    assert result.status == 1
    last = result.err.strip().splitlines()[-1]
    assert last.startswith("altdiffusion: the image of '一只猫' (seed 1)")
    assert "came out as NaN" in last
    assert "--dtype float32" in last
    assert "Traceback" not in result.err
    assert result.out == ""
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("ending", [".jpg", ".JPEG", ".webp"])
def test_the_ending_says_the_format_and_info_reads_the_command(run, published, tmp_path, ending):
    out = tmp_path / f"猫{ending}"
    made = run(
        "generate", "一只猫", "--model", published("m9"), "--steps", 1, "--seed", 1, "--size", "16x16", "--out", out
    )
    assert made.status == 0, made.err
    with Image.open(out) as image:
        assert (image.format, image.size) == (WRITTEN[ending.lower()], (16, 16))
    command = run("info", out).out.splitlines()[-1]
    settings = parse(shlex.split(command)[1:]).settings
    assert (settings.prompts, settings.seed) == (["一只猫"], open_info(out).seed)


@pytest.mark.parametrize("name", ["x.gif", "x.bmp", "x.TIFF", "x.avif", "x.jfif", "x.jxl", "x.svg", "deep/x.heic"])
def test_other_formats_of_images_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"expected a folder, or a file that ends in \.png, \.jpg, \.jpeg, \.webp$"):
        parse(["generate", "a", "--out", str(tmp_path / name)])


@pytest.mark.parametrize("ending", WRITTEN)
def test_several_images_want_a_folder(tmp_path, ending):
    out = tmp_path / f"x{ending}"
    with pytest.raises(InputError, match="is one file, but 2 images are asked for: give a folder"):
        parse(["generate", "a", "b", "--out", str(out)])
    out.mkdir()  # whatever it is called
    assert not parse(["generate", "a", "b", "--out", str(out)]).settings.is_file


@pytest.mark.parametrize("name", ["pictures", "v1.5", "cats.2024", "x.png/", "x.png.d"])
def test_any_other_name_is_a_folder(tmp_path, name):
    (tmp_path / "x.png").mkdir()
    assert not parse(["generate", "a", "b", "--out", str(tmp_path / name)]).settings.is_file


@pytest.fixture
def many(run, published, tmp_path):
    """Runs `altdiffusion generate` on a small model with these words, into the folder out."""
    small = ["--model", published("m9"), "--size", "16x16", "--seed", 1, "--out", tmp_path / "out"]
    return lambda *words: run("generate", *small, *words)


def names_of(folder):
    return sorted(path.name for path in folder.iterdir())


def test_bad_rows_are_named_the_others_done_and_the_status_is_2(many, tmp_path):
    prompts = tmp_path / "p.csv"
    prompts.write_text("prompt,steps,init_image\n一只猫,1,\na,0,\na,2,nowhere.png\na dog,,\n")
    done = many("x", "--prompts-file", prompts, "--steps", 1)
    assert done.status == 2
    assert f"{prompts}:3: steps: expected 1 to 999, got 0" in done.err
    assert f"{prompts}:4: init_image: no such image: nowhere.png" in done.err
    assert done.err.endswith("altdiffusion: 2 of 5 prompts can't be used (above); the others are done\n")
    assert names_of(tmp_path / "out") == ["a-dog-1.png", "manifest.jsonl", "x-1.png", "一只猫-1.png"]


def test_a_row_that_fails_late_is_named_too(many, tmp_path):
    (tmp_path / "p.txt").write_text(f"a\n{'猫' * 2000}\n")
    done = many("--prompts-file", tmp_path / "p.txt", "--steps", 1, "--json")
    assert done.status == 2
    document = json.loads(done.out)
    assert [one["prompt"] for one in document["pictures"]] == ["a"]
    assert [one["where"] for one in document["failed"]] == [f"{tmp_path / 'p.txt'}:2"]


def test_a_grid_and_choices_are_a_sheet_of_images_that_come_out_the_same_alone(many, tmp_path):
    assert many("{cat|dog}", "--grid", "steps=1,2 guidance_scale=1,3").status == 0
    names = names_of(tmp_path / "out")
    assert len(names) == 8 + 2
    assert {"cat-dog-1-sheet.png", "dog-1-steps-2-guidance_scale-3.png"} <= set(names)
    assert many("dog", "--steps", 2, "--guidance-scale", 3).status == 0
    alone, cell = (tmp_path / "out" / name for name in ("dog-1.png", "dog-1-steps-2-guidance_scale-3.png"))
    assert alone.read_bytes() == cell.read_bytes()


def test_a_second_run_is_new_unless_it_is_resumed(many, tmp_path):
    words = ["--grid", "steps=1,2", "a"]
    many(*words)
    first = names_of(tmp_path / "out")
    assert "2 of 2 images are there already" in many(*words, "--resume").err
    assert names_of(tmp_path / "out") == first
    many(*words)
    assert len(names_of(tmp_path / "out")) == 1 + 2 * (len(first) - 1)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["a", "--grid", "stepz=1"], "--grid: stepz is no setting of a grid: do you mean steps?"),
        (["a", "--grid", "steps=1,2", "--steps", 3], "--grid: steps is an axis and a flag"),
        (["a", "--grid", "model=./nowhere,mini"], "--grid: model: unknown model './nowhere'"),
        (["a", "--grid", "scheduler=ddim,magic"], "--grid: scheduler: unknown scheduler 'magic'"),
        (["a", "--grid", "strength=0.5,0.8"], "none of 1 prompts can be used"),
        (["--prompts-file", "nowhere.txt"], "--prompts-file: there is no nowhere.txt"),
        (["a|b", "--resume", "--out", "x.png"], "expected a folder"),
        (["{a|b}", "--out", "x.png"], "expected a folder"),
    ],
)
def test_wrong_grids_and_files_are_said_before_anything_is_loaded(run, monkeypatch, tmp_path, words, line):
    monkeypatch.chdir(tmp_path)
    result = run("generate", *words)
    assert result.status == 2
    assert line in result.err
    assert "loading" not in result.err
    assert names_of(tmp_path) == []


def test_a_png_of_a1111_with_weights_and_a_lora_is_generated_again(run, published, tmp_path):
    model = published("m9")
    ink = save_kohya(tmp_path / "ink.safetensors", AltDiffusionPipeline.from_pretrained(model).unet)
    prompt = "（一只猫：1.3），((moon)) <lora:ink:0.8>"
    text = f"{prompt}\nNegative prompt: [blurry]\nSteps: 2, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 5, "
    info = PngImagePlugin.PngInfo()
    info.add_itxt("parameters", text + "Size: 16x16, Lora hashes: ink: 0123456789ab, Version: v1.10.1")
    Image.new("RGB", (8, 8)).save(tmp_path / "theirs.png", pnginfo=info)
    told = run("info", tmp_path / "theirs.png").out
    assert "<lora:ink:0.8>: name its file with --lora" in told
    command = next(line for line in told.splitlines() if line.startswith("altdiffusion generate"))
    here = ["--model", model, "--out"]
    again = run(*shlex.split(command)[1:], "--lora", f"{ink}:0.8", *here, tmp_path / "again.png")
    asked = [
        "--negative-prompt",
        "[blurry]",
        "--steps",
        2,
        "--scheduler",
        "DPM++ 2M Karras",
        "--guidance-scale",
        7,
        "--seed",
        5,
    ]
    plain = run("generate", prompt, *asked, "--size", "16x16", "--lora", ink, *here, tmp_path / "plain.png")
    assert again.status == plain.status == 0, again.err + plain.err
    with Image.open(tmp_path / "again.png") as ours, Image.open(tmp_path / "plain.png") as same:
        assert ours.tobytes() == same.tobytes()
