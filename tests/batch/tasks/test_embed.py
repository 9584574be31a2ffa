"""`batch embed` writes clip-retrieval's layout: rows of features and of metadata in one order."""

import numpy as np
import pytest
from helpers.batch_data import CAPTIONS, SOURCES, read_parquet, run_here

from altdiffusion import PromptScorer
from altdiffusion.batch.settings import EmbedBatch
from altdiffusion.images import image_files


@pytest.mark.parametrize("kind", ["folder", "tars", "parquet"])
def test_features_are_the_scorers(batch_source, small_altclip, tmp_path, kind):
    settings = EmbedBatch(
        source=str(batch_source / SOURCES[kind]), out=tmp_path, model=str(small_altclip), batch_size=4
    )
    run_here("embed", settings)
    scorer = PromptScorer.from_pretrained(small_altclip, device="cpu")
    for name, features in (
        ("img", scorer.image_features(image_files(batch_source / "images"))),
        ("text", scorer.text_features(CAPTIONS)),
    ):
        parts = [np.load(path) for path in sorted((tmp_path / f"{name}_emb").glob("*.npy"))]
        assert parts[0].dtype == np.float16
        np.testing.assert_allclose(np.concatenate(parts), features.numpy(), atol=1e-3)
    tables = [read_parquet(path) for path in sorted((tmp_path / "metadata").glob("*.parquet"))]
    assert [caption for table in tables for caption in table["caption"]] == CAPTIONS
    assert {"image_path", "caption", "id"} <= tables[0].keys()


@pytest.mark.parametrize(("what", "there"), [("images", "img_emb"), ("captions", "text_emb")])
def test_one_of_both(batch_source, small_altclip, tmp_path, what, there):
    settings = EmbedBatch(source=str(batch_source / "images"), out=tmp_path, model=str(small_altclip), what=what)
    run_here("embed", settings)
    assert {path.name for path in tmp_path.glob("*_emb")} == {there}


def test_rows_stay_beside_their_features_where_items_are_left_out(tmp_path, batch_source, small_altclip):
    (tmp_path / "t.csv").write_text(
        f"caption,image\ncat,{batch_source}/images/000.png\ndog,gone.png\n,{batch_source}/images/001.png\nsun,{batch_source}/images/002.png\n"
    )
    run_here("embed", EmbedBatch(source=str(tmp_path / "t.csv"), out=tmp_path / "out", model=str(small_altclip)))
    table = read_parquet(tmp_path / "out/metadata/metadata_00000.parquet")
    assert table["caption"] == ["cat", "sun"]
    assert len(np.load(tmp_path / "out/img_emb/img_emb_00000.npy")) == 2
    assert len((tmp_path / "out/errors/00000.jsonl").read_text().splitlines()) == 2
