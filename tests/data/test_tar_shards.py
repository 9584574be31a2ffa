"""Tar files as WebDataset writes them."""

import pytest
from helpers.tables import read, skips, tar

from altdiffusion import InputError


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
