"""`batch score` gives what the scorer gives, whatever layout the items come in, and names what can't be scored."""

import json

import numpy as np
import pytest
from helpers.batch_data import CAPTIONS, SOURCES, UIDS, read_parquet, run_here

from altdiffusion import PromptScorer
from altdiffusion.batch.settings import ScoreBatch
from altdiffusion.errors import InputError
from altdiffusion.images import image_files


@pytest.fixture(scope="module")
def expected(batch_source, small_altclip):
    """Cosines of all images with all captions, by the scorer alone."""
    scorer = PromptScorer.from_pretrained(small_altclip, device="cpu")
    return scorer.score(image_files(batch_source / "images"), CAPTIONS).numpy()


def scores_of(out, column="cosine"):
    tables = [read_parquet(path) for path in sorted((out / "scores").glob("*.parquet"))]
    return np.array([score for table in tables for score in table[column]])


@pytest.mark.parametrize("kind", SOURCES)
def test_captions_of_every_layout(batch_source, small_altclip, expected, tmp_path, kind):
    source = str(batch_source / SOURCES[kind])
    settings = ScoreBatch(source=source, out=tmp_path, model=str(small_altclip), partition_size=4, batch_size=3)
    outcomes = run_here("score", settings)
    assert [outcome.failed for outcome in outcomes] == [""] * len(outcomes)
    np.testing.assert_allclose(scores_of(tmp_path), np.diag(expected), atol=2e-6)


def test_prompts_have_a_column_each(batch_source, small_altclip, expected, tmp_path):
    settings = ScoreBatch(
        source=str(batch_source / "{000..001}.tar"), out=tmp_path, model=str(small_altclip), prompt=CAPTIONS[:2]
    )
    run_here("score", settings)
    for number in range(2):
        np.testing.assert_allclose(scores_of(tmp_path, f"cosine_{number}"), expected[:, number], atol=2e-6)
    table = read_parquet(tmp_path / "scores/00001.parquet")
    assert table["id"] == UIDS[5:]
    assert table["index"] == list(range(5))


def test_bad_items_go_to_the_errors_and_stop_nothing(tmp_path, batch_source, small_altclip, expected):
    rows = [json.loads(line) for line in (batch_source / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        row["image"] = str(batch_source / row["image"])
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    rows[1]["image"] = "bad.png"
    rows[3]["caption"] = ""
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ScoreBatch(source=str(tmp_path / "t.jsonl"), out=tmp_path / "out", model=str(small_altclip))
    (outcome,) = run_here("score", settings)
    assert outcome.done.items == 8
    errors = [json.loads(line) for line in (tmp_path / "out/errors/00000.jsonl").read_text().splitlines()]
    assert [(error["id"], error["where"].rpartition(":")[2]) for error in errors] == [(UIDS[1], "2"), (UIDS[3], "4")]
    assert "no image that can be read" in errors[0]["reason"]
    kept = [number for number in range(10) if number not in (1, 3)]
    np.testing.assert_allclose(scores_of(tmp_path / "out"), np.diag(expected)[kept], atol=2e-6)


def test_percentiles_need_a_calibration(batch_source, small_altclip, tmp_path):
    settings = ScoreBatch(
        source=str(batch_source / "images"), out=tmp_path, model=str(small_altclip), score_as=["cosine", "percentile"]
    )
    with pytest.raises(InputError, match="no calibration"):
        run_here("score", settings)


def test_percentiles_by_captions_and_by_prompts(batch_source, tmp_path):
    for name, prompt in (("captions", []), ("prompts", ["一只猫"])):
        settings = ScoreBatch(
            source=str(batch_source / "rows.jsonl"), out=tmp_path / name, prompt=prompt,
            score_as=["percentile", "cosine"], language="zh",
        )  # fmt: skip
        run_here("score", settings)
        table = read_parquet(tmp_path / name / "scores/00000.parquet")
        order = np.argsort(table["cosine"])
        assert (np.diff(np.array(table["percentile"])[order]) >= 0).all()
        assert all(0 <= percentile <= 100 for percentile in table["percentile"])
    assert set(read_parquet(tmp_path / "captions/scores/00000.parquet")["language"]) == {"zh"}
