"""Indexes of features: of every kind, in the layouts of `batch embed` and clip-retrieval; what is bad leaves nothing."""

import json

import numpy as np
import pytest

pytest.importorskip("faiss", reason="an index needs FAISS: pip install altdiffusion[batch]")

from helpers.feature_folders import build, clustered, save_features, save_part

from altdiffusion.altclip.image_index import ImageIndex
from altdiffusion.batch.index import MOST_EXACT, MOST_WHOLE, choose_kind
from altdiffusion.batch.items import Reading, read_items
from altdiffusion.batch.partitions import plan
from altdiffusion.errors import InputError


@pytest.mark.parametrize("kind", ["exact", "ivf", "ivf-sq8", "hnsw"])
def test_every_kind_finds_what_an_exact_search_finds(tmp_path, kind):
    rows = clustered(3000)
    about = build(save_features(tmp_path / "features", rows), tmp_path / "index", kind=kind)
    index, queries = ImageIndex.open(tmp_path / "index"), clustered(30, seed=1)
    cosines = queries @ rows.T
    found = index.search(queries, 10)
    right = np.argsort(-cosines, axis=1)[:, :10]
    recall = np.mean([len({hit.row for hit in hits} & set(best)) for hits, best in zip(found, right, strict=True)]) / 10
    assert recall >= (0.99 if kind == "exact" else 0.9)
    assert about.recall.get("images", 1) >= 0.9
    near = 0.02 if kind == "ivf-sq8" else 2e-3
    for query, hits in enumerate(found):
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert all(abs(hit.score - cosines[query, hit.row]) < near for hit in hits)
        assert all(hit.columns == {"image_path": f"{hit.row}.png", "caption": f"caption {hit.row}"} for hit in hits)


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw"])
@pytest.mark.parametrize("count", [1, 7, 300])
def test_of_fewer_rows_than_are_asked_for_all_are_found(tmp_path, kind, count):
    build(save_features(tmp_path / "features", clustered(count)), tmp_path / "index", kind=kind)
    (hits,) = ImageIndex.open(tmp_path / "index").search(clustered(1, seed=3), 1000)
    assert sorted(hit.row for hit in hits) == list(range(count))


def test_the_kind_follows_from_the_count():
    counts = (1, MOST_EXACT, MOST_EXACT + 1, MOST_WHOLE, MOST_WHOLE + 1)
    assert [choose_kind(count) for count in counts] == ["exact", "exact", "ivf", "ivf", "ivf-sq8"]


@pytest.mark.parametrize("digits", [("0", "2", "10"), ("00000", "00001", "00002"), ("08", "9", "010")])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_are_in_the_order_of_the_files_numbers(tmp_path, digits, dtype):
    rows = clustered(30)
    for number in (2, 0, 1):
        part = slice(10 * number, 10 * number + 10)
        save_part(
            tmp_path / "features",
            digits[number],
            rows[part].astype(dtype),
            {"image_path": list(map(str, range(30)))[part]},
        )
    save_part(tmp_path / "features", "999", np.zeros((0, 16), dtype), {"image_path": []})
    build(tmp_path / "features", tmp_path / "index")
    found = ImageIndex.open(tmp_path / "index").search(rows, 1)
    assert [(hits[0].row, hits[0].columns["image_path"]) for hits in found] == [(row, str(row)) for row in range(30)]


def test_columns_that_differ_from_file_to_file_are_kept(tmp_path):
    rows = clustered(2)
    save_part(tmp_path / "f", "0", rows[:1], {"image_path": ["a"], "n": [1], "x": [1], "s": [{"a": 1}], "b": [b"."]})
    save_part(
        tmp_path / "f", "1", rows[1:], {"image_path": ["b"], "n": ["one"], "x": [0.5], "only": [True], "s": [None]}
    )
    build(tmp_path / "f", tmp_path / "index")
    index = ImageIndex.open(tmp_path / "index")
    assert index.columns(0) == {"image_path": "a", "n": "1", "x": 1.0, "s": '{"a": 1}'}
    assert index.columns(1) == {"image_path": "b", "n": "one", "x": 0.5, "only": True}


def test_captions_are_indexed_where_there_are_no_images_and_measured_where_there_are_both(tmp_path):
    save_features(tmp_path / "features", clustered(600), "text")
    assert build(tmp_path / "features", tmp_path / "index").of == "captions"
    save_features(tmp_path / "features", clustered(600, seed=2))
    about = build(tmp_path / "features", tmp_path / "both", kind="ivf")
    assert (about.of, set(about.recall)) == ("images", {"images", "captions"})
    assert build(tmp_path / "features", tmp_path / "captions", of="captions").of == "captions"


def damage(folder, kind):
    """What is wrong with features, by name."""
    rows, names = clustered(4), {"image_path": list("abcd")}
    path = folder / "img_emb/img_emb_1.npy"
    if kind == "nothing there":
        return
    save_part(folder, "0", rows, names)
    save_part(folder, "1", rows, names)
    if kind in ("NaN", "infinite", "zeros"):
        rows[2] = {"NaN": np.nan, "infinite": np.inf, "zeros": 0}[kind]
        np.save(path, rows)
    elif kind == "cut off":
        path.write_bytes(path.read_bytes()[:-10])
    elif kind == "no metadata":
        (folder / "metadata/metadata_1.parquet").unlink()
    elif kind == "other metadata":
        save_part(folder, "1", rows, {"image_path": list("abc")})
    elif kind == "damaged metadata":
        (folder / "metadata/metadata_1.parquet").write_bytes(b"PAR1")
    else:
        other = {"width": rows[:, :8], "whole numbers": rows.astype(int), "one row": rows[0], "pickle": np.array([{}])}
        np.save(path, other[kind], allow_pickle=True)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("nothing there", "has no img_emb/img_emb_0.npy"),
        ("NaN", "img_emb_1.npy: row 2 is NaN"),
        ("infinite", "img_emb_1.npy: row 2 is NaN, infinite"),
        ("zeros", "row 2 is NaN, infinite or all 0"),
        ("width", "img_emb_1.npy is 8 wide, img_emb_0.npy 16"),
        ("cut off", "no .npy file that is whole"),
        ("pickle", "no .npy file that is whole"),
        ("whole numbers", r"expected floats \(rows, width\), got int64"),
        ("one row", r"expected floats \(rows, width\)"),
        ("no metadata", "has no metadata: expected .*metadata_1.parquet"),
        ("other metadata", "has 3 rows, its features 4"),
        ("damaged metadata", "no parquet file that is whole"),
    ],
)
def test_bad_features_are_named_and_leave_nothing(tmp_path, kind, error):
    (tmp_path / "features").mkdir()
    damage(tmp_path / "features", kind)
    with pytest.raises(InputError, match=error) as raised:
        build(tmp_path / "features", tmp_path / "index")
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["features"]


def test_an_index_that_is_there_is_left_alone(tmp_path):
    features = save_features(tmp_path / "features", clustered(3))
    (tmp_path / "empty").mkdir()
    build(features, tmp_path / "empty")
    for taken in (tmp_path / "empty", features / "metadata/metadata_0.parquet"):
        with pytest.raises(InputError, match="is there already"):
            build(features, taken)


def manifest(folder, task="embed", model=None, partitions=1):
    document = {"format": 1, "task": task, "settings": {"model": model}, "partitions": partitions}
    (folder / "manifest.json").write_text(json.dumps(document))


def test_the_model_is_the_one_that_embedded(tmp_path):
    features = save_features(tmp_path / "features", clustered(3))
    with pytest.raises(InputError, match=r"doesn't say which model .* --model"):
        build(features, tmp_path / "none", model=None)
    manifest(features)
    assert build(features, tmp_path / "mini", model=None).model == "mini"
    manifest(features, model="BAAI/AltCLIP-m9", partitions=3)
    said = []
    assert build(features, tmp_path / "m9", model=None, say=said.append).model == "BAAI/AltCLIP-m9"
    assert build(features, tmp_path / "other", model="mini", say=said.append).model == "mini"
    assert ["only 0 of 3 partitions" in line for line in said] == [True, True, False]
    assert "computed by BAAI/AltCLIP-m9: indexed as of mini" in said[2]
    manifest(features, task="score")
    with pytest.raises(InputError, match="is of `batch score`"):
        build(features, tmp_path / "score")


def test_an_image_beside_its_table_is_named_by_its_own_path(tmp_path):
    """And not by its row: so it is found again, whatever its column is called."""
    table = tmp_path / "a.csv"
    for column in ("image", "image_path", "file_name"):
        table.write_text(f"{column},caption\npics/1.png,one\ns3://b/2.png,two\n{tmp_path}/3.png,three\n")
        (partition,) = plan(str(table), 10)
        paths = [item.image_path for item in read_items(partition, Reading())]
        assert paths == [str(tmp_path / "pics/1.png"), "s3://b/2.png", str(tmp_path / "3.png")]
