"""Parquet files and folders of Hugging Face's `datasets`."""

import sys

import datasets
import pytest
from helpers.tables import parquet, plain_parquet, read, save_image, saved, skips

from altdiffusion import InputError
from altdiffusion.images import decode_image, image_key


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_the_train_split_of_several_is_read(tmp_path):
    splits = {name: datasets.Dataset.from_list([{"en": name}]) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "both")
    datasets.DatasetDict(test=splits["test"]).save_to_disk(tmp_path / "test")
    assert list(read(tmp_path / "both")[0]) == [{"en": "train"}]
    assert list(read(tmp_path / "both" / "test")[0]) == [{"en": "test"}]
    with pytest.raises(InputError, match=r"no split train: .*, test$"):
        read(tmp_path / "test")


def test_progress_bars_of_datasets_stay_off_and_come_back(tmp_path, capfd):
    path = parquet(tmp_path / "x.parquet", [{"en": "cat"}])
    capfd.readouterr()
    read(path)
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()


@pytest.mark.parametrize("form", ["x.parquet", "x"])
def test_every_kind_of_bad_row_is_counted_where_it_stands(tmp_path, capsys, form):
    contents = [{"bytes": b"", "path": None}, {"bytes": None, "path": "no.png"}, {"bytes": None, "path": None}, None]
    captions = ["cat", None, "", "a\0b"]
    rows = [{"caption": "cat", "image": content} for content in contents]
    rows += [{"caption": caption, "image": contents[0]} for caption in captions]
    path = tmp_path / form
    plain_parquet(path, rows) if form == "x.parquet" else saved(path, rows)
    capsys.readouterr()  # the bars of datasets
    table, _ = read(path, images=True)
    assert [table.where(i) for i in range(len(table))] == [f"{path}:0", f"{path}:4"]
    assert skips(capsys) == {
        f"{path}:1": "no such image",
        f"{path}:2": "no image",
        f"{path}:3": "no image",
        f"{path}:5": "no caption",
        f"{path}:6": "caption is empty",
        f"{path}:7": "a NUL in caption",
    }


def test_what_only_looks_like_parquet_is_one_clear_line(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match=r"^[^\n]*x\.parquet can't be read[^\n]*$"):
        read(tmp_path / "x.parquet")


def test_without_datasets_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = parquet(tmp_path / "x.parquet", [{"en": "cat"}])
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r'pip install "altdiffusion\[train\]"'):
        read(path)


def test_images_beside_a_parquet_are_files(tmp_path):
    save_image(tmp_path / "red.png")
    rows = [{"caption": caption, "image": {"bytes": None, "path": "red.png"}} for caption in "ab"]
    path = tmp_path / "x.parquet"
    plain_parquet(path, rows)
    first, second = (record["image"] for record in read(path, images=True)[0])
    assert image_key(first) == image_key(second)
    assert decode_image(first).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("column", ["image", "file_name", "path"])
@pytest.mark.parametrize("form", ["x.parquet", "saved", "data/metadata.parquet"])
def test_a_column_of_paths_names_images(tmp_path, column, form):
    path = tmp_path / form
    path.parent.mkdir(exist_ok=True)
    outside = save_image(tmp_path / "outside.png", "lime")
    save_image(path.parent / "sub" / "red.png")
    names = ["sub/red.png", str(outside), "missing.png", None]
    rows = [{"caption": "cat", "url": "u", column: name} for name in names]
    saved(path, rows) if form == "saved" else plain_parquet(path, rows)
    table, skipped = read(path.parent if "data" in form else path, images=True)
    assert table.columns == ("caption",)
    assert [decode_image(record["image"]).getpixel((0, 0)) for record in table] == [(255, 0, 0), (0, 255, 0)]
    assert skipped.counts == {"no such image": 1, "no image": 1}
