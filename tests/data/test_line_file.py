"""Quotes, delimiters and line breaks are read as Python's csv and pandas read and write them, and raw tables as they stand."""

import csv

import pandas
import pytest
from helpers.tables import read, tsv

from altdiffusion import InputError
from altdiffusion.data.line_file import LineFile

HARD = [
    ('a 24" television', "电视"), ("a cat", "猫"), ('5" pizza', '"比萨"'), ('"quoted" cat', "a,b\tc"), ("two\nlines", "两\n行"),
    ('he said ""', '"'), ("tab\there", "x"), ('"', "y"), ("a\r\nb", "z"), ("last", "末"),
]  # fmt: skip


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize(
    ("ending", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".txt", "\t"), (".csv", ";"), (".csv", "|")]
)
def test_what_csv_and_pandas_write_is_read_back(tmp_path, ending, delimiter, quoting):
    path = tmp_path / f"x{ending}"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator="\n")
        writer.writerows([("en", "zh"), *HARD])
    table, skipped = read(path)
    assert [(record["en"], record["zh"]) for record in table] == HARD
    assert skipped.count == 0
    lines = path.read_text(encoding="utf-8").split("\n")
    assert "last" in lines[int(table.where(len(HARD) - 1).rpartition(":")[2]) - 1]
    assert table[5] == list(table)[5]


def test_an_index_that_pandas_wrote_is_no_error(tmp_path):
    (tmp_path / "x.csv").write_text(",en,zh\n0,cat,猫\n", encoding="utf-8")
    assert list(read(tmp_path / "x.csv")[0]) == [{"en": "cat", "zh": "猫"}]


@pytest.mark.parametrize("marks", [['a 24" tv', 'a 5" pizza'], ['24"', 'the 5"'], ['x "y', 'y" x'], ["''", 'a"b"c']])
def test_a_quote_inside_a_csv_field_is_a_character(tmp_path, marks):
    rows = ["en", *(f"a cat number {number}" for number in range(100))]
    rows[10], rows[60] = marks
    path = tmp_path / "x.csv"
    path.write_text("\n".join(rows) + "\n")
    table, skipped = read(path)
    assert [[record["en"]] for record in table] == list(csv.reader(path.open(newline="")))[1:]
    assert (len(table), skipped.count) == (100, 0)


TABS_AND_BREAKS = [
    [("a\tb\nc", "x"), ("d", "e")],
    [("a", "one\ttab\nand a line"), ("b", "two\n\tlines\n\t")],
    [("1\n\t2", "\t\n3"), ('say "x"', "y")],
    [("a\tb\nc\td\r\ne", "x\ty\nz"), ("plain", "text")],
]


@pytest.mark.parametrize("rows", TABS_AND_BREAKS)
@pytest.mark.parametrize("by_pandas", [True, False])
def test_a_tsv_field_may_hold_tabs_and_line_breaks(tmp_path, rows, by_pandas):
    rows, path = [*rows, ("last", "末")], tmp_path / "x.tsv"
    if by_pandas:
        pandas.DataFrame(rows, columns=["en", "zh"]).to_csv(path, sep="\t", index=False)
        assert list(pandas.read_csv(path, sep="\t").itertuples(index=False, name=None)) == rows
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, "excel-tab").writerows([("en", "zh"), *rows])
    table, skipped = read(path)
    assert [(record["en"], record["zh"]) for record in table] == [tuple(map(str.strip, row)) for row in rows]
    assert skipped.count == 0


@pytest.mark.parametrize("others", [['"Hello', 'said "x"'], ['a 24" tv', "x"], ['"big" cat', '"and" dog']])
def test_a_tsv_without_quoting_keeps_a_sentence_in_quotes_on_two_lines(tmp_path, others):
    rows = [(other, "字") for other in others] + [('"I am here,', "“我在，"), ('he said."', "他说。”"), ("last", "末")]
    path = tsv(tmp_path / "x.tsv", ("en", "zh"), *rows)
    table, skipped = read(path)
    assert [(record["en"], record["zh"]) for record in table] == rows
    assert skipped.count == 0


@pytest.mark.parametrize(
    "raw",
    [
        '"Hello', '"big" cat', 'say "x"', 'end"', '"a" and "b"', '"', '""" x', "'",
    ],
)  # fmt: skip
@pytest.mark.parametrize("distance", [1, 2, 40])
def test_quotes_of_a_tsv_written_without_quoting_stay_characters(tmp_path, raw, distance):
    rows = [(f"text {number}", f"文 {number}") for number in range(100)]
    rows[7], rows[7 + distance] = (raw, "字"), ('"and', 'so on"')
    path = tmp_path / "x.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in [("en", "zh"), *rows]), encoding="utf-8")
    table, skipped = read(path)
    assert [(record["en"], record["zh"]) for record in table] == rows
    assert skipped.count == 0


def test_a_delimiter_that_parts_no_known_names_is_a_character(tmp_path):
    (tmp_path / "x.tsv").write_text("a cat, of two\na, b\n")
    assert LineFile(tmp_path / "x.tsv").names == ["a cat, of two"]
    (tmp_path / "y.tsv").write_text("image,caption\nx.png,b\n")
    assert LineFile(tmp_path / "y.tsv").names == ["image", "caption"]


PAIRS = "".join(f"{en}\t{zh}\n" for en, zh in [("en", "zh"), ("a cat", "一只猫"), ("a dog", "一只狗")] * 3)


@pytest.mark.parametrize(
    ("encoding", "mark", "named"),
    [
        ("utf-16", b"", "UTF-16"),
        ("utf-16-le", b"", "UTF-16LE"),
        ("utf-16-be", b"", "UTF-16BE"),
        ("utf-16-be", b"\xfe\xff", "UTF-16"),
    ],
)
@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl"])
def test_utf_16_is_named_with_what_to_do(tmp_path, encoding, mark, named, ending):
    path = tmp_path / f"x{ending}"
    path.write_bytes(mark + PAIRS.encode(encoding))
    with pytest.raises(InputError, match=rf"is {named}, expected UTF-8: iconv -f {named} -t UTF-8 x{ending} > NEW$"):
        LineFile(path)


GBK, OTHER = (
    "it may be GBK: iconv -f GB18030 -t UTF-8 x.tsv > NEW",
    "convert it: iconv -f ENCODING -t UTF-8 x.tsv > NEW",
)


@pytest.mark.parametrize(
    ("text", "encoding", "told"),
    [
        (PAIRS, "gbk", GBK),
        ("英文\t中文\na cat\t一只猫\n", "gb18030", GBK),
        ("en\tzh\n" + "a cat\t這隻貓 is 很好的, 你說呢？我們的國家\n", "big5", OTHER),
        ("en\tfr\nsummer\tété\nto be\têtre\n", "latin-1", OTHER),
        ("en\tde\nbeautiful\tschön, über, größer\n", "cp1252", OTHER),
        ("en\tru\na cat\tкошка\n", "cp1251", "iconv -f"),
    ],
)
def test_what_is_not_utf_8_says_what_to_do(tmp_path, text, encoding, told):
    (tmp_path / "x.tsv").write_bytes(text.encode(encoding))
    with pytest.raises(InputError, match="not UTF-8") as error:
        read(tmp_path / "x.tsv", limit=0)
    assert told.casefold() in str(error.value).casefold()
    assert "\n" not in str(error.value)


def test_a_file_of_two_encodings_is_not_to_be_converted_whole(tmp_path):
    (tmp_path / "x.tsv").write_bytes(b"en\tzh\na cat\t" + "一只猫\n".encode() + b"a dog\t" + "狗\n".encode("gbk"))
    with pytest.raises(InputError, match=r"not UTF-8 \(.*x.tsv:3\)\. Other lines are UTF-8: write these anew in it"):
        read(tmp_path / "x.tsv", limit=0)


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("a cat\t一只猫\na dog\t狗\n", ["en", "zh"]),
        ("a cat\t一只猫\na dog\t狗\n", []),
        ("cat\tcat\na dog\t狗\n", ["en"]),
        ("\t猫\t\n\t狗\t\n", []),
        ("1.png,a cat\n2.png,a dog\n", []),
    ],
)
def test_a_table_without_a_header_line_is_told_to_get_one(tmp_path, content, columns):
    (tmp_path / "x.tsv").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"put a line (of column names above it, )?such as en (and zh|above)"):
        read(tmp_path / "x.tsv", columns)
