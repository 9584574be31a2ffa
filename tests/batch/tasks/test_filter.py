"""`batch filter` keeps the items whose scores are high enough, as copies in their own layout, and as DataComp's subset."""

import json
import tarfile

import numpy as np
import pytest
from helpers.batch_data import COUNT, SOURCES, UIDS, read_parquet, run_here, save_data

from altdiffusion.batch.folder import OutputFolder
from altdiffusion.batch.items import Reading, read_items
from altdiffusion.batch.partitions import plan
from altdiffusion.batch.settings import FilterBatch, ScoreBatch
from altdiffusion.batch.tasks.base import write_parquet
from altdiffusion.errors import InputError
from altdiffusion.images import decode_image

SCORES = [0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.4, 0.6, 0.5, 0.05]


@pytest.fixture
def scored(tmp_path):
    """scored(source): the folder that `batch score` would have written, with SCORES."""

    def make(source, size=4):
        settings = ScoreBatch(source=str(source), out=tmp_path / "scores", partition_size=size)
        folder, place = OutputFolder(settings.out), 0
        settings.out.mkdir()
        parts = plan(str(source), size)
        folder.begin("score", settings.result, len(parts))
        for part in parts:
            items = list(read_items(part, Reading()))
            columns = {"index": np.arange(len(items)), "id": [item.id for item in items]}
            columns["cosine"] = np.float32(SCORES[place : place + len(items)])
            with folder.new_file(f"scores/{part.number:05}.parquet") as path:
                write_parquet(path, columns)
            folder.finish(part, [], len(items), [])
            place += len(items)
        return settings.out

    return make


def kept_of(out):
    """What the copies hold: (caption, pixels)."""
    data = out / "data"
    kinds = {path.suffix for path in data.iterdir()}
    source = data if ".png" in kinds else f"{data}/*{kinds.pop()}"
    items = [item for part in plan(str(source), 100) for item in read_items(part, Reading())]
    return [(item.text, decode_image(item.image).tobytes()) for item in items]


@pytest.mark.parametrize("kind", SOURCES)
def test_copies_in_every_layout(batch_source, scored, tmp_path, kind):
    source = batch_source / SOURCES[kind]
    settings = FilterBatch(
        source=str(source), out=tmp_path / "out", scores=scored(source), minimum=0.45, partition_size=4
    )
    run_here("filter", settings)
    everything = [item for part in plan(str(source), 4) for item in read_items(part, Reading())]
    wanted = [
        (item.text, decode_image(item.image).tobytes())
        for item, score in zip(everything, SCORES, strict=True)
        if score > 0.45
    ]
    assert kept_of(tmp_path / "out") == wanted


def test_the_best_fraction_and_datacomps_subset(batch_source, scored, tmp_path):
    source = batch_source / "rows.jsonl"
    settings = FilterBatch(
        source=str(source),
        out=tmp_path / "out",
        scores=scored(source),
        top=0.3,
        uids=True,
        copy_items=False,
        partition_size=4,
    )
    run_here("filter", settings)
    subset = np.load(tmp_path / "out/uids.npy")
    assert subset.dtype == np.dtype("u8,u8")
    best = sorted(UIDS[number] for number in np.argsort(SCORES)[-3:])
    assert [f"{high:016x}{low:016x}" for high, low in subset] == best
    tables = [read_parquet(path) for path in sorted((tmp_path / "out/kept").glob("*.parquet"))]
    assert sorted(name for table in tables for name in table["id"]) == best
    assert not (tmp_path / "out/data").exists()


def test_copies_of_a_tar_keep_what_stands_beside_the_images(batch_source, scored, tmp_path):
    source = batch_source / "{000..001}.tar"
    run_here(
        "filter",
        FilterBatch(source=str(source), out=tmp_path / "out", scores=scored(source), minimum=0.85, partition_size=4),
    )
    with tarfile.open(tmp_path / "out/data/00000.tar") as tar:
        assert tar.getnames() == ["001.png", "001.json"]
        assert json.load(tar.extractfile("001.json"))["uid"] == UIDS[1]
    assert not (tmp_path / "out/data/00001.tar").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"by": "percentile"}, "has cosine"),
        ({"partition_size": 5}, r"of another input \(partition_size 4\)"),
        ({"source": "images"}, "of another input"),
        ({"scores": "images"}, r"no manifest\.json"),
        ({"top": 0.5}, "one of --min and --top"),
        ({"minimum": None}, "one of --min and --top"),
    ],
)
def test_scores_of_something_else_are_refused(tmp_path, monkeypatch, scored, changes, said):
    save_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path / "data")
    settings = {
        "source": "rows.csv",
        "out": tmp_path / "out",
        "scores": scored("rows.csv"),
        "minimum": 0.5,
        "partition_size": 4,
    }
    with pytest.raises(InputError, match=said):
        run_here("filter", FilterBatch(**(settings | changes)))


def test_unfinished_scores_and_ids_that_are_no_uids_are_refused(batch_source, scored, tmp_path):
    source = batch_source / "images"
    settings = FilterBatch(
        source=str(source), out=tmp_path / "out", scores=scored(source), minimum=0.5, uids=True, partition_size=4
    )
    with pytest.raises(InputError, match=r"--uids: got '000\.png'"):
        run_here("filter", settings)
    next((tmp_path / "scores/partitions").iterdir()).unlink()
    with pytest.raises(InputError, match="2 of 3 partitions are done"):
        run_here("filter", settings)


def test_all_is_the_fraction_1(batch_source, scored, tmp_path):
    source = batch_source / "rows.csv"
    outcomes = run_here(
        "filter",
        FilterBatch(source=str(source), out=tmp_path / "out", scores=scored(source), top=1.0, partition_size=4),
    )
    assert sum(outcome.done.items for outcome in outcomes) == COUNT
