"""A generated image in a file: the format, and the settings inside."""

import pytest
from PIL import ExifTags, Image

from altdiffusion import InputError
from altdiffusion.generation.infotext import open_info, to_infotext
from altdiffusion.generation.result import GeneratedImage, free_path, save_image
from altdiffusion.generation.settings import ImageSettings
from altdiffusion.images import WRITTEN

PROMPTS = ["一只猫", "一" * 500, 'a cat, "red": x\nNegative prompt: y', "قطة 😀", "ĀĂĄ" * 200, "x"]


def generated(prompt):
    settings = ImageSettings(prompt=prompt, negative_prompt="模糊", steps=3, seed=7, width=8, height=8, model="mini")
    return GeneratedImage(Image.new("RGB", (8, 8), "red"), settings, False)


@pytest.mark.parametrize("ending", [*WRITTEN, ".PNG", ".JPG"])
def test_settings_are_read_back_from_every_format(tmp_path, ending):
    for number, prompt in enumerate(PROMPTS):
        path = save_image(image := generated(prompt), tmp_path / f"{number}{ending}")
        assert open_info(path) == image.settings
        with Image.open(path) as read:
            assert read.format == WRITTEN[ending.lower()]
            assert max(abs(a - b) for a, b in zip(read.convert("RGB").getpixel((4, 4)), (255, 0, 0), strict=True)) < 8


@pytest.mark.parametrize("ending", [".jpg", ".webp"])
def test_the_exif_comment_is_as_the_web_uis_write_it(tmp_path, ending):
    """As piexif reads it: eight bytes that name the encoding, then UTF-16, its high bytes first, without a mark."""
    path = save_image(image := generated("一只猫"), tmp_path / f"x{ending}")
    with Image.open(path) as read:
        comment = read.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert comment == b"UNICODE\0" + to_infotext(image.settings).encode("utf-16-be")


def test_more_than_a_jpeg_holds_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"can't hold its settings .*: name a \.png file"):
        save_image(generated("猫" * 40_000), tmp_path / "x.jpg")
    assert not list(tmp_path.iterdir())
    for ending in (".png", ".webp"):
        assert open_info(save_image(generated("猫" * 40_000), tmp_path / f"x{ending}")).prompt == "猫" * 40_000


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_free_name_is_free(tmp_path, prompt):
    settings = generated(prompt).settings
    first = free_path(tmp_path, settings)
    first.touch()
    assert free_path(tmp_path, settings) not in (first, tmp_path)
