"""Cases run from the command line, and their document and table."""

import json

import pytest
import torch

from altdiffusion.benchmark import runs
from altdiffusion.benchmark.cases import text
from altdiffusion.benchmark.models import SMALL
from altdiffusion.cli.main import main


def test_text_figures_as_a_document(tmp_path):
    small = ["--rounds", "1", "--layers", "1", "--width", "64"]
    assert main(["benchmark", "--cases", "text", *small, "--device", "cpu", "--json", str(tmp_path / "f.json")]) == 0
    report = json.loads((tmp_path / "f.json").read_text())
    assert report["machine"]["torch"] == torch.__version__
    assert report["comparisons"][0]["contenders"][0]["ratio"] == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rounds", "0"], "at least 1"),
        (["--width", "100"], "multiple of 64"),
        (["--channels", "33"], "multiple of 32"),
        (["--device", "cuda:9"], "isn't there"),
        (["--cases", "nonsense"], "expected one of text, prompts"),
    ],
)
def test_bad_input_is_one_line(words, says, capsys):
    try:
        status = main(["benchmark", *words])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert says in capsys.readouterr().err


def test_memory_that_runs_out_is_one_line(monkeypatch):
    def hungry(sizes, device):
        raise MemoryError

    monkeypatch.setattr(text, "measure", hungry)
    with pytest.raises(ValueError, match="memory ran out in 'text'"):
        runs.run(["text"], SMALL, "cpu", str)
