"""pipelines/measure_search.py on few features: exact where the rule says so, lists where they are asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("faiss", reason="an index needs FAISS: pip install altdiffusion[batch]")

SCRIPT = Path(__file__).parents[1] / "pipelines/measure_search.py"


def test_its_report_has_times_and_recall(tmp_path):
    words = ["--count", "600", "--width", "32", "--queries", "5", "--folder", str(tmp_path)]
    for kind, least in ((), 1), (("--kind", "ivf"), 0.5):
        done = subprocess.run([sys.executable, str(SCRIPT), *words, *kind], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["kind"], report["features"]) == ("ivf" if kind else "exact", 600)
        for name in ("images", "captions"):
            assert report[name]["recall_at_10"] >= least
            assert 0 < report[name]["median_ms"] <= report[name]["p99_ms"]
