"""Images of tables as they are decoded: upright, RGB, refused where they are damaged or no images."""

import struct
import zlib

import pytest
from helpers.tables import read, save_image, tsv
from PIL import Image

from altdiffusion.images import BadImage, decode_image


@pytest.fixture
def decode(tmp_path):
    """Decode an image's bytes as a table's image."""

    def run(content):
        (tmp_path / "x.png").write_bytes(content)
        table, _ = read(tsv(tmp_path / "x.tsv", ("image", "caption"), ("x.png", "x")), images=True)
        return decode_image(table[0]["image"])

    return run


def test_images_come_upright_in_rgb_on_white(tmp_path, decode):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("CMYK", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (8, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    turned, clear = (decode((tmp_path / name).read_bytes()) for name in ("turned.jpg", "clear.png"))
    assert (turned.mode, turned.size) == ("RGB", (4, 8))
    assert clear.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image_is_refused(tmp_path, decode, form):
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole", form)
    with pytest.raises(BadImage, match="damaged"):
        decode((tmp_path / "whole").read_bytes()[:1000])


@pytest.mark.parametrize("content", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_image_is_refused(decode, content):
    with pytest.raises(BadImage, match="that can be read: expected JPEG"):
        decode(content)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_001, 9_500, 30_000])  # we refuse the first, Pillow warns of the second
def test_a_decompression_bomb_is_refused(decode, side):
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    with pytest.raises(BadImage, match="64,000,000 pixels"):
        decode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_a_image_that_vanished_is_refused(tmp_path):
    path = save_image(tmp_path / "x.png")
    table, _ = read(tsv(tmp_path / "x.tsv", ("image", "caption"), ("x.png", "x")), images=True)
    path.unlink()
    with pytest.raises(BadImage, match="can't be read"):
        decode_image(table[0]["image"])
