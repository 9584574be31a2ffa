"""The quick check: every fast path gives what the plain one does, and a difference fails it."""

import pytest

from altdiffusion.benchmark import quick
from altdiffusion.cli.main import main

pytestmark = pytest.mark.long


def test_quick_is_the_same_everywhere(capsys):
    assert main(["benchmark", "--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 20
    assert all(line.startswith("same") for line in lines)


def test_quick_ends_with_1_where_an_output_differs(monkeypatch, capsys):
    monkeypatch.setattr(quick, "check_all", lambda: [quick.Check("good", 0, 1e-5), quick.Check("bad", float("nan"), 1)])
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", "--quick"])
    assert ended.value.code == 1
    assert "DIFFERS  bad" in capsys.readouterr().out
