"""`altdiffusion generate`: the file that --out names, and where no image comes out."""

import shlex

import pytest
import torch
from PIL import Image

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
