"""The APIs on small models, in this process."""

import pytest
from helpers import web_server
from PIL import Image

pytest.importorskip("fastapi", reason="the APIs need FastAPI: pip install altdiffusion[serve]")

from fastapi.testclient import TestClient

from altdiffusion.web.serve.app import build_app


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with web_server.service_of(tmp_path_factory.mktemp("models"), max_queue=5) as service:
        yield service


@pytest.fixture(scope="module")
def client(service):
    return TestClient(build_app(service))


@pytest.fixture
def stripes():
    """32 x 32, black and white."""
    image = Image.new("RGB", (32, 32), "black")
    for left in range(0, 32, 8):
        image.paste("white", (left, 0, left + 4, 32))
    return image
