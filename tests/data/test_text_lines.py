"""Tables of lines: tab-separated, comma-separated, JSON."""

import pytest
from helpers.tables import comma_separated, jsonl, read, save_image, skips, tsv

from altdiffusion import InputError
from altdiffusion.images import decode_image, image_key


def test_a_csv_field_in_quotes_may_hold_commas_quotes_and_line_breaks(tmp_path):
    rows = [('a "big", red cat', "大红猫"), ("a\ncat, sitting", "猫"), ("dog", "狗")]
    path = comma_separated(tmp_path / "x.csv", ("en", "zh"), *rows)
    table, skipped = read(path)
    assert [(record["en"], record["zh"]) for record in table] == rows
    assert [table.where(i) for i in range(3)] == [f"{path}:{line}" for line in (2, 3, 5)]
    assert skipped.count == 0


def test_a_csv_quote_that_never_closes_is_named_by_its_line(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('en,zh\ncat,猫\n"dog,狗\nmoon,月亮\nsun,日\n', encoding="utf-8")
    table, skipped = read(path)
    assert [record["en"] for record in table] == ["cat"]
    assert skipped.counts == {"a quote that doesn't close": 1}
    with pytest.raises(InputError, match=r"a quote that doesn't close \(.*x\.csv:3\)"):
        read(path, limit=0.01)


def test_only_the_columns_asked_for_are_read_and_checked(tmp_path):
    path = tsv(tmp_path / "x.tsv", ("en", "note", "zh"), ("cat", "", "猫"))
    table, skipped = read(path, ["zh", "en"])
    assert table.columns == ("zh", "en")
    assert table[0] == {"zh": "猫", "en": "cat"}
    assert skipped.count == 0


def test_first_json_object_with_text_decides_the_columns(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", [1], {"id": 1}, {"id": 2, "en": "cat"}, {"id": 3, "en": "dog", "zh": "狗"})
    table, skipped = read(path)
    assert table.columns == ("en",)
    assert [record["en"] for record in table] == ["cat", "dog"]
    assert skipped.count == 2


def test_every_kind_of_bad_line_is_counted_where_it_stands(tmp_path, capsys):
    lines = [
        b"en\tzh", b"cat\t\xe7\x8c\xab", b"dog", b"", b"a\tb\tc", b" \tb", b"a\t\xc3\xa8\x00", b"\xb9\xb7\t\xb9\xb7", b"x\ty",
    ]  # fmt: skip
    path = tmp_path / "x.tsv"
    path.write_bytes(b"\n".join(lines))
    table, skipped = read(path)
    assert [(table.where(i), table[i]["en"]) for i in range(len(table))] == [(f"{path}:2", "cat"), (f"{path}:9", "x")]
    assert skips(capsys) == {
        f"{path}:3": "1 fields where the header has 2",
        f"{path}:4": "an empty line",
        f"{path}:5": "3 fields where the header has 2",
        f"{path}:6": "en is empty",
        f"{path}:7": "a NUL byte, no UTF-8 text",
        f"{path}:8": "not UTF-8",
    }
    assert skipped.count == sum(skipped.counts.values()) == 6


def test_every_kind_of_bad_json_is_counted_where_it_stands(tmp_path, capsys):
    lines = [
        '{"en": "cat"}', "{", "3", "{}", '{"en": null}', '{"en": 4}', '{"en": "\\u0000"}', '{"en": "\\ud83d"}',
        "[" * 100_000, '{"en": "dog"}',
    ]  # fmt: skip
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(lines))
    table, _ = read(path)
    assert [table.where(0), table.where(1)] == [f"{path}:1", f"{path}:10"]
    assert skips(capsys) == {
        f"{path}:2": "not valid JSON",
        f"{path}:3": "JSON, but no object",
        f"{path}:4": "no en",
        f"{path}:5": "no en",
        f"{path}:6": "en is no text",
        f"{path}:7": "a NUL in en",
        f"{path}:8": "half a character in en",
        f"{path}:9": "not valid JSON",
    }


@pytest.mark.parametrize(
    "content", [b"", b"\xef\xbb\xbf", b"en\tzh", b"en\tzh\n", b"\n", b"en\ten\na\tb\n", b"en\t\na\tb\n"]
)
def test_a_table_without_header_or_records_is_refused(tmp_path, content):
    (tmp_path / "x.tsv").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.tsv"):
        read(tmp_path / "x.tsv")


@pytest.mark.parametrize("lines", ["", "\n", "{}\n", "[]\n", '{"id": 1}\n', '{"en": " "}\n'])
def test_json_lines_without_text_are_refused(tmp_path, lines):
    (tmp_path / "x.jsonl").write_text(lines)
    with pytest.raises(InputError, match=r"x\.jsonl"):
        read(tmp_path / "x.jsonl")


@pytest.mark.parametrize("form", ["tsv", "jsonl"])
@pytest.mark.parametrize("column", ["image", "file_name"])
def test_images_lie_beside_the_table(tmp_path, form, column):
    save_image(tmp_path / "data" / "sub" / "red.png")
    outside = save_image(tmp_path / "green.png", "green")
    names = ["sub/red.png", "../green.png", str(outside), "missing.png", "sub"]
    path = tmp_path / "data" / f"metadata.{form}"
    if form == "tsv":
        tsv(path, (column, "caption"), *[(name, "x") for name in names])
    else:
        jsonl(path, *[{column: name, "caption": "x"} for name in names])
    table, skipped = read(tmp_path / "data", images=True)  # the folder means its metadata
    assert table.columns == ("caption",)
    assert skipped.counts == {"no such image": 2}
    assert [decode_image(record["image"]).getpixel((0, 0)) for record in table] == [
        (255, 0, 0),
        (0, 128, 0),
        (0, 128, 0),
    ]
    keys = [image_key(record["image"]) for record in table]
    assert keys[0] != keys[1] == keys[2]


def test_images_are_not_looked_for_unless_asked(tmp_path):
    table, _ = read(tsv(tmp_path / "x.tsv", ("image", "caption"), ("missing.png", "x")))
    assert list(table) == [{"caption": "x"}]
