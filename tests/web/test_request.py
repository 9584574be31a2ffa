"""What a visitor may ask for, and every sentence of the page in both languages."""

import re
import string
from pathlib import Path

import pytest
from helpers.hostile_images import bomb
from PIL import Image, PngImagePlugin

import altdiffusion.web
from altdiffusion.generation.infotext import png_info
from altdiffusion.generation.schedulers import find_scheduler
from altdiffusion.generation.settings import ImageSettings, settings_with
from altdiffusion.generation.styles import Style
from altdiffusion.web import request, uploads
from altdiffusion.web.limits import Limits
from altdiffusion.web.request import OFFERED_SCHEDULERS, read_request
from altdiffusion.web.translations import TEXTS, Refused, say

LIMITS = Limits()


def refused(key, work, *arguments, **options):
    with pytest.raises(Refused) as error:
        work(*arguments, **options)
    assert error.value.key == key
    for language in ("en", "zh"):
        assert "\n" not in error.value.said(language)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"prompt": " "}, "no_prompt"),
        ({"prompt": None}, "no_prompt"),
        ({"prompt": 3}, "bad_input"),
        ({"prompt": ["猫"]}, "bad_input"),
        ({"prompt": "猫" * 2001}, "long_text"),
        ({"negative_prompt": "x" * 2001}, "long_text"),
        ({"steps": 0}, "bad_number"),
        ({"steps": 101}, "bad_number"),
        ({"steps": "25"}, "bad_number"),
        ({"steps": 2.5}, "bad_number"),
        ({"steps": True}, "bad_number"),
        ({"steps": float("nan")}, "bad_number"),
        ({"steps": 1e400}, "bad_number"),
        ({"steps": {}}, "bad_number"),
        ({"guidance_scale": float("nan")}, "bad_number"),
        ({"guidance_scale": -1}, "bad_number"),
        ({"guidance_scale": "7"}, "bad_number"),
        ({"seed": -1}, "bad_number"),
        ({"seed": 2**63}, "bad_number"),
        ({"images": 9}, "bad_number"),
        ({"images": 0}, "bad_number"),
        ({"best_of": 9}, "bad_number"),
        ({"images": 3, "best_of": 2}, "best_of_few"),
        ({"width": 64}, "bad_number"),
        ({"width": 65, "height": 64}, "bad_multiple"),
        ({"width": -8, "height": 64}, "bad_number"),
        ({"width": 10**9, "height": 8}, "bad_number"),
        ({"width": 1024, "height": 1024}, "many_pixels"),
        ({"width": 768, "height": 768, "steps": 100, "images": 8}, "much_work"),
        ({"width": 768, "height": 768, "steps": 100, "best_of": 8}, "much_work"),
        ({"scheduler": "DDIMScheduler"}, "unknown_scheduler"),
        ({"scheduler": 3}, "unknown_scheduler"),
        ({"shape": "1:1000"}, "bad_input"),
        ({"image": Image.new("RGB", (8, 8)), "strength": 0}, "bad_number_above"),
        ({"image": Image.new("RGB", (8, 8)), "strength": 1.5}, "bad_number"),
        ({"image": Image.new("RGB", (8, 8)), "mask": Image.new("L", (8, 16))}, "mask_size"),
        ({"image": Image.new("RGB", (8, 8)), "mask": Image.new("L", (8, 8), 127)}, "black_mask"),
        ({"image": Image.new("RGB", (8, 8)), "mask": Image.new("L", (8, 8), 255), "mask_blur": 65}, "bad_number"),
        ({"image": Image.new("RGB", (8, 8)), "mask": Image.new("L", (8, 8), 255), "only_masked": -1}, "bad_number"),
        ({"image": Image.new("RGB", (8, 8)), "mask_blur": 4}, "no_mask"),
        ({"image": Image.new("RGB", (8, 8)), "only_masked": 0}, "no_mask"),
        ({"scheduler": "Euler a Karras"}, "unknown_scheduler"),
        ({"image": Image.new("RGB", (8, 8)), "strength": 0.01, "steps": 5}, "few_steps"),
    ],
)
def test_what_is_beyond_the_limits_is_refused(change, key):
    images = {name: change[name] for name in ("image", "mask") if name in change}
    refused(key, read_request, {"prompt": "一只猫"} | change, LIMITS, **images)


STYLES = {"ink": Style(prompt="{prompt}，水墨画", negative_prompt="照片")}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"styles": ["oil"]}, "unknown_style"),
        ({"styles": [{}]}, "unknown_style"),
        ({"styles": "ink"}, "unknown_style"),
        ({"styles": ["ink"] * 2}, "unknown_style"),
        ({"styles": ["ink"], "prompt": 3}, "bad_input"),
        ({"styles": ["ink"], "prompt": "猫" * 2001}, "long_text"),
    ],
)
def test_styles_that_are_not_there_and_prompts_that_are_none_are_refused(change, key):
    refused(key, request.with_styles, {"prompt": "一只猫"} | change, STYLES, LIMITS)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"prompt": "猫", "styles": ["ink"]}, {"prompt": "猫，水墨画", "negative_prompt": "照片"}),
        ({"prompt": " ", "styles": ["ink"]}, {"prompt": " "}),  # a style alone is no prompt
        ({"prompt": "猫", "styles": []}, {"prompt": "猫"}),
        ({"prompt": "猫"}, {"prompt": "猫"}),
    ],
)
def test_prompts_in_styles(said, expected):
    styled = request.with_styles(said, STYLES, LIMITS)
    assert {name: value for name, value in styled.items() if name != "styles"} == expected


def test_json_numbers_are_taken_as_they_are_meant():
    said = {"prompt": "猫", "seed": 7.0, "steps": 25.0, "images": 2.0, "best_of": 1, "width": 512.0, "height": 512}
    read = read_request(said, LIMITS)
    assert (read.settings.seed, read.settings.steps, read.settings.width) == (7, 25, 512)
    assert (read.num_images, read.best_of) == (2, 0)


def test_texts_lose_what_no_text_has():
    assert request.clean_text("a\x00b\ud800\n猫🐈", LIMITS) == "ab\n猫🐈"


@pytest.mark.parametrize(
    ("said", "seed"), [("", None), (" ", None), (None, None), ("0", 0), (" 7 ", 7), (7, 7), (7.0, 7)]
)
def test_seeds_from_a_text_field(said, seed):
    assert request.read_seed(said) == seed


@pytest.mark.parametrize("said", ["-1", "1.5", "x", "٣", "9" * 30, "1e3", [], 2**63])
def test_seeds_that_are_none(said):
    refused("bad_number", request.read_seed, said)


def test_settings_are_called_what_the_page_calls_them():
    with pytest.raises(Refused) as error:
        request.check_whole("steps", 0, 1, 100)
    assert str(error.value) == "Steps: expected a number from 1 to 100"
    assert error.value.said("zh") == "步数：应为 1 到 100 之间的数"


def test_lines():
    assert request.read_lines("猫\n\n 狗 \n", LIMITS) == ["猫", "狗"]
    refused("no_texts", request.read_lines, "\n", LIMITS)
    refused("many_texts", request.read_lines, "a\n" * 51, LIMITS)
    refused("many_texts", request.read_lines, "\n" * 10**5, LIMITS)
    refused("bad_input", request.read_lines, 3, LIMITS)
    refused("bad_input", request.read_lines, [3], LIMITS)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"", "bad_image"),
        (b"no picture", "bad_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "bad_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "bad_image"),
        (bomb(5000), "large_image"),
        (bomb(50000), "large_image"),
        (bytes(10 * 2**20 + 1), "large_file"),
    ],
    ids=["empty", "text", "eps", "svg", "bomb", "large bomb", "large file"],
)
def test_uploads_that_are_refused(tmp_path, content, key):
    (tmp_path / "x.png").write_bytes(content)
    refused(key, uploads.open_upload, tmp_path / "x.png", LIMITS)


def test_uploads_that_are_cut_or_not_there(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:500])
    refused("bad_image", uploads.open_upload, tmp_path / "x.png", LIMITS)
    refused("bad_image", uploads.open_upload, tmp_path / "none.png", LIMITS)
    refused("bad_image", uploads.open_upload, tmp_path, LIMITS)
    refused("no_image", uploads.open_upload, None, LIMITS)


def test_settings_from_a_picture_are_brought_within_the_limits():
    wild = ImageSettings.model_construct(
        prompt="猫" * 5000, steps=10**9, guidance_scale=1e9, seed=-5, width=4096, height=2048, scheduler="Euler a",
        model="../../etc/passwd", lora="evil", init_image="/etc/passwd", allow_pickle=True,
    )  # fmt: skip
    kept, changed = request.within_limits(wild, LIMITS)
    assert (len(kept.prompt), kept.steps, kept.guidance_scale, kept.seed) == (2000, 100, 30.0, 0)
    assert kept.width * kept.height <= LIMITS.pixels
    assert kept.width == pytest.approx(2 * kept.height, abs=16)
    assert kept.scheduler == "euler-a"
    assert (kept.model, kept.lora, kept.init_image, kept.allow_pickle) == (None, None, None, None)
    assert set(changed) >= {"prompt", "steps", "guidance_scale", "seed", "width", "height"}
    read_request(dict(kept), LIMITS)


def test_settings_that_are_sound_stay():
    sound = ImageSettings(
        prompt="一只猫",
        negative_prompt="模糊",
        steps=25,
        scheduler="DDIM",
        guidance_scale=7.5,
        seed=1,
        width=512,
        height=512,
    )
    kept, changed = request.within_limits(sound, LIMITS)
    assert changed == []
    assert kept == sound.replace(scheduler="ddim")


@pytest.mark.parametrize("name", OFFERED_SCHEDULERS)
def test_schedulers_come_back_from_a_picture_by_the_name_on_the_page(name):
    written = find_scheduler(name).written
    kept, changed = request.within_limits(ImageSettings(prompt="猫", scheduler=written), LIMITS)
    assert (kept.scheduler, changed) == (name, [])
    assert read_request({"prompt": "猫", "scheduler": name}, LIMITS).settings.scheduler == name


def test_schedulers_that_are_not_offered_are_dropped():
    kept, changed = request.within_limits(ImageSettings(prompt="猫", scheduler="Euler a Karras"), LIMITS)
    assert (kept.scheduler, changed) == (None, ["scheduler"])


@pytest.mark.parametrize("size", [(0, 0), (-8, 8), (10**12, 8), (None, 8)])
def test_sizes_from_a_picture_that_make_no_sense_are_dropped(size):
    kept, _ = request.within_limits(ImageSettings.model_construct(prompt="a", width=size[0], height=size[1]), LIMITS)
    assert (kept.width, kept.height) == (None, None)


def test_what_was_painted_over_is_the_mask():
    layer = Image.new("RGBA", (16, 8), (0, 0, 0, 0))
    layer.paste((255, 0, 0, 255), (2, 2, 6, 6))
    image, mask = uploads.read_editor({"background": Image.new("RGBA", (16, 8), "red"), "layers": [layer]}, LIMITS)
    assert image.mode == "RGB"
    assert mask.getbbox() == (2, 2, 6, 6)
    assert uploads.read_editor({"background": Image.new("RGB", (8, 8)), "layers": []}, LIMITS)[1] is None
    for nothing in (None, {}, {"background": None}):
        refused("no_image", uploads.read_editor, nothing, LIMITS)
    other = {"background": Image.new("RGB", (8, 8)), "layers": [layer]}
    refused("mask_size", uploads.read_editor, other, LIMITS)


def test_long_texts_inside_a_png_are_no_way_to_fill_the_memory(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("parameters", "a" * (80 * 2**20), zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    assert (tmp_path / "x.png").stat().st_size < 200_000
    refused("bad_image", uploads.open_upload, tmp_path / "x.png", LIMITS)


def test_every_sentence_is_in_both_languages():
    for key, (english, chinese) in TEXTS.items():
        assert english.isascii() or not re.search(r"[一-鿿]", english.replace("一只猫", "")), key
        assert re.search(r"[一-鿿]", chinese), key
        fields = [{name for _, name, _, _ in string.Formatter().parse(each) if name} for each in (english, chinese)]
        assert fields[0] == fields[1], key


def test_every_sentence_is_used_and_every_used_one_is_there():
    folder = Path(altdiffusion.web.__file__).parent
    source = "".join(
        path.read_text(encoding="utf-8") for path in folder.rglob("*.py") if path.name != "translations.py"
    )
    quoted = set(re.findall(r'"([a-z_]+)"', source))
    made = {f"{side}_{what}" for side in ("left", "right") for what in ("model", "prompt")}
    assert not {key for key in TEXTS if key not in quoted | made | set(settings_with("web"))}
    asked = set(re.findall(r'(?:I18N|say|Refused)\("([a-z_]+)"', source))
    assert asked <= set(TEXTS)


def test_texts_with_braces_of_their_own():
    assert "{}" in say("template", "zh")
    assert "{}" in Refused("bad_template").said("en")


def test_settings_written_by_us_are_read_back(tmp_path):
    sound = ImageSettings(prompt="قطة", steps=3, seed=2**62)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=png_info(sound))
    uploads.open_upload(tmp_path / "x.png", LIMITS)
