"""The Python of docs/batch.md runs, and gives the scores of `PromptScorer`."""

import json
import re
from pathlib import Path

import pytest
from helpers.batch_data import save_data

from altdiffusion import PromptScorer

PAGE = Path(__file__).parents[2] / "docs" / "batch.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("code", BLOCKS, ids=["datasets", "ray"])
def test_the_lines_run(tmp_path, monkeypatch, code):
    save_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path / "data")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    lines = [json.loads(line) for line in Path("rows.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:  # Ray's workers are in another folder
        line["image"] = str(Path(line["image"]).absolute())
    Path("rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    names = {}
    exec(code, names)
    rows = (
        names["rows"]
        if isinstance(names["rows"], list)
        else list(getattr(names["rows"], "iter_rows", names["rows"].__iter__)())
    )
    expected = PromptScorer.from_pretrained(device="cpu").score_pairs([(row["image"], row["caption"]) for row in rows])
    assert [row["score"] for row in rows] == pytest.approx(list(expected), abs=1e-5)
    assert len(rows) == 10
    if "ray" in names:
        names["ray"].shutdown()
