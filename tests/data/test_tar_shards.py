"""Tar files as WebDataset writes them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.tables import encoded, read, skips, tar

from altdiffusion import InputError
from altdiffusion.data.tar_shards import OpenFile, TarTable


def test_a_sample_of_a_tar_is_its_folder_and_name_up_to_the_first_dot(tmp_path):
    members = {
        "a/1.txt": "one",
        "b/1.txt": "two",
        "a/2.seg.json": "no",
        "b/3.txt": "3",
        "a/1.json": {"zh": "一"},
        ".1.txt": "",
    }
    table, skipped = read(tar(tmp_path / "x.tar", members), ["caption"])
    assert [(table.where(i), table[i]["caption"]) for i in range(len(table))] == [
        (f"{tmp_path}/x.tar:a/1.txt", "one"),
        (f"{tmp_path}/x.tar:b/1.txt", "two"),
        (f"{tmp_path}/x.tar:b/3.txt", "3"),
    ]
    assert skipped.count == 0


def test_long_and_foreign_names_in_a_tar(tmp_path):
    members = {"猫" * 80 + "/" + "x" * 120 + ".txt": "cat"}
    table, _ = read(tar(tmp_path / "x.tar", members))
    assert table.where(0).endswith("x.txt")
    assert "猫" * 80 in table.where(0)
    assert table[0] == {"caption": "cat"}


def test_every_kind_of_bad_sample_is_counted_where_it_stands(tmp_path, capsys):
    members = {
        "0.jpg": b"",
        "0.txt": "cat\n",
        "1.txt": "dog",
        "2.jpg": b"",
        "3.jpg": b"",
        "3.txt": b"\xb9\xb7",
        "4.png": b"",
        "4.txt": " ",
    }
    path = tar(tmp_path / "x.tar", members)
    table, _ = read(path, images=True)
    assert [record["caption"] for record in table] == ["cat"]
    assert skips(capsys) == {
        f"{path}:1.txt": "no image",
        f"{path}:2.jpg": "no caption",
        f"{path}:3.jpg": "not UTF-8",
        f"{path}:4.png": "caption is empty",
    }


@pytest.mark.parametrize("cut", [0, 100, 511, 512, 700, 1024, 1500, 2047, 2048])
def test_a_tar_that_is_cut_off_is_refused(tmp_path, cut):
    path = tar(tmp_path / "x.tar", {"1.txt": "cat", "2.txt": "dog"})  # two blocks of 512 bytes each
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"x\.tar"):
        read(path)


def test_a_tar_that_is_damaged_in_the_middle_is_refused(tmp_path):
    path = tar(tmp_path / "x.tar", {"1.txt": "cat", "2.txt": "dog"})
    content = bytearray(path.read_bytes())
    content[1024:1034] = b"x" * 10
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.tar is cut off or damaged at byte 1024"):
        read(path)


@pytest.mark.parametrize(
    ("name", "form"), [("x.tar", "w:gz"), ("x.tar", "w:xz"), ("x.tar.gz", "w:gz"), ("x.tgz", "w:gz")]
)
def test_a_compressed_tar_is_refused(tmp_path, name, form):
    with pytest.raises(InputError, match="compressed"):
        read(tar(tmp_path / name, {"1.txt": "cat"}, form))


@pytest.mark.parametrize(
    "members",
    [{}, {"readme.md": "x"}, {"1.json": [1]}, {"1.json": {}}, {"1.json": {"id": 1}}, {"1.txt": ""}, {"1.jpg": ""}],
)
def test_a_tar_without_text_is_refused(tmp_path, members):
    with pytest.raises(InputError, match=r"x\.tar"):
        read(tar(tmp_path / "x.tar", members))


IMAGE = encoded("red", "JPEG")


def pairs(*keys, image=".jpg", text=".txt"):
    return [part for key in keys for part in ((f"{key}{image}", IMAGE), (f"{key}{text}", f"caption of {key}"))]


@pytest.mark.parametrize("ending", [".jfif", ".gif", ".avif", ".JPG", ".bmp", ".tiff", ".webp"])
@pytest.mark.parametrize("text", [".txt", ".caption", ".TXT"])
def test_every_ending_of_images_and_captions_is_read(tmp_path, ending, text):
    table, skipped = read(tar(tmp_path / "x.tar", pairs("0", "1", image=ending, text=text)), images=True)
    assert [record["caption"] for record in table] == ["caption of 0", "caption of 1"]
    assert skipped.count == 0


def test_an_ending_that_came_to_be_read_takes_no_samples_place(tmp_path):
    members = [*pairs("0"), ("0.gif", b"no"), ("0.caption", "no")]
    table, _ = read(tar(tmp_path / "x.tar", members), images=True)
    assert (table[0]["caption"], table[0]["image"].member) == ("caption of 0", "0.jpg")


@pytest.mark.parametrize("names", [["photo.2"], ["a.1", "a.2", "b.3"], ["1.crop"], ["dir.x/y.1"]])
def test_samples_with_a_dot_in_their_name_are_counted_and_named(tmp_path, capsys, names):
    path = tar(tmp_path / "x.tar", pairs("0", "1", *names))
    table, skipped = read(path, images=True)
    assert (len(table), skipped.count) == (2, len(names))
    assert set(skips(capsys)) == {f"{path}:{name}.jpg" for name in names}


def test_what_goes_with_a_sample_is_not_counted(tmp_path):
    members = [
        *pairs("0"),
        ("0.mask.png", IMAGE),
        ("0.npy", b""),
        ("0.cls", "1"),
        ("README.md", "x"),
        (".x.jpg", IMAGE),
    ]
    table, skipped = read(tar(tmp_path / "x.tar", members), images=True)
    assert (len(table), skipped.count) == (1, 0)


def test_images_that_are_not_read_are_counted(tmp_path, capsys):
    path = tar(tmp_path / "x.tar", [*pairs("0"), ("1.heic", b"x"), ("1.txt", "cat"), ("2.HEIC", b"x")])
    table, _ = read(path, images=True)
    assert len(table) == 1
    assert skips(capsys) == {f"{path}:1.txt": "no image", f"{path}:2.HEIC": "images in .heic aren't read"}


@pytest.mark.parametrize("keys", [["0", "1", "1"], ["0", "1", "0", "1"], ["0", "0", "0"]])
def test_a_key_that_comes_again_is_another_sample(tmp_path, keys):
    members = pairs(*keys)
    members[-1] = (members[-1][0], "the last")
    table, skipped = read(tar(tmp_path / "x.tar", members), images=True)
    assert [record["caption"] for record in table] == [*(f"caption of {key}" for key in keys[:-1]), "the last"]
    assert len({record["image"].member for record in table}) == len(keys)
    assert skipped.count == 0


def test_a_tar_of_all_images_and_then_all_captions_is_joined_by_key(tmp_path):
    members = pairs("0", "1", "2")
    table, _ = read(tar(tmp_path / "x.tar", [*members[::2], *members[1::2]]), images=True)
    assert [record["caption"] for record in table] == [f"caption of {number}" for number in range(3)]


def test_a_tar_that_stays_open_is_opened_once_and_read_by_several_threads(tmp_path, monkeypatch):
    path = tar(tmp_path / "x.tar", {f"{number}.jpg": str(number).encode() * (number + 1) for number in range(200)})
    opened, open_path = [], Path.open
    monkeypatch.setattr(Path, "open", lambda *given: opened.append(open_path(*given)) or opened[-1])
    table = TarTable(path, None, images=True, skip=lambda *_: None, read=OpenFile(path))
    images = [table[index]["image"] for index in range(200)]
    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(lambda image: image.read(), images))
    assert contents == [str(number).encode() * (number + 1) for number in range(200)]
    assert len(opened) == 2  # and for the index
    del table
    assert not opened[0].closed  # by images that may still be read
    del images
    assert opened[0].closed
