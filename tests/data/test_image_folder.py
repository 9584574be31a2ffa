"""Folders of images, with or without a text beside each: what isn't read is counted and said."""

import pytest
from helpers.tables import encoded, read, save_image, skips

from altdiffusion import InputError
from altdiffusion.data.image_folder import ImageFolder


def test_endings_decide_less_than_contents(tmp_path, capsys):
    for name in ("a.jpg", "b.jfif", "c.HEIC", "d.JPE", "notes.md"):
        (tmp_path / name).write_bytes(encoded("red", "JPEG"))
    for name in ("e.HEIC", "f.jxl", "g.heif"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
    folder = ImageFolder(tmp_path)
    assert [folder.where(i).rpartition("/")[2] for i in range(len(folder))] == ["a.jpg", "b.jfif", "c.HEIC", "d.JPE"]
    assert "3 images aren't read (e.HEIC, f.jxl, g.heif): convert them" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".txt", ".caption"])
def test_a_folder_of_kohyas_is_training_data(tmp_path, capsys, ending):
    for name in ("b", "a", "c.d", "e", "f"):
        save_image(tmp_path / f"{name}.png")
        (tmp_path / f"{name}{ending}").write_text(f"\ufeff{name}, a cat \n", encoding="utf-8")
    (tmp_path / f"e{ending}").unlink()
    (tmp_path / f"f{ending}").write_text(" ")
    table, _ = read(tmp_path, images=True)
    assert table.columns == ("caption",)
    assert [record["caption"] for record in table] == ["a, a cat", "b, a cat", "c.d, a cat"]
    assert [record["image"].path.name for record in table] == ["a.png", "b.png", "c.d.png"]
    assert skips(capsys) == {
        f"{tmp_path}/e.png": "no caption: expected a .txt or .caption beside the image",
        f"{tmp_path}/f.png": "caption is empty",
    }
    with pytest.raises(InputError, match="no column zh: its columns are caption"):
        read(tmp_path, ["zh"], images=True)


def test_a_folder_of_such_folders_says_how_to_name_them(tmp_path):
    save_image(tmp_path / "10_cat" / "a.png")
    (tmp_path / "10_cat" / "a.txt").write_text("a cat")
    with pytest.raises(InputError, match=r"holds folders of images with captions: name them, .*/\*"):
        read(tmp_path, images=True)
    assert len(read(tmp_path / "*", images=True)[0]) == 1


def test_images_alone_are_read_without_their_texts(tmp_path):
    save_image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a cat")
    assert list(read(tmp_path, None, images=True)[0][0]) == ["image"]
