"""Contact sheets: images with labels on rows and columns, in any script that a font of this machine has.

The labels of Chinese, Japanese and Korean need one of FONTS; where none is there, a warning says what to install.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from itertools import product

from PIL import Image, ImageDraw, ImageFont

logger = logging.getLogger(__name__)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Looked for by name wherever the system keeps fonts. The first that has all characters of a label is taken.
FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "NotoSansSC-Regular.otf", "SourceHanSansSC-Regular.otf",
    "wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc",
    "simsun.ttc", "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansArabic-Regular.ttf", "Arial Unicode.ttf", "arial.ttf",
)  # fmt: skip
FONT_SIZE = 14  # pixels
MAX_SIDE = 8192  # of a sheet, in pixels
MIN_CELL = 128  # pixels of the longer side of an image on a sheet, smaller ones are enlarged
MAX_IN_A_ROW = 8  # where there are no columns with labels
_GAP = 6
_MISSING = "\U0010ffff"  # a character that no font has


def contact_sheet(title: str, axes: Sequence[Sequence[str]], images: Sequence[Image.Image | None]) -> Image.Image:
    """The images with their labels; None leaves an empty place.

    axes: the labels of each; images: in the order of their product, the last axis changing fastest. The last axis stands
    above the columns, all others together beside the rows. Of one axis, each image has its label above it.
    """
    if len(axes) == 1:
        columns = min(MAX_IN_A_ROW, len(images))
        blocks = [range(start, min(start + columns, len(images))) for start in range(0, len(images), columns)]
        above = [[axes[0][index] for index in block] for block in blocks]
        beside = [""] * len(blocks)
    else:
        columns = len(axes[-1])
        beside = ["\n".join(labels) for labels in product(*axes[:-1])]
        blocks = [range(start, start + columns) for start in range(0, len(images), columns)]
        above = [list(axes[-1]), *([] for _ in blocks[1:])]
    cell = _cell_size([image for image in images if image is not None], columns, len(blocks))
    left = max(map(_width_of, beside)) + _GAP if any(beside) else 0
    left = min(left, max(MIN_CELL, cell[0]))
    width = left + columns * (cell[0] + _GAP) + _GAP
    rows: list[Image.Image] = [_label(title, width - 2 * _GAP)]
    for block, labels, text in zip(blocks, above, beside, strict=True):
        if labels:
            rows.append(_row([Image.new("RGB", (max(1, left), 1), "white"), *(_label(one, cell[0]) for one in labels)]))
        shown = [_fitted(images[index], cell) for index in block]
        rows.append(_row([_label(text, left) if left else Image.new("RGB", (1, 1), "white"), *shown]))
    sheet = Image.new("RGB", (width, _GAP + sum(row.height + _GAP for row in rows)), "white")
    top = _GAP
    for row in rows:
        sheet.paste(row, (_GAP, top))
        top += row.height + _GAP
    return sheet


def _row(tiles: Sequence[Image.Image]) -> Image.Image:
    """Tiles beside each other, the first one flush left."""
    first, *others = tiles
    row = Image.new(
        "RGB", (first.width + sum(tile.width + _GAP for tile in others), max(t.height for t in tiles)), "white"
    )
    row.paste(first, (0, 0))
    left = first.width
    for tile in others:
        row.paste(tile, (left, 0))
        left += tile.width + _GAP
    return row


def _cell_size(images: Sequence[Image.Image], columns: int, rows: int) -> tuple[int, int]:
    """Of the largest image, enlarged by a whole number where it is tiny, made smaller where the sheet would be too large."""
    width = max((image.width for image in images), default=MIN_CELL)
    height = max((image.height for image in images), default=MIN_CELL)
    larger = -(-MIN_CELL // max(width, height))
    scale = min(larger, MAX_SIDE / (columns * width), MAX_SIDE / (rows * height))
    return max(1, int(width * scale)), max(1, int(height * scale))


def _fitted(image: Image.Image | None, size: tuple[int, int]) -> Image.Image:
    tile = Image.new("RGB", size, "white" if image is not None else "lightgray")
    if image is not None:
        scale = min(size[0] / image.width, size[1] / image.height)
        resample = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
        resized = image.convert("RGB").resize((int(image.width * scale), int(image.height * scale)), resample)
        tile.paste(resized, (0, 0))
    return tile


def _label(text: str, width: int) -> Image.Image:
    """Black on white, broken into lines where it is wider than `width` pixels."""
    font = font_for(text)
    lines = [line for paragraph in text.split("\n") for line in _broken(paragraph, font, width)]
    height = FONT_SIZE + 8  # room for what Chinese fonts have below the line
    label = Image.new("RGB", (max(1, width), max(1, len(lines)) * height), "white")
    draw = ImageDraw.Draw(label)
    for number, line in enumerate(lines):
        draw.text((0, number * height), line, "black", font)
    return label


def _broken(text: str, font: Font, width: int) -> list[str]:
    """Lines that fit, broken at spaces, or anywhere in a word that is too long, as Chinese is."""
    lines, line = [], ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        while joined and font.getlength(joined) > width:
            if line and font.getlength(word) <= width:
                lines.append(line)
                joined = word
                break
            count = next((n for n in range(len(joined), 1, -1) if font.getlength(joined[:n]) <= width), 1)
            lines.append(joined[:count])
            joined = word = joined[count:]
            line = ""
        line = joined
    return [*lines, line]


def _width_of(text: str) -> int:
    font = font_for(text)
    return max(int(font.getlength(line)) + 1 for line in text.split("\n"))


@functools.lru_cache(maxsize=256)
def font_for(text: str) -> Font:
    """Pillow's own font, or the first of FONTS that has all characters of a text; else that with most, and a warning."""
    best: Font = ImageFont.load_default(FONT_SIZE)
    if not (lacking := missing(text, best)):
        return best
    for font in _fonts(FONTS):
        if len(found := missing(text, font)) < len(lacking):
            best, lacking = font, found
        if not lacking:
            return best
    warn_of("".join(sorted(lacking))[:20])
    return best


def missing(text: str, font: Font) -> set[str]:
    """The characters of a text that a font hasn't: it draws the same box for each."""
    box = _drawn(_MISSING, font)
    return {character for character in set(text) if not character.isspace() and _drawn(character, font) == box}


def _drawn(character: str, font: Font) -> bytes:
    return bytes(font.getmask(character))


@functools.lru_cache(maxsize=2)
def _fonts(names: tuple[str, ...]) -> list[Font]:
    fonts: list[Font] = []
    for name in names:
        try:
            fonts.append(ImageFont.truetype(name, FONT_SIZE))
        except OSError:  # it isn't here
            continue
    return fonts


@functools.lru_cache(maxsize=1)
def warn_of(characters: str) -> None:
    """A warning, once, of characters that no font has."""
    logger.warning(
        "no font on this machine shows %s, so labels of the contact sheet have boxes there: install Noto Sans CJK, or for "
        "other scripts Noto Sans or DejaVu",
        characters,
    )
