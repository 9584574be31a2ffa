"""Every format gives the same records, in the order asked for, with random access."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import datasets
import pandas
import pytest
from helpers.tables import comma_separated, encoded, jsonl, parquet, plain_parquet, read, saved, tar, tsv
from PIL import Image

from altdiffusion import InputError
from altdiffusion.data.open_tables import open_table, open_tables
from altdiffusion.data.table import SkipLog
from altdiffusion.images import decode_image, image_key

PAIRS = [("a cat", "一只猫"), ("two dogs\u2028in a boat", "两只狗"), ("the moon", "月亮")]
FORMS = ["tsv", "txt", "csv", "jsonl", "parquet", "saved", "tar"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


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


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl"])
def test_a_wrong_encoding_is_one_clear_line(tmp_path, pairs, form, encoding):
    path = tmp_path / f"other.{form}"
    path.write_text(pairs[form].read_text(encoding="utf-8"), encoding=encoding)
    with pytest.raises(InputError, match=r"^(?=.*other)(?=.*UTF-8)"):
        read(path, limit=0.01)


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


def test_patterns_and_braces_are_expanded_in_order(tmp_path):
    for name in ("a-08", "a-09", "a-10", "b-1", "c"):
        tsv(tmp_path / f"{name}.tsv", ("en",), (name,))

    def names(*patterns):
        tables = open_tables([tmp_path / pattern for pattern in patterns], [], images=False, skipped=SkipLog())
        return [table.path.stem for table in tables]

    assert names("a-*.tsv") == ["a-08", "a-09", "a-10"]
    assert names("c.tsv", "a-{08..10}.tsv") == ["c", "a-08", "a-09", "a-10"]
    assert names("{c,{a,b}-*}.tsv") == ["c", "a-08", "a-09", "a-10", "b-1"]


def test_braces_keep_leading_zeros_and_the_order_of_a_shell(tmp_path):
    for name in ("8", "08", "10", "x1", "x2", "y"):
        tsv(tmp_path / f"{name}.tsv", ("en",), (name,))

    def names(pattern):
        tables = open_tables([tmp_path / pattern], [], images=False, skipped=SkipLog())
        return [table.path.stem for table in tables]

    assert names("{10,8,08}.tsv") == ["10", "8", "08"]
    assert names("{x{1,2},y}.tsv") == ["x1", "x2", "y"]
    assert names("x{2..1}.tsv") == ["x2", "x1"]
    with pytest.raises(InputError, match=r"there is no .*/09\.tsv"):
        names("{08..10}.tsv")


@pytest.mark.parametrize("pattern", ["{0..9999999999}.tar", "{1..999}{1..999}.tar"])
def test_braces_that_stand_for_too_many_names_are_one_line(pattern):
    with pytest.raises(InputError, match=r"^[^\n]*stands for more than 100,000 names[^\n]*$"):
        open_tables([pattern], [], images=False, skipped=SkipLog())


def test_a_name_with_brackets_means_itself(tmp_path):
    path = tsv(tmp_path / "x[1]{2,3}.tsv", ("en",), ("cat",))
    assert read(path)[0].path == path


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


IMAGE = datasets.Features(caption=datasets.Value("string"), picture=datasets.Image())


@pytest.mark.parametrize("form", ["tar", "image.parquet", "struct.parquet", "bytes.parquet", "saved"])
def test_images_inside_a_table_have_a_key_each(tmp_path, form):
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


@pytest.mark.parametrize("form", FORMS)
def test_a_table_without_images_is_refused_where_they_are_needed(pairs, form):
    with pytest.raises(InputError, match="no images"):
        read(pairs[form], images=True)


def test_importing_loads_no_heavy_library():
    code = "import sys, altdiffusion.data.open_tables; print({'torch', 'datasets', 'pyarrow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_records_row_has_all_columns_as_they_stand_in_the_source(tmp_path, ending):
    """The bad record before it is counted, and isn't among them."""
    rows = [{"id": str(number), "image": "x.png", "text": text} for number, text in enumerate(["", "a cat ", "a dog"])]
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    frame, path = pandas.DataFrame(rows), tmp_path / f"rows{ending}"
    if ending == ".parquet":
        frame.to_parquet(path)
    elif ending == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == ".tsv" else ",")
    table = open_table(path, ["text"], images=True, skip=lambda where, reason: None)
    assert [table.source_row(index) for index in range(len(table))] == rows[1:]
