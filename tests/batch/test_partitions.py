"""How an input is cut: the same parts for the same input, whatever works on them."""

import os

import pytest
from helpers.batch_data import SOURCES, save_tar

from altdiffusion.batch.partitions import plan
from altdiffusion.errors import InputError


@pytest.mark.parametrize(
    ("kind", "items"),
    [
        ("folder", [4, 4, 2]),
        ("jsonl", [4, 4, 2]),
        ("csv", [4, 4, 2]),
        ("tars", [None, None]),
        ("parquet", [4, 2, 4]),  # a partition lies within one group of rows
    ],
)
def test_an_input_is_cut_into_parts_of_a_size(batch_source, kind, items):
    parts = plan(str(batch_source / SOURCES[kind]), 4)
    assert [part.items for part in parts] == items
    assert [part.number for part in parts] == list(range(len(items)))
    firsts = [sum(items[:number]) if None not in items[:number] else None for number in range(len(items))]
    assert [part.first for part in parts] == firsts
    assert parts == plan(str(batch_source / SOURCES[kind]), 4)


def test_rows_with_line_breaks_inside_stay_whole(tmp_path):
    rows = ['"a\nb",1', "c,2", '"d\r\n\r\ne",3', "f,4", "g,5"]
    (tmp_path / "t.csv").write_bytes(("caption,image\n" + "\n".join(rows) + "\n").encode())
    parts = plan(str(tmp_path / "t.csv"), 2)
    assert [part.items for part in parts] == [2, 2, 1]
    assert [part.at for part in parts] == [2, 5, 9]  # the lines that they begin on
    content = (tmp_path / "t.csv").read_bytes()
    assert content[parts[1].start : parts[1].stop] == b'"d\r\n\r\ne",3\nf,4\n'


def test_patterns_and_braces_name_several_files(tmp_path):
    for name in ("a.tar", "b.tar", "c.tar"):
        save_tar(tmp_path / name, {"0.png": b"", "0.txt": b"cat"})
    names = [part.path for part in plan(str(tmp_path / "*.tar"), 4)]
    assert names == [str(tmp_path / name) for name in ("a.tar", "b.tar", "c.tar")]
    assert [part.path for part in plan(str(tmp_path / "{c,a}.tar"), 4)] == [names[2], names[0]]


def test_a_file_that_changed_has_another_key(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"caption": "a"}\n' * 3)
    first = plan(str(path), 2)
    os.utime(path, ns=(1, 1))
    second = plan(str(path), 2)
    assert [part.key for part in first] != [part.key for part in second]
    assert len({part.key for part in [*first, *second]}) == 4


def test_a_store_is_listed_and_its_tables_are_cut(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://shards/1.jsonl", "wb") as file:
        file.write(b'{"caption": "a"}\n' * 5)
    for name in ("000.tar", "001.tar"):
        with fsspec.open(f"memory://shards/{name}", "wb") as file:
            file.write(b"")
    assert [part.items for part in plan("memory://shards/1.jsonl", 2)] == [2, 2, 1]
    assert [part.path for part in plan("memory://shards/*.tar", 2)] == [
        "memory:///shards/000.tar",
        "memory:///shards/001.tar",
    ]
    assert len(plan("memory://shards/{000..001}.tar", 2)) == 2


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nothing.tar", "there is no"),
        ("empty", "holds no images"),
        ("a.zip", r"can't be read: tars .*folder of images are"),
        ("*.jsonl", "there is no"),
        ("broken.parquet", "no parquet file that is whole"),
        ("empty.csv", "is empty"),
        ("nosuchstore://x/*.tar", "can't be listed"),
        ("memory://nothing/*.tar", "there is no"),
    ],
)
def test_what_cannot_be_cut_is_said(tmp_path, monkeypatch, source, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("a.zip", "broken.parquet", "empty.csv"):
        (tmp_path / name).write_bytes(b"" if name == "empty.csv" else b"PK nonsense")
    with pytest.raises(InputError, match=said):
        plan(source, 4)


def test_prompts_are_read_from_text_and_images_are_not(tmp_path, batch_source):
    (tmp_path / "p.txt").write_text("a cat\n\n# no prompt\na dog\n")
    assert [part.items for part in plan(str(tmp_path / "p.txt"), 3, prompts=True)] == [3, 1]
    with pytest.raises(InputError, match=r"p\.txt can't be read"):
        plan(str(tmp_path / "p.txt"), 3)
    for source in ("images", "000.tar"):
        with pytest.raises(InputError, match="tables of prompts"):
            plan(str(batch_source / source), 3, prompts=True)
