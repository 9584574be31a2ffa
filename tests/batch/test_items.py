"""The items of every layout, and what is said of those that can't be used."""

import json
from dataclasses import replace

import pytest
from helpers.batch_data import CAPTIONS, SOURCES, UIDS, save_tar

from altdiffusion.batch.items import Reading, read_items
from altdiffusion.batch.partitions import plan
from altdiffusion.errors import InputError
from altdiffusion.images import BadImage, decode_image


def items_of(source, size=4, **reading):
    return [item for part in plan(str(source), size) for item in read_items(part, Reading(**reading))]


@pytest.mark.parametrize("kind", SOURCES)
def test_every_layout_gives_the_same_items_in_order(batch_source, kind):
    items = items_of(batch_source / SOURCES[kind])
    assert [item.text for item in items] == CAPTIONS
    assert [item.id for item in items] == ([f"{n:03}.png" for n in range(10)] if kind == "folder" else UIDS)
    assert not any(item.defect for item in items)
    assert {decode_image(item.image).size for item in items} == {(32, 32)}
    first = items_of(batch_source / "images")
    pixels = [decode_image(item.image).tobytes() for item in items]
    assert pixels == [decode_image(item.image).tobytes() for item in first]
    assert all("bytes" not in str(item.columns) for item in items)


def test_rows_that_cannot_be_used_come_with_their_defects(tmp_path):
    good = {"caption": "a cat", "image": "https://example.org/cat.png"}
    lines = [
        json.dumps(good),
        "not JSON",
        json.dumps(good | {"caption": " "}),
        json.dumps(good | {"image": 7}),
        "",
        json.dumps({"caption": "no image"}),
        json.dumps(good | {"image": "gone.png"}),
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    items = items_of(tmp_path / "t.jsonl", size=3)
    assert [(item.where.rpartition(":")[2], item.defect) for item in items] == [
        ("1", ""),
        ("2", "not valid JSON"),
        ("3", "caption is empty"),
        ("4", "image is no path and no image"),
        ("6", ""),  # the fifth line is empty
        ("7", ""),
    ]
    assert items[4].image is None
    with pytest.raises(BadImage, match="can't be read from its file"):
        decode_image(items[5].image)
    with pytest.raises(BadImage, match="https:// isn't fetched unless --fetch https says so"):
        items[0].image.read()


def test_urls_are_fetched_where_their_kind_is_allowed(tmp_path, batch_source):
    fsspec = pytest.importorskip("fsspec")
    content = (batch_source / "images/000.png").read_bytes()
    with fsspec.open("memory://pictures/cat.png", "wb") as file:
        file.write(content)
    rows = [{"image": "memory://pictures/cat.png"}, {"image": "memory://pictures/gone.png"}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, missing = items_of(tmp_path / "t.jsonl", fetch=("memory",))
    assert found.image.read() == content
    with pytest.raises(BadImage, match="can't be fetched"):
        missing.image.read()


def test_a_table_in_a_store_has_its_images_beside_it(batch_source):
    fsspec = pytest.importorskip("fsspec")
    for name in ("rows.jsonl", "images/000.png"):
        with fsspec.open(f"memory://beside/{name}", "wb") as file:
            file.write((batch_source / name).read_bytes())
    items = items_of("memory://beside/rows.jsonl", fetch=("memory",))
    assert [item.text for item in items] == CAPTIONS
    assert items[0].image.read() == (batch_source / "images/000.png").read_bytes()


def test_columns_may_be_named(tmp_path):
    (tmp_path / "t.csv").write_text("name,zh,caption,image\nx,猫,cat,a.png\n,狗,dog,b.png\n")
    items = items_of(tmp_path / "t.csv", caption="zh", id_column="name")
    assert [(item.id, item.text, item.defect) for item in items] == [("x", "猫", ""), ("", "狗", "")]
    (item, _) = items_of(tmp_path / "t.csv", caption="ja")
    assert item.defect == "no ja"


def test_a_tar_tells_what_no_sample_holds(tmp_path, batch_source):
    image = (batch_source / "images/000.png").read_bytes()
    members = {"a.png": image, "a.json": b"{", "b.txt": b"no image", "c.png": image, "c.txt": b"cat", "d.heic": b""}
    save_tar(tmp_path / "t.tar", members)
    items = items_of(tmp_path / "t.tar")
    assert {item.id: (item.text, item.defect) for item in items} == {
        "a.png": (None, "not valid JSON"),
        "c.png": ("cat", ""),
        "b.txt": (None, "no image"),
        "d.heic": (None, "images in .heic aren't read"),
    }
    assert [item.index for item in items] == [0, 1, 2, 3]


def test_a_file_that_is_cut_off_is_said(tmp_path, batch_source):
    (part, _) = plan(str(batch_source / "{000..001}.tar"), 4)
    (tmp_path / "t.tar").write_bytes((batch_source / "000.tar").read_bytes()[:3000])
    with pytest.raises(InputError, match=r"t\.tar is .*(cut off|no whole)"):
        list(read_items(replace(part, path=str(tmp_path / "t.tar")), Reading()))
    with pytest.raises(InputError, match="can't be read: No such file"):
        list(read_items(replace(part, path=str(tmp_path / "gone.tar")), Reading()))
