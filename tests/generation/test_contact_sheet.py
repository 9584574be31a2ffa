"""Contact sheets: every image in its place, labels that can be read or a warning."""

import logging

import pytest
from PIL import Image, ImageFont

from altdiffusion.generation import contact_sheet
from altdiffusion.generation.contact_sheet import FONT_SIZE, MAX_SIDE, font_for, missing

COLORS = ("red", "lime", "blue", "yellow", "cyan", "magenta", "purple", "orange")


def squares(count, size=(128, 128)):
    return [Image.new("RGB", size, color) for color in COLORS[:count]]


def places(sheet):
    """Where each color begins, in reading order."""
    pixels = sheet.load()
    found = {}
    for y in range(sheet.height):
        for x in range(sheet.width):
            found.setdefault(pixels[x, y], (x, y))
    return [found.get(Image.new("RGB", (1, 1), color).getpixel((0, 0))) for color in COLORS]


def test_the_last_axis_stands_above_the_columns_and_the_others_beside_the_rows():
    axes = [("steps=1", "steps=2"), ("seed=1", "seed=2"), ("一只猫", "一只狗")]
    found = places(contact_sheet.contact_sheet("a cat", axes, [*squares(6), None, *squares(8)[7:]]))
    columns, rows = sorted({x for x, _ in found[:6]}), sorted({y for _, y in found[:6]})
    assert len(columns) == 2
    assert len(rows) == 3
    assert found[:6] == [(columns[index % 2], rows[index // 2]) for index in range(6)]
    assert found[7][0] == columns[1]  # beside the one that is missing
    assert columns[0] > 20  # pixels for the labels


@pytest.mark.parametrize("count", [2, 8])
def test_images_of_one_axis_lie_in_a_row(count):
    found = places(contact_sheet.contact_sheet("a", [[f"seed={index}" for index in range(count)]], squares(count)))
    assert len({y for _, y in found[:count]}) == 1
    assert found[:count] == sorted(found[:count])


def test_tiny_images_are_enlarged_and_huge_sheets_made_smaller():
    assert contact_sheet.contact_sheet("a", [["x"]], squares(1, (8, 8))).width >= 128
    wide = contact_sheet.contact_sheet("a", [["x"], [f"seed={n}" for n in range(40)]], squares(8, (512, 64)) * 5)
    assert wide.width < MAX_SIDE + 1000


def test_a_font_that_lacks_characters_is_known():
    font = ImageFont.load_default(FONT_SIZE)
    assert missing("steps=10 guidance_scale=7.5", font) == set()
    assert missing("a 猫", font) == {"猫"}


def test_labels_that_no_font_shows_are_told(monkeypatch, caplog):
    monkeypatch.setattr(contact_sheet, "FONTS", ("no-such-font.ttf",))
    for cached in (font_for, contact_sheet.warn_of):
        cached.cache_clear()
    with caplog.at_level(logging.WARNING):
        contact_sheet.contact_sheet("一只猫", [["steps=1"]], squares(1))
        contact_sheet.contact_sheet("一只猫", [["steps=1"]], squares(1))
    font_for.cache_clear()
    assert len(caplog.records) == 1
    assert "猫" in caplog.text
    assert "Noto Sans CJK" in caplog.text
