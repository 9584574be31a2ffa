"""Images by their places: in files, tars and parquet; what isn't there has its reason."""

import io
import tarfile

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from altdiffusion.data.image_places import image_at, thumbnail
from altdiffusion.images import BadImage

COLOURS = ("red", "green", "blue")


def png(colour: str, size: tuple[int, int] = (8, 4)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, "PNG")
    return content.getvalue()


def save_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "图 片").mkdir()
    (tmp_path / "图 片" / "红.png").write_bytes(png("red"))
    (tmp_path / "a.tar:b.png").write_bytes(png("blue"))
    save_tar(tmp_path / "a.tar", [("b.png", png("red")), ("d/c.jpg", png("green")), ("b.png", png("blue"))])
    images = [png(COLOURS[row % 3]) for row in range(40)]
    parquet.write_table(pyarrow.table({"image": images, "n": range(40)}), tmp_path / "t.parquet", row_group_size=25)
    nested = [{"bytes": image, "path": None} for image in images]
    parquet.write_table(pyarrow.table({"image": nested}), tmp_path / "n.parquet")
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "text.parquet")
    (tmp_path / "no.parquet").write_bytes(b"PAR1")
    (tmp_path / "no.tar").write_bytes(b"none")
    (tmp_path / "no.png").write_bytes(b"none")
    return tmp_path


@pytest.mark.parametrize("is_absolute", [True, False])
@pytest.mark.parametrize(
    ("place", "colour"),
    [
        ("图 片/红.png", "red"),
        ("a.tar:b.png", "blue"),  # a file of that name comes first
        ("a.tar:d/c.jpg", "green"),
        ("a.tar:b.png (2)", "blue"),
        ("t.parquet:group 0 row 0", "red"),
        ("t.parquet:group 0 row 19", "green"),
        ("t.parquet:group 1 row 14", "red"),
        ("n.parquet:group 0 row 38", "blue"),
    ],
)
def test_an_image_is_opened_by_its_place(root, place, colour, is_absolute, monkeypatch):
    monkeypatch.chdir(root.parent)
    image = thumbnail(str(root / place), root.parent, 8) if is_absolute else thumbnail(place, root, 8)
    assert (image.getpixel((0, 0)), image.size) == (Image.new("RGB", (1, 1), colour).getpixel((0, 0)), (8, 4))


@pytest.mark.parametrize("size", [(100, 50), (3, 90), (20, 20), (5, 5)])
def test_a_thumbnail_is_no_larger_than_asked_and_none_is_enlarged(tmp_path, size):
    (tmp_path / "a.png").write_bytes(png("red", size))
    found = thumbnail("a.png", tmp_path, 20).size
    assert max(found) == min(20, max(size))


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("", "isn't there any more"),
        ("none.png", "isn't there any more"),
        ("图 片", "isn't there any more"),
        ("x" * 5000, "isn't there any more"),
        ("a\0b.png", "isn't there any more"),
        ("none.tar:b.png", "isn't there any more"),
        ("a.tar:none.png", "isn't in its tar"),
        ("no.tar:b.png", "tar can't be read"),
        ("t.parquet:group 2 row 0", "isn't in its table"),
        ("t.parquet:group 1 row 15", "isn't in its table"),
        ("text.parquet:group 0 row 0", "isn't in its table"),
        ("no.parquet:group 0 row 0", "table can't be read"),
        ("t.parquet:3", "isn't there any more"),
        ("no.png", "no image that can be read"),
        ("https://example.com/a.png", "isn't fetched"),
        ("s3://bucket/a.tar:b.png", "isn't fetched"),
        ("file:///etc/hostname", "isn't fetched"),
    ],
)
def test_what_cant_be_shown_has_its_reason(root, place, reason):
    with pytest.raises(BadImage, match=reason):
        thumbnail(place, root, 8)


def test_a_tar_that_was_replaced_is_read_anew(tmp_path):
    for colour, name in (("red", "1.png"), ("green", "long-name.png")):
        save_tar(tmp_path / "a.tar", [("0.png", png("blue")), (name, png(colour))])
        assert image_at(f"a.tar:{name}", tmp_path).read() == png(colour)
