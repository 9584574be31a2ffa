"""The page beside the APIs, really served: one port, one service, one key."""

import base64
import io

import httpx
import pytest
from helpers import web_server
from PIL import Image

from altdiffusion.generation.infotext import image_settings
from altdiffusion.web.guard import MAX_JSON

pytest.importorskip("gradio", reason="the page needs gradio: pip install altdiffusion[demo]")
gradio_client = pytest.importorskip("gradio_client")
KEY = "a-key-of-the-owner"
BEARER = {"Authorization": f"Bearer {KEY}"}
SMALL = {"prompt": "一只猫", "seed": 3, "steps": 2}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with web_server.apis_served(tmp_path_factory.mktemp("models"), KEY, page=True) as url:
        yield url


@pytest.fixture(scope="module")
def http(url):
    with httpx.Client(base_url=url, headers=BEARER, timeout=60) as http:
        yield http


def opened(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_the_page_and_both_apis_give_the_same_image(http, url):
    index = http.get("/")
    assert "AltDiffusion" in index.text
    assert index.headers["x-content-type-options"] == "nosniff"
    by_sd = http.post("/sdapi/v1/txt2img", json=SMALL | {"width": 16, "height": 16}).json()
    by_openai = http.post("/v1/images/generations", json=SMALL | {"size": "16x16"}).json()
    images = [opened(by_sd["images"][0]), opened(by_openai["data"][0]["b64_json"])]
    client = gradio_client.Client(url, headers=BEARER, verbose=False)
    (generated,) = client.predict("一只猫", seed="3", steps=2, width=16, height=16, api_name="/draw")
    client.close()
    images.append(Image.open(generated["image"]))
    assert len({image.tobytes() for image in images}) == 1
    assert {image_settings(image).seed for image in images} == {3}


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/config",
        "/gradio_api/info",
        "/gradio_api/startup-events",
        "/assets/x.js",
        "/sdapi/v1/options",
        "/v1/models",
    ],
)
def test_nothing_opens_without_the_key(url, path):
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = httpx.get(url + path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")  # a browser asks for a password
    assert httpx.get(url + path, auth=("anyone", KEY)).status_code != 401


def test_each_has_its_own_errors_and_limits(http):
    large = b"x" * (MAX_JSON + 1)
    assert http.post("/gradio_api/queue/join", content=large).json() == {"detail": "the request is too large"}
    assert "too large" in http.post("/v1/images/generations", content=large).json()["error"]["message"]
    assert http.post("/gradio_api/upload", content=large).status_code != 413
    assert http.get("/v1/nothing").json()["error"]["code"] == "not_found"
    assert http.get("/openapi.json").json()["info"]["title"] == "altdiffusion"
    assert http.get("/gradio_api/dev/reload").status_code == 404


def test_other_sites_read_nothing(http):
    for path in ("/config", "/v1/models"):
        answer = http.get(path, headers={"Origin": "https://elsewhere.example", "Host": "images.example"})
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers
