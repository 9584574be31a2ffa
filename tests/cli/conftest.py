"""The command line in this process."""

import signal
from types import SimpleNamespace

import pytest

from altdiffusion.cli.main import main


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs `altdiffusion` with these words; gives its status, out and err. This process keeps its signal handlers."""
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)

    def run(*words):
        capsys.readouterr()
        status = main([str(word) for word in words])
        streams = capsys.readouterr()
        return SimpleNamespace(status=status, out=streams.out, err=streams.err)

    return run
