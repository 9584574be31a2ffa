"""Every format gives the same records, whatever can't be used is counted where it stands, and reading is random access."""

import csv
import io
import json
import struct
import subprocess
import sys
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import datasets
import pyarrow.parquet
import pytest
from PIL import Image

from altdiffusion import InputError
from altdiffusion.data.open_tables import open_tables
from altdiffusion.data.table import SkipLog
from altdiffusion.images import BadImage, decode_image, image_key

PAIRS = [("a cat", "一只猫"), ("two dogs\u2028in a boat", "两只狗"), ("the moon", "月亮")]


def tsv(path, header, *rows):
    path.write_text("\n".join("\t".join(row) for row in (header, *rows)) + "\n", encoding="utf-8")
    return path


def comma_separated(path, header, *rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows((header, *rows))
    return path


def jsonl(path, *records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def tar(path, members, form="w"):
    """members: {name: text, bytes or an object for JSON}, or pairs of them."""
    with tarfile.open(path, form) as file:
        for name, content in members.items() if isinstance(members, dict) else members:
            content = content if isinstance(content, (str, bytes)) else json.dumps(content)
            content = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def parquet(path, records, features=None):
    datasets.Dataset.from_list(records, features=features).to_parquet(path)
    return path


def plain_parquet(path, records):
    """Parquet by another program than datasets, without its features."""
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return path


def saved(path, records, features=None):
    """A folder by save_to_disk."""
    datasets.Dataset.from_list(records, features=features).save_to_disk(path)
    return path


def read(path, columns=(), *, images=False, limit=1.0):
    """The only table of a path, and the counts of what was skipped."""
    skipped = SkipLog(limit)
    (table,) = open_tables([path], columns, images=images, skipped=skipped)
    return table, skipped


def skips(capsys):
    """{where: reason}, as printed."""
    lines = capsys.readouterr().err.splitlines()
    return dict(line.removeprefix("skipped ").split(": ", 1) for line in lines if ": " in line)


# ---- the same records


@pytest.fixture
def pairs(tmp_path):
    """The same records in every format."""
    records = [{"en": en, "zh": zh} for en, zh in PAIRS]
    return {
        "tsv": tsv(tmp_path / "pairs.tsv", ("en", "zh"), *PAIRS),
        "txt": tsv(tmp_path / "pairs.txt", ("en", "zh"), *PAIRS),
        "csv": comma_separated(tmp_path / "pairs.csv", ("en", "zh"), *PAIRS),
        "jsonl": jsonl(tmp_path / "pairs.jsonl", *records),
        "parquet": parquet(tmp_path / "pairs.parquet", records),
        "saved": saved(tmp_path / "saved", records),
        "tar": tar(tmp_path / "pairs.tar", {f"{i:03}.json": record for i, record in enumerate(records)}),
    }


FORMS = ["tsv", "txt", "csv", "jsonl", "parquet", "saved", "tar"]


@pytest.mark.parametrize("form", FORMS)
def test_every_format_reads_the_same_records(pairs, form):
    table, skipped = read(pairs[form])
    assert table.columns == ("en", "zh")
    assert [(record["en"], record["zh"]) for record in table] == PAIRS
    assert skipped.count == 0


@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl"])
def test_byte_order_mark_and_carriage_returns_change_nothing(tmp_path, pairs, form):
    path = tmp_path / f"windows.{form}"
    path.write_bytes(b"\xef\xbb\xbf" + pairs[form].read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    assert list(read(path)[0]) == list(read(pairs[form])[0])


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


def test_the_train_split_of_several_is_read(tmp_path):
    splits = {name: datasets.Dataset.from_list([{"en": name}]) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "both")
    datasets.DatasetDict(test=splits["test"]).save_to_disk(tmp_path / "test")
    assert list(read(tmp_path / "both")[0]) == [{"en": "train"}]
    assert list(read(tmp_path / "both" / "test")[0]) == [{"en": "test"}]
    with pytest.raises(InputError, match=r"no split train: .*, test$"):
        read(tmp_path / "test")


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


def test_progress_bars_of_datasets_stay_off_and_come_back(pairs, capfd):
    capfd.readouterr()
    read(pairs["parquet"])
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()


# ---- bad records


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
        f"{path}:1.txt": "no picture",
        f"{path}:2.jpg": "no caption",
        f"{path}:3.jpg": "not UTF-8",
        f"{path}:4.png": "caption is empty",
    }


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
        f"{path}:1": "no such picture",
        f"{path}:2": "no picture",
        f"{path}:3": "no picture",
        f"{path}:5": "no caption",
        f"{path}:6": "caption is empty",
        f"{path}:7": "a NUL in caption",
    }


@pytest.mark.parametrize(("bad", "stops"), [(1, False), (2, True)])
def test_more_than_one_percent_stops_by_default(tmp_path, bad, stops):
    path = tsv(tmp_path / "x.tsv", ("en",), *[("cat",)] * (100 - bad), *[("a", "b")] * bad)
    if stops:
        with pytest.raises(InputError, match=r"2 of 100 .* 1 %.*2 fields.*x\.tsv:100.*--max-skipped"):
            open_tables([path], [], images=False, skipped=SkipLog())
    else:
        (table,) = open_tables([path], [], images=False, skipped=SkipLog())
        assert len(table) == 99


def test_the_share_is_of_all_tables_together(tmp_path):
    good = tsv(tmp_path / "good.tsv", ("en",), *[("cat",)] * 97)
    bad = tsv(tmp_path / "bad.tsv", ("en",), ("cat",), ("cat",), ("a", "b"))
    assert len(open_tables([good, bad], [], images=False, skipped=SkipLog())) == 2


def test_a_record_counts_once_however_many_threads_meet_it(capsys):
    skipped = SkipLog(show=3)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: skipped.add(f"x.tsv:{i % 20}", "bad"), range(400)))
    assert skipped.counts == {"bad": 20}
    assert len(capsys.readouterr().err.splitlines()) == 4  # three, and that there are more


def test_the_commonest_reason_is_named():
    skipped = SkipLog(0.5, show=0)
    for where, reason in [("x:1", "odd"), ("x:2", "usual"), ("x:3", "usual")]:
        skipped.add(where, reason)
    skipped.check(6)
    with pytest.raises(InputError, match=r"3 of 5 .*usual \(x:2\)"):
        skipped.check(5)


# ---- files that are wrong as a whole


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


def test_what_only_looks_like_parquet_is_one_clear_line(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match=r"^[^\n]*x\.parquet can't be read[^\n]*$"):
        read(tmp_path / "x.parquet")


def test_without_datasets_the_error_says_what_to_install(pairs, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r'pip install "altdiffusion\[train\]"'):
        read(pairs["parquet"])


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl"])
def test_a_wrong_encoding_is_one_clear_line(tmp_path, pairs, form, encoding):
    path = tmp_path / f"other.{form}"
    path.write_text(pairs[form].read_text(encoding="utf-8"), encoding=encoding)
    with pytest.raises(InputError, match=r"^(?=.*other)(?=.*UTF-8)"):
        read(path, limit=0.01)


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


@pytest.mark.parametrize("form", FORMS)
def test_a_table_with_none_of_the_columns_names_its_own(pairs, form):
    with pytest.raises(InputError, match="no column fr or de: its columns are en, zh"):
        read(pairs[form], ["fr", "de"])


def test_a_column_that_no_table_has_is_refused(pairs):
    with pytest.raises(InputError, match="no table has the column fr: found en, zh"):
        read(pairs["tsv"], ["en", "fr"])


def test_tables_may_hold_different_columns(tmp_path):
    paths = [tsv(tmp_path / f"{name}.tsv", ("en", name), ("cat", "x")) for name in ("zh", "fr")]
    tables = open_tables(paths, ["en", "zh", "fr"], images=False, skipped=SkipLog())
    assert [table.columns for table in tables] == [("en", "zh"), ("en", "fr")]


@pytest.mark.parametrize("name", ["no.tsv", "no*.tsv", "pairs.xls", ".", "{000..001}.tsv", "x" * 300])
def test_what_is_not_there_or_of_no_known_format_says_what_is_read(tmp_path, pairs, name):
    pairs["tsv"].rename(tmp_path / "pairs.xls")
    tsv(tmp_path / "000.tsv", ("en",), ("cat",))
    with pytest.raises(InputError, match=r"^[^\n]*(\.jsonl|too long)[^\n]*$"):
        read(tmp_path / name)


def test_no_path_at_all_is_refused():
    with pytest.raises(InputError, match="no data given"):
        open_tables([], [], images=False, skipped=SkipLog())


# ---- names


def test_patterns_and_braces_are_expanded_in_order(tmp_path):
    for name in ("a-08", "a-09", "a-10", "b-1", "c"):
        tsv(tmp_path / f"{name}.tsv", ("en",), (name,))

    def names(*patterns):
        tables = open_tables([tmp_path / pattern for pattern in patterns], [], images=False, skipped=SkipLog())
        return [table.path.stem for table in tables]

    assert names("a-*.tsv") == ["a-08", "a-09", "a-10"]
    assert names("c.tsv", "a-{08..10}.tsv") == ["c", "a-08", "a-09", "a-10"]
    assert names("{c,{a,b}-*}.tsv") == ["c", "a-08", "a-09", "a-10", "b-1"]


def test_a_name_with_brackets_means_itself(tmp_path):
    path = tsv(tmp_path / "x[1]{2,3}.tsv", ("en",), ("cat",))
    assert read(path)[0].path == path


# ---- random access


@pytest.mark.parametrize("form", FORMS)
def test_eight_threads_read_what_one_reads(tmp_path, form):
    captions = [f"text {i}" + "x" * (i % 97) if i % 7 else " " for i in range(700)]
    records = [{"en": caption} for caption in captions]
    path = tmp_path / f"x.{form}"
    if form in ("tsv", "txt"):
        tsv(path, ("en", "zh"), *[(caption, "x") for caption in captions])
    elif form == "csv":
        comma_separated(path, ("en", "zh"), *[(caption, "x\ny") for caption in captions])
    elif form == "tar":
        tar(path, {f"{i}.json": record for i, record in enumerate(records)})
    else:
        {"jsonl": lambda path, records: jsonl(path, *records), "parquet": parquet, "saved": saved}[form](path, records)
    table, _ = read(path, ["en"])
    order = [i * 1237 % len(table) for i in range(len(table))]
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(order, pool.map(table.__getitem__, order), strict=True))
    assert [found[i] for i in range(len(table))] == list(table)
    assert [record["en"] for record in table] == [caption for caption in captions if caption.strip()]


@pytest.mark.parametrize("form", FORMS)
def test_there_is_no_record_past_the_end_or_before_the_first(pairs, form):
    table, _ = read(pairs[form])
    for index in (-1, 3):
        with pytest.raises(IndexError):
            table[index]


# ---- images


def picture(path, color="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 4), color).save(path)
    return path


@pytest.mark.parametrize("form", ["tsv", "jsonl"])
@pytest.mark.parametrize("column", ["image", "file_name"])
def test_pictures_lie_beside_the_table(tmp_path, form, column):
    picture(tmp_path / "data" / "sub" / "red.png")
    outside = picture(tmp_path / "green.png", "green")
    names = ["sub/red.png", "../green.png", str(outside), "missing.png", "sub"]
    path = tmp_path / "data" / f"metadata.{form}"
    if form == "tsv":
        tsv(path, (column, "caption"), *[(name, "x") for name in names])
    else:
        jsonl(path, *[{column: name, "caption": "x"} for name in names])
    table, skipped = read(tmp_path / "data", images=True)  # the folder means its metadata
    assert table.columns == ("caption",)
    assert skipped.counts == {"no such picture": 2}
    assert [decode_image(record["image"]).getpixel((0, 0)) for record in table] == [
        (255, 0, 0),
        (0, 128, 0),
        (0, 128, 0),
    ]
    keys = [image_key(record["image"]) for record in table]
    assert keys[0] != keys[1] == keys[2]


def encoded(color, form="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (8, 4), color).save(file, form)
    return file.getvalue()


IMAGE = datasets.Features(caption=datasets.Value("string"), picture=datasets.Image())


@pytest.mark.parametrize("form", ["tar", "image.parquet", "struct.parquet", "bytes.parquet", "saved"])
def test_pictures_inside_a_table_have_a_key_each(tmp_path, form):
    path, contents = tmp_path / form, [encoded("red"), encoded("lime")]
    structs = [{"bytes": content, "path": "same.png"} for content in contents]
    if form == "tar":
        tar(path.with_suffix(".tar"), {"0.png": contents[0], "0.txt": "x", "1.JPEG": contents[1], "1.txt": "x"})
        path = path.with_suffix(".tar")
    elif form == "image.parquet":
        parquet(path, [{"caption": "x", "picture": struct} for struct in structs], IMAGE)
    elif form == "saved":
        saved(path, [{"caption": "x", "picture": struct} for struct in structs], IMAGE)
    else:
        plain_parquet(
            path, [{"caption": "x", "jpg": cell} for cell in (structs if form == "struct.parquet" else contents)]
        )
    table, _ = read(path, images=True)
    assert table.columns == ("caption",)
    assert [decode_image(record["image"]).getpixel((0, 0)) for record in table] == [(255, 0, 0), (0, 255, 0)]
    keys = [image_key(record["image"]) for record in table]
    assert keys == [image_key(record["image"]) for record in read(path, images=True)[0]]
    assert len(set(keys)) == 2


def test_pictures_beside_a_parquet_are_files(tmp_path):
    picture(tmp_path / "red.png")
    rows = [{"caption": caption, "image": {"bytes": None, "path": "red.png"}} for caption in "ab"]
    path = tmp_path / "x.parquet"
    plain_parquet(path, rows)
    first, second = (record["image"] for record in read(path, images=True)[0])
    assert image_key(first) == image_key(second)
    assert decode_image(first).getpixel((0, 0)) == (255, 0, 0)


def test_pictures_are_not_looked_for_unless_asked(tmp_path):
    table, _ = read(tsv(tmp_path / "x.tsv", ("image", "caption"), ("missing.png", "x")))
    assert list(table) == [{"caption": "x"}]


@pytest.mark.parametrize("form", FORMS)
def test_a_table_without_pictures_is_refused_where_they_are_needed(pairs, form):
    with pytest.raises(InputError, match="no pictures"):
        read(pairs[form], images=True)


@pytest.fixture
def decode(tmp_path):
    """Decode an image's bytes as a table's image."""

    def run(content):
        (tmp_path / "x.png").write_bytes(content)
        table, _ = read(tsv(tmp_path / "x.tsv", ("image", "caption"), ("x.png", "x")), images=True)
        return decode_image(table[0]["image"])

    return run


def test_pictures_come_upright_in_rgb_on_white(tmp_path, decode):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("CMYK", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (8, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    turned, clear = (decode((tmp_path / name).read_bytes()) for name in ("turned.jpg", "clear.png"))
    assert (turned.mode, turned.size) == ("RGB", (4, 8))
    assert clear.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_picture_is_refused(tmp_path, decode, form):
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole", form)
    with pytest.raises(BadImage, match="damaged"):
        decode((tmp_path / "whole").read_bytes()[:1000])


@pytest.mark.parametrize("content", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_picture_is_refused(decode, content):
    with pytest.raises(BadImage, match="no image"):
        decode(content)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_001, 9_500, 30_000])  # we refuse the first, Pillow warns of the second
def test_a_decompression_bomb_is_refused(decode, side):
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    with pytest.raises(BadImage, match="64,000,000 pixels"):
        decode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_a_picture_that_vanished_is_refused(tmp_path):
    path = picture(tmp_path / "x.png")
    table, _ = read(tsv(tmp_path / "x.tsv", ("image", "caption"), ("x.png", "x")), images=True)
    path.unlink()
    with pytest.raises(BadImage, match="can't be read"):
        decode_image(table[0]["image"])


def test_importing_loads_no_heavy_library():
    code = "import sys, altdiffusion.data.open_tables; print({'torch', 'datasets', 'pyarrow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
