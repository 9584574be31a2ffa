"""An index that is opened and searched: what it gives, what it refuses."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("faiss", reason="an index needs FAISS: pip install altdiffusion[batch]")

from helpers.feature_folders import build, clustered, save_features, save_part

from altdiffusion.altclip.image_index import ImageIndex, query_features
from altdiffusion.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of 50 rows, 16 wide."""
    root = tmp_path_factory.mktemp("index")
    build(save_features(root / "features", clustered(50)), root / "index")
    return root / "index"


@pytest.mark.parametrize("scale", [1e-3, 1, 50])
def test_features_of_any_length_give_cosines(folder, scale):
    row = clustered(50)[7]
    index = ImageIndex.open(folder)
    for features in (scale * row[None], torch.tensor(scale * row)[None], [(scale * row).tolist()]):
        hit = index.search(features, 1)[0][0]
        assert (hit.row, hit.columns["caption"]) == (7, "caption 7")
        assert hit.score == pytest.approx(1, abs=1e-3)
        assert hit.score <= 1


@pytest.mark.parametrize(
    ("features", "top", "error"),
    [
        (np.ones((1, 8)), 1, r"shape \(1, 8\), expected \(queries, 16\): this index is of mini"),
        (np.ones(16), 1, r"shape \(16,\)"),
        (np.full((1, 16), np.nan), 1, "NaN"),
        (np.zeros((1, 16)), 1, "all 0"),
        (np.ones((1, 16)), 0, "top 0: expected at least 1"),
    ],
)
def test_what_cant_be_searched_with_is_refused(folder, features, top, error):
    with pytest.raises(InputError, match=error):
        ImageIndex.open(folder).search(features, top)


def test_no_queries_find_nothing(folder):
    assert ImageIndex.open(folder).search(np.ones((0, 16)), 5) == []


def test_a_row_is_found_in_whatever_batch_it_lies(tmp_path):
    sizes, first = (5000, 1, 4096, 3), 0
    for number, size in enumerate(sizes):
        names = [f"{row}" for row in range(first, first + size)]
        save_part(tmp_path / "f", str(number), np.ones((size, 2), np.float16), {"image_path": names})
        first += size
    build(tmp_path / "f", tmp_path / "index")
    index = ImageIndex.open(tmp_path / "index")
    rows = (0, 4095, 4096, 4999, 5000, 5001, 9096, 9097, 9099)
    assert [index.columns(row)["image_path"] for row in rows] == list(map(str, rows))


def changed(folder, **changes):
    document = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(document | changes))


DAMAGES = {
    "nothing": (shutil.rmtree, "has no index.json"),
    "no index.json": (
        lambda folder: (folder / "index.json").unlink(),
        "expected a folder that `altdiffusion batch index`",
    ),
    "no JSON": (lambda folder: (folder / "index.json").write_text("{"), "has no index.json of an index"),
    "a list": (lambda folder: (folder / "index.json").write_text("[]"), "has no index.json of an index"),
    "lacks a key": (
        lambda folder: (folder / "index.json").write_text('{"format": 1}'),
        "has no index.json of an index",
    ),
    "a model of no name": (lambda folder: changed(folder, model=None), "has no index.json of an index"),
    "a depth of no number": (lambda folder: changed(folder, depth="deep"), "has no index.json of an index"),
    "newer": (lambda folder: changed(folder, format=2), "newer altdiffusion"),
    "another count": (lambda folder: changed(folder, count=51), "doesn't fit together: 51 rows .* 50 of 16"),
    "another width": (lambda folder: changed(folder, width=8), "doesn't fit together"),
    "no features": (lambda folder: (folder / "features.faiss").unlink(), "features.faiss can't be read"),
    "no FAISS": (lambda folder: (folder / "features.faiss").write_bytes(b"none"), "features.faiss can't be read"),
    "no rows": (lambda folder: (folder / "rows.arrow").unlink(), "rows.arrow can't be read"),
    "no Arrow": (lambda folder: (folder / "rows.arrow").write_bytes(b"none" * 9), "rows.arrow can't be read"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_folder_that_is_no_whole_index_is_told(folder, tmp_path, name):
    copy = shutil.copytree(folder, tmp_path / "index")
    damage, error = DAMAGES[name]
    damage(copy)
    with pytest.raises(InputError, match=error) as raised:
        ImageIndex.open(copy)
    assert "\n" not in str(raised.value)


def test_keys_of_a_later_version_of_the_same_format_are_left_alone(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "index")
    changed(copy, later=1)
    assert len(ImageIndex.open(copy)) == 50


def test_a_prompt_with_an_image_is_their_mean():
    texts, image = torch.eye(3)[:2], torch.eye(3)[2:]
    scorer = SimpleNamespace(text_features=lambda given: texts[: len(given)], image_features=lambda given: image)
    assert query_features(scorer, ["a", "b"]).tolist() == texts.tolist()
    assert query_features(scorer, [], "a.png").tolist() == image.tolist()
    assert query_features(scorer, ["a", "b"], "a.png").tolist() == [[1, 0, 1], [0, 1, 1]]
    with pytest.raises(InputError, match="nothing to search with"):
        query_features(scorer, [])
