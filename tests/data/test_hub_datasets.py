"""Data sets of the hub. The hub is a folder here, in whose folders the library finds configs and splits as it does online."""

import datasets
import pytest
from helpers.hub import local_hub
from helpers.tables import skips

from altdiffusion import InputError
from altdiffusion.data import hub_datasets
from altdiffusion.data.open_tables import check_there, describe_data, open_tables
from altdiffusion.data.table import SkipLog

PAIRS = [("a cat", "一只猫"), ("two dogs", "两只狗"), ("the moon", "月亮")]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with local_hub(tmp_path, monkeypatch) as publish:
        yield publish


def flat(names=("en", "zh"), pairs=PAIRS):
    return datasets.Dataset.from_list([dict(zip(names, pair, strict=True)) for pair in pairs])


def nested(pairs=PAIRS):
    """As opus-100 has them."""
    rows = [{"translation": {"en": en, "zh": zh}} for en, zh in pairs]
    features = datasets.Features({"translation": datasets.Translation(languages=["en", "zh"])})
    return datasets.Dataset.from_list(rows, features=features)


def plainly_nested(pairs=PAIRS):
    return datasets.Dataset.from_list([{"id": 1, "translation": {"en": en, "zh": zh}} for en, zh in pairs])


def read(name, columns=(), limit=0.0):
    (table,) = open_tables([name], columns, images=False, skipped=SkipLog(limit))
    return table


FORMS = {
    "two columns": (flat(), "en-zh"),
    "english and non_english": (flat(("english", "non_english")), "en-zh-cn"),
    "a translation": (nested(), "en-zh"),
    "a struct": (plainly_nested(), "en-zh"),
}


@pytest.mark.parametrize("columns", [(), ("en", "zh")])
@pytest.mark.parametrize("form", FORMS)
def test_every_layout_of_parallel_text_gives_the_same_records_in_any_order(hub, form, columns):
    data, config = FORMS[form]
    hub("someone/pairs", {config: {"train": data}})
    table = read(f"hub:someone/pairs/{config}:train", columns)
    records = [{"en": en, "zh": zh} for en, zh in PAIRS]
    assert list(table) == records
    assert [table[index] for index in (2, 0, 1)] == [records[index] for index in (2, 0, 1)]
    assert "translation" not in table.present
    assert table.where(1) == f"hub:someone/pairs/{config}:train:1"


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("hub:someone/pairs/en-zh:train", "a cat"),
        ("hub:someone/pairs/en-zh", "a cat"),
        ("hub:someone/pairs/en-zh:validation", "the moon"),
        ("hub:someone/pairs/en-zh:train[1:]", "two dogs"),
        ("hub:someone/pairs@v2/en-zh:train", "two dogs"),
        ("hub:someone/single", "the moon"),
    ],
)
def test_config_split_and_revision_are_read_off_the_name(hub, name, first):
    hub("someone/pairs", {"en-zh": {"train": flat(), "validation": flat(pairs=PAIRS[2:])}})
    hub("someone/pairs", {"en-zh": {"train": flat(pairs=PAIRS[1:])}}, revision="v2")
    hub("someone/single", {"default": {"train": flat(pairs=PAIRS[2:])}})
    assert read(name)[0]["en"] == first


@pytest.mark.parametrize("pair", [("a cat", None), ("a cat", " "), (None, "一只猫")])
def test_bad_rows_are_counted_where_they_stand_and_left_out(hub, capsys, pair):
    hub("someone/pairs", {"en-zh": {"train": nested([PAIRS[0], pair, PAIRS[2]])}})
    capsys.readouterr()  # of to_parquet's bar
    table = read("hub:someone/pairs/en-zh", limit=1.0)
    assert [record["en"] for record in table] == ["a cat", "the moon"]
    assert table[1]["zh"] == "月亮"
    assert list(skips(capsys)) == ["hub:someone/pairs/en-zh:1"]


def test_a_row_without_its_struct_is_counted(hub, capsys):
    data = datasets.Dataset.from_list([{"translation": {"en": "a", "zh": "b"}}, {"translation": None}])
    hub("someone/pairs", {"en-zh": {"train": data}})
    capsys.readouterr()
    assert len(read("hub:someone/pairs/en-zh", limit=1.0)) == 1
    assert skips(capsys) == {"hub:someone/pairs/en-zh:1": "no en"}


def test_images_come_with_their_captions(hub, tmp_path):
    features = datasets.Features({"caption": datasets.Value("string"), "image": datasets.Image()})
    rows = [{"caption": "cat", "image": {"bytes": b"png", "path": None}}]
    hub("someone/images", {"default": {"train": datasets.Dataset.from_list(rows, features=features)}})
    (table,) = open_tables(["hub:someone/images"], [], images=True, skipped=SkipLog(0))
    assert table[0]["caption"] == "cat"
    assert table[0]["image"].read() == b"png"


def test_a_checkpoint_knows_the_data_by_revision_config_and_split(hub):
    hub("someone/pairs", {"en-zh": {"train": flat(), "validation": flat()}, "zh-en": {"train": flat()}})
    hub("someone/pairs", {"en-zh": {"train": flat(pairs=PAIRS[::-1])}}, revision="v2")
    names = ["pairs/en-zh:train", "pairs/en-zh:validation", "pairs/zh-en:train", "pairs@v2/en-zh:train"]
    described = [describe_data([f"hub:someone/{name}"]) for name in names]
    hub_datasets.load.cache_clear()
    assert [describe_data([f"hub:someone/{name}"]) for name in names] == described
    assert len({str(each) for each in described}) == len(names)


@pytest.mark.parametrize(
    "name", ["hub:", "hub:pairs", "hub:a/", "hub:a/b/", "hub:a/b:", "hub:a/b/c/d", "hub:/b", "hub:a/b@", "hub:a/@v1"]
)
def test_a_bad_name_is_one_line_and_nothing_is_downloaded(monkeypatch, name):
    monkeypatch.setattr(datasets, "load_dataset", None)
    with pytest.raises(InputError, match=r"names no data set: expected hub:OWNER/NAME/CONFIG:SPLIT, such as .*\Z"):
        check_there([name])


def test_names_are_checked_without_a_download(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", None)
    check_there(["hub:someone/pairs/en-zh:train"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub:someone/pairs/zh-en:train", "has no config zh-en .do you mean en-zh.*: it has en-ja, en-zh$"),
        ("hub:someone/pairs", "has several configs, name one, hub:someone/pairs/CONFIG: en-ja, en-zh$"),
        ("hub:someone/pairs/en-ja:dev", "has no split dev: it has train, validation; name one by :SPLIT at the end$"),
        ("hub:someone/pairs/en-zh", "has no split train: it has test; "),
        ("hub:someone/columns", r"hub:someone/columns has no column caption or text, .*: its columns are a, b; "),
    ],
)
def test_what_is_not_there_is_one_line_with_what_is(hub, name, message):
    splits = {"train": flat(), "validation": flat()}
    hub("someone/pairs", {"en-ja": splits, "en-zh": {"test": flat()}})
    hub("someone/columns", {"default": {"train": flat(("a", "b"))}})
    with pytest.raises(InputError, match=message) as error:
        read(name)
    assert "\n" not in str(error.value)


def test_offline_and_not_cached_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match=r"^hub:someone/offline is not cached here and the hub can't be reached: run"
    ) as error:
        check_there(["hub:someone/offline/en-zh:train"], download=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            ValueError("Couldn't find cache for x for config 'a'\nAvailable configs in the cache: ['b-c', 'd']"),
            "b-c, d are cached",
        ),
        (RuntimeError("Dataset scripts are no longer supported, but found x.py"), "loaded by a script"),
        (OSError("a strange failure\nwith details"), "can't be loaded: a strange failure$"),
    ],
)
def test_what_the_library_raises_is_one_line(monkeypatch, raised, message):
    def load_dataset(*args, **options):
        raise raised

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError, match=message) as error:
        read("hub:someone/else/a")
    assert "\n" not in str(error.value)
