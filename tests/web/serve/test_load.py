"""pipelines/load_test_apis.py and pipelines/fuzz_apis.py in short, on small models."""

import argparse
import asyncio
from pathlib import Path

import pytest
from helpers import web_server

PIPELINES = Path(__file__).resolve().parents[3] / "pipelines"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def pipelines(monkeypatch):
    monkeypatch.syspath_prepend(PIPELINES)


@pytest.mark.usefixtures("pipelines")
def test_no_odd_request_fails_here(root):
    """The same ones as the first of a million."""
    import fuzz_apis

    with web_server.service_of(root) as service:
        outcome = fuzz_apis.fuzz(service, range(600))
    assert outcome.count == 600
    assert not outcome.failures
    assert {200, 400, 404, 405, 422} <= set(outcome.statuses)  # it goes everywhere


@pytest.mark.usefixtures("pipelines")
def test_a_failure_is_seen(root, monkeypatch):
    import fuzz_apis

    def broken(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr("altdiffusion.web.serve.sdapi.said_of", broken)
    with web_server.service_of(root) as service:
        outcome = fuzz_apis.fuzz(service, range(30))
    assert outcome.failures
    assert "RuntimeError: broken" in outcome.failures[0]


@pytest.mark.usefixtures("pipelines")
def test_each_of_many_clients_gets_an_image_or_a_clear_503(root, capsys, monkeypatch):
    import load_test_apis

    monkeypatch.setattr("altdiffusion.web.serve.errors.RETRY_SECONDS", 1)
    options = argparse.Namespace(clients=5, seconds=0.5, max_queue=1, requests=10, steps=1)
    with web_server.apis_served(root, max_queue=1) as url:
        assert asyncio.run(load_test_apis.load(url, options)) == [True, True]
    assert "lost: 0" in capsys.readouterr().out


@pytest.mark.usefixtures("pipelines")
def test_what_the_apis_add_is_measured(root, capsys):
    import load_test_apis

    with web_server.service_of(root) as service:
        load_test_apis.added(service, 2)
    assert "generations adds" in capsys.readouterr().out
