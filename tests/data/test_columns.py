"""Which columns are read where none is asked for: the caption alone, else the languages, else none without a word."""

import datasets
import pytest
from helpers.tables import comma_separated, encoded, jsonl, parquet, read, save_image, tar, tsv

from altdiffusion import InputError
from altdiffusion.data.columns import default_columns, is_language
from altdiffusion.training.inputs.captioned_images import CaptionedImages

EXTRA = {"url": "https://example.org/1.jpg", "key": "1", "status": "success", "sha256": "abab"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize(
    ("names", "read_alone"),
    [
        (["url", "caption", "en"], ["caption"]),
        (["URL", "TEXT"], ["TEXT"]),
        (["text", "caption"], ["caption"]),
        (["id", "en", "zh-CN", "pt_BR", "note"], ["en", "zh-CN", "pt_BR"]),
        (["title", "url"], ["title"]),
        (["title", "description"], []),
        (["url", "key"], []),
        (["id"], []),
    ],
)
def test_columns_are_told_by_their_names(names, read_alone):
    assert list(default_columns(names)) == read_alone


def test_what_is_no_language_is_not_taken_for_one():
    assert all(map(is_language, ["en", "ZH", "zh-Hans", "zh_CN"]))
    assert not any(map(is_language, ["id", "no", "url", "ts", "caption", "en-whatever", "english"]))


WRITERS = {
    "csv": lambda path, row: comma_separated(path, list(row), list(row.values())),
    "tsv": lambda path, row: tsv(path, list(row), list(row.values())),
    "jsonl": lambda path, row: jsonl(path, row),
    "parquet": lambda path, row: parquet(path, [row]),
    "tar": lambda path, row: tar(path, {"1.json": row}),
}


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize(
    ("captions", "columns"),
    [({"caption": "a cat"}, ("caption",)), ({"Text": "a cat"}, ("Text",)), ({"en": "a cat", "zh": "猫"}, ("en", "zh"))],
)
def test_in_every_format_the_other_columns_are_left_out(tmp_path, form, captions, columns):
    table, _ = read(WRITERS[form](tmp_path / f"x.{form}", {**EXTRA, **captions}))
    assert table.columns == columns
    assert list(table) == [captions]


@pytest.mark.parametrize("form", WRITERS)
def test_columns_that_cannot_be_told_are_named_and_can_be_chosen(tmp_path, form):
    path = WRITERS[form](tmp_path / f"x.{form}", EXTRA)
    with pytest.raises(
        InputError, match=r"its columns are url, key, status, sha256; name those to read with --languages"
    ):
        read(path)
    assert list(read(path, ["status"])[0]) == [{"status": "success"}]


def test_a_shard_of_img2dataset_is_its_captions(tmp_path, capsys):
    members = {}
    for number in range(4):
        members |= {f"{number:09}.jpg": encoded("red", "JPEG"), f"{number:09}.txt": "a red square"}
        members[f"{number:09}.json"] = {"caption": "a red square", "error_message": None, "width": 16, **EXTRA}
    data = CaptionedImages([str(tar(tmp_path / "0.tar", members))], [], 0.01)
    assert data.languages == {"caption": 1.0}
    assert {data.caption(record, "caption") for record in range(len(data))} == {"a red square"}
    said = capsys.readouterr().err
    assert "columns read: caption 100 %; left out: error_message, width, url, key, status, sha256" in said


def test_the_share_of_each_column_is_said(tmp_path, capsys):
    save_image(tmp_path / "x.png")
    path = jsonl(tmp_path / "x.jsonl", {"image": "x.png", "en": "a cat", "zh": "猫", "note": "n"})
    CaptionedImages([str(path)], [], 0.01)
    CaptionedImages([str(path)], ["en", "zh=3"], 0.01)
    assert capsys.readouterr().err.splitlines() == [
        "columns read: en 50 %, zh 50 %; left out: note",
        "columns read: en 25 %, zh 75 %; left out: note",
    ]


def test_a_first_record_without_its_caption_does_not_choose_another_column(tmp_path):
    rows = [{"caption": None, "url": "u"}, {"caption": "a cat", "url": "u"}]
    table, skipped = read(jsonl(tmp_path / "x.jsonl", *rows))
    assert list(table) == [{"caption": "a cat"}]
    assert skipped.counts == {"no caption": 1}
