"""Images of every kind come out upright and RGB; what is none is refused in one line."""

import io
import struct
import warnings
import zlib

import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from altdiffusion import InputError
from altdiffusion.altclip.image_inputs import as_image
from altdiffusion.generation.infotext import open_info
from altdiffusion.images import (
    TooManyPixels,
    decode_image,
    fit,
    image_file,
    image_files,
    image_size,
    open_image,
    read_image,
)
from altdiffusion.prefetch import prefetch
from altdiffusion.web.limits import Limits
from altdiffusion.web.uploads import open_upload


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "I;16", "LA", "RGBA"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new(mode, (9, 7)).save(path)
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (9, 7))


def test_transparency_becomes_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "x.png")
    assert open_image(tmp_path / "x.png").getpixel((0, 0)) == (255, 255, 255)


def test_floats_in_a_file_are_scaled_or_refused(tmp_path):
    Image.new("F", (4, 4), 0.5).save(tmp_path / "x.tif")
    assert open_image(tmp_path / "x.tif").getpixel((0, 0)) == (128, 128, 128)
    for wrong in (200.0, float("nan")):
        Image.new("F", (4, 4), wrong).save(tmp_path / "x.tif")
        with pytest.raises(InputError, match="expected 0 to 1"):
            open_image(tmp_path / "x.tif")


def test_16_bit_keeps_its_brightness(tmp_path):
    Image.new("I;16", (4, 4), 32768).save(tmp_path / "x.png")
    assert abs(open_image(tmp_path / "x.png").getpixel((0, 0))[0] - 128) <= 1


def test_exif_turns_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "x.jpg", exif=exif)
    assert open_image(tmp_path / "x.jpg").size == (4, 8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_every_orientation_is_pillows_own_and_read_once(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    start = Image.new("RGB", (8, 4))
    start.paste("red", (0, 0, 3, 2))
    start.save(tmp_path / f"x.{ending}", exif=exif)
    with Image.open(tmp_path / f"x.{ending}") as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    image = open_image(tmp_path / f"x.{ending}")
    assert image.tobytes() == as_image(image).tobytes() == expected.tobytes()
    assert image.size == expected.size == image_size(image_file(tmp_path / f"x.{ending}"))


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "I;16"])
def test_an_uncompressed_tiff_is_turned_as_a_png_is(tmp_path, mode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = Image.effect_noise((8, 4), 90)
    start = noise.convert("I").point(lambda value: value * 257).convert(mode) if mode == "I;16" else noise.convert(mode)
    start.save(tmp_path / "x.tif", exif=exif)
    (start.convert("RGB") if mode == "CMYK" else start).save(tmp_path / "x.png", exif=exif)
    for wanted in ("RGB", "L"):
        tiff, png = (open_image(tmp_path / f"x.{ending}", wanted) for ending in ("tif", "png"))
        assert (tiff.size, tiff.tobytes()) == (png.size, png.tobytes())


def jpeg_with(tag, kind, count, value):
    """A JPEG of 8 x 4 with orientation 6 and one more EXIF value, as a camera may write it."""
    entries = [(0x0112, 3, 1, struct.pack("<H", 6)), (tag, kind, count, value)]
    body, data, offset = b"", b"", 8 + 2 + 12 * len(entries) + 4
    for number, type_, many, content in entries:
        short = len(content) <= 4
        body += struct.pack("<HHI", number, type_, many)
        body += content.ljust(4, b"\0") if short else struct.pack("<I", offset + len(data))
        data += b"" if short else content
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4) + data
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4), "red").save(buffer, "JPEG")
    plain = buffer.getvalue()
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]


@pytest.mark.parametrize(
    "entry",
    [
        (0x9204, 10, 1, struct.pack("<ii", -1, 0)),  # an exposure bias of -1/0
        (0x0100, 7, 4, b"abcd"),  # a width as four bytes
        (0x0100, 9, 1, struct.pack("<i", -5)),  # a negative one
        (0x829A, 5, 1, struct.pack("<II", 1, 0)),  # an exposure time of 1/0
    ],
)
def test_exif_that_pillow_cannot_write_is_no_damage(tmp_path, entry):
    path = tmp_path / "x.jpg"
    path.write_bytes(jpeg_with(*entry))
    assert open_image(path).size == decode_image(image_file(path)).size == as_image(path).size == (4, 8)


@pytest.mark.parametrize("mode", ["LAB", "CMYK", "P", "1", "LA", "I;16"])
def test_every_mode_becomes_a_mask(tmp_path, mode):
    start = Image.new("RGB", (9, 7), "white")
    (Image.new(mode, (9, 7), 65535) if mode == "I;16" else start.convert(mode)).save(tmp_path / "x.tif")
    mask = open_image(tmp_path / "x.tif", "L")
    assert (mask.mode, mask.size) == ("L", (9, 7))
    assert mask.getpixel((4, 4)) > 250


def bomb(path, side):
    """A PNG header that promises side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"IDAT" + zlib.compress(b"")
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data, b"IEND")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("side", [9_000, 30_000, 2_000_000])
def test_decompression_bomb_is_refused(tmp_path, side):
    bomb(tmp_path / "x.png", side)
    with pytest.raises(InputError, match="pixels"):
        open_image(tmp_path / "x.png")


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_picture_is_one_clear_line(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.png"):
        open_image(tmp_path / "x.png")


def test_truncated_picture_is_one_clear_line(tmp_path):
    path = tmp_path / "x.png"
    Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="whole"):
        open_image(path)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "no.png", tmp_path):
        with pytest.raises(InputError, match="no such image"):
            open_image(path)


@pytest.mark.parametrize(
    ("size", "native", "expected"),
    [
        ((640, 480), 64, (72, 56)),
        ((64, 64), 64, (64, 64)),
        ((10, 1000), 64, (8, 640)),
        ((4000, 3000), 512, (592, 440)),
        ((10000, 10), 512, (4096, 16)),
    ],
)
def test_fit_keeps_area_and_proportions(size, native, expected):
    assert fit(Image.new("RGB", size), native).size == expected


@pytest.mark.parametrize(
    ("kind", "pixel", "rgb", "grey"),
    [
        ("1", 1, (255, 255, 255), 255),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0), 76),
        ("LAB", (255, 128, 128), (254, 255, 254), 255),
        ("RGBA", (200, 0, 0, 0), (255, 255, 255), 60),
        ("LA", (80, 0), (255, 255, 255), 80),
        ("I;16", 32768, (127, 127, 127), 127),
        ("F", 0.5, (128, 128, 128), 128),
        ("L", 7, (7, 7, 7), 7),
    ],
)
def test_paths_and_data_sets_and_memory_are_read_alike(tmp_path, kind, pixel, rgb, grey):
    path = tmp_path / ("x.tif" if kind in ("F", "CMYK", "LAB") else "x.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"compression": "tiff_lzw"} if path.suffix == ".tif" else {}  # see the uncompressed ones below
    Image.new(kind, (8, 4), pixel).save(path, exif=exif, **options)
    images = [open_image(path), read_image(path), decode_image(image_file(path)), as_image(path)]
    images += [as_image(Image.open(path)), open_image(Image.open(path)), open_upload(path, Limits())]
    assert {(image.mode, image.size, image.getpixel((0, 0))) for image in images} == {("RGB", (4, 8), rgb)}
    masks = [open_image(path, "L"), read_image(path, "L"), open_image(Image.open(path), "L")]
    masks += [open_upload(path, Limits(), "L")]
    assert {(mask.mode, mask.size, mask.getpixel((0, 0))) for mask in masks} == {("L", (4, 8), grey)}


@pytest.mark.parametrize("mode", ["RGBa", "La", "PA", "YCbCr", "HSV", "RGBX", "I", "I;16B"])
def test_modes_that_are_in_memory_alone(mode):
    image = Image.new(mode, (8, 4)) if mode[0] == "I" else Image.new("RGBA", (8, 4), "white")
    if image.mode != mode:
        image = image.convert("LA" if mode in ("La", "PA") else "RGB" if mode in ("YCbCr", "HSV", "RGBX") else "RGBA")
        image = image.convert(mode)
    for wanted in ("RGB", "L"):
        read = open_image(image, wanted)
        assert (read.mode, read.size) == (wanted, (8, 4))
        assert min(read.convert("L").getextrema()) >= (0 if mode[0] == "I" else 250)


def test_a_palettes_transparency_is_white(tmp_path):
    start = Image.new("P", (8, 4))
    start.putpalette([255, 0, 0, 0, 0, 255])
    start.paste(1, (4, 0, 8, 4))
    start.save(tmp_path / "x.png", transparency=0)
    for image in (tmp_path / "x.png", Image.open(tmp_path / "x.png")):
        read = open_image(image)
        assert (read.getpixel((0, 0)), read.getpixel((7, 0))) == ((255, 255, 255), (0, 0, 255))


def test_what_is_wrong_in_memory_is_one_line():
    with pytest.raises(InputError, match="the image in memory: floating-point values of 2 to 2: expected 0 to 1"):
        open_image(Image.new("F", (4, 4), 2.0))
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(buffer, "PNG")
    with pytest.raises(InputError, match="the image in memory: the image is damaged or cut off"):
        open_image(Image.open(io.BytesIO(buffer.getvalue()[:1000])))


def png_with(path, *texts):
    """A PNG with an infotext and texts of any form: (name, text, packed), or a colour profile ("icc", bytes)."""
    info, profile = PngImagePlugin.PngInfo(), None
    info.add_itxt("parameters", "a cat\nSteps: 3")
    for name, text, *packed in texts:
        if name == "icc":
            profile = text
        elif text.isascii():
            info.add_text(name, text, zip=packed[0])
        else:
            info.add_itxt(name, text, zip=packed[0])
    Image.effect_noise((8, 4), 50).convert("RGB").save(path, pnginfo=info, icc_profile=profile)


MANY = 2 * 2**20


@pytest.mark.parametrize(
    "texts",
    [
        [("icc", bytes(MANY))],
        [("workflow", "a" * MANY, True)],
        [("workflow", "猫" * MANY, True)],
        [("workflow", "a" * MANY, False), ("prompt", "猫" * MANY, False)],
        [("icc", bytes(MANY)), ("workflow", "a" * MANY, True), ("prompt", "猫" * 2**20, True)],
    ],
    ids=["profile", "zTXt", "iTXt", "unpacked", "all"],
)
def test_large_texts_and_profiles_are_no_damage(tmp_path, texts):
    png_with(tmp_path / "plain.png")
    png_with(tmp_path / "x.png", *texts)
    source = image_file(tmp_path / "x.png")
    assert image_size(source) == (8, 4)
    for image in (open_image(tmp_path / "x.png"), decode_image(source), open_upload(tmp_path / "x.png", Limits())):
        assert image.size == (8, 4)
    assert open_info(tmp_path / "x.png").prompt == "a cat"


def test_texts_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 3 * 2**20)
    png_with(tmp_path / "x.png", ("a", "a" * MANY, True), ("b", "b" * MANY, True))
    with pytest.raises(InputError, match="the texts in the image are too large: expected at most 64 MB"):
        open_image(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "L"])
def test_a_colour_profile_changes_no_value_and_stays_where_it_fits(tmp_path, mode):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "x.tif"
    start = Image.new("RGB", (4, 4), (200, 90, 30)).convert(mode)
    start.save(path, icc_profile=profile)
    for image in (open_image(path), open_image(Image.open(path))):
        assert image.tobytes() == start.convert("RGB").tobytes()
        assert image.info == ({"icc_profile": profile} if mode in ("RGB", "RGBA") else {})


def test_more_pixels_than_a_reader_allows_are_told_apart_from_damage(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", max_pixels=64).size == (8, 8)
    with pytest.raises(TooManyPixels, match="more than 63 pixels"):
        read_image(tmp_path / "x.png", max_pixels=63)


def test_reading_in_threads_leaves_the_filters_of_warnings_alone(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    before = list(warnings.filters)
    list(prefetch(read_image, [tmp_path / "x.png"] * 200, ahead=50, workers=8))
    assert warnings.filters == before


def test_the_images_below_a_folder_are_each_found_once(tmp_path):
    for name in ("b.png", "a/c.JPG", "a/deep/d.webp", ".hidden/x.png", "a/.e.png", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/deep/again").symlink_to(tmp_path)
    (tmp_path / "z").symlink_to(tmp_path / "a")
    names = [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path, deep=True)]
    assert names == ["a/c.JPG", "a/deep/d.webp", "b.png"]
    assert [path.name for path in image_files(tmp_path)] == ["b.png"]
    assert image_files(tmp_path / "nowhere", deep=True) == []
