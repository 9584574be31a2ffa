"""How the APIs are served: with a key, within sizes, documented; and what the owner got wrong."""

import base64
import subprocess
import sys

import pytest
from fastapi.testclient import TestClient

from altdiffusion import InputError
from altdiffusion.cli.main import parse
from altdiffusion.web.guard import MAX_JSON
from altdiffusion.web.serve.app import build_app
from altdiffusion.web.serve.server import running
from altdiffusion.web.server import Serving

KEY = "a-key-of-the-owner"


@pytest.fixture(scope="module")
def locked(service):
    return TestClient(build_app(service, api_key=KEY))


def basic(pair):
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


@pytest.mark.parametrize("sent", [f"Bearer {KEY}", f"bearer {KEY}", basic(f"anyone:{KEY}")])
def test_the_key_opens(locked, sent):
    assert locked.get("/v1/models", headers={"Authorization": sent}).status_code == 200


WRONG = [
    "",
    KEY,
    "Bearer",
    f"Bearer {KEY}x",
    f"Bearer {KEY[:-1]}",
    basic("anyone:x"),
    basic(KEY),
    "Basic !",
    "Bearer \xff",
]


@pytest.mark.parametrize("sent", WRONG)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/scores", "/sdapi/v1/options", "/nothing", "//v1/models"])
def test_nothing_opens_without_it(locked, path, sent):
    answer = locked.post(path, headers={"Authorization": sent.encode("latin-1")} if sent else {}, content=b"{")
    assert answer.status_code == 401
    assert "WWW-Authenticate" in answer.headers
    error = answer.json()
    assert error["error"]["code"] == "invalid_api_key" if path.startswith("/v1") else "key" in error["detail"]


def test_large_bodies_are_refused_in_each_apis_form(client):
    large = b"x" * (MAX_JSON + 1)
    assert "too large" in client.post("/sdapi/v1/txt2img", content=large).json()["detail"]
    answer = client.post("/v1/images/generations", content=large)
    assert (answer.status_code, "too large" in answer.json()["error"]["message"]) == (413, True)
    assert client.post("/sdapi/v1/img2img", content=large).status_code == 422


def test_every_endpoint_is_documented_and_says_nothing_of_the_machine(client, service):
    text = client.get("/openapi.json").text
    assert str(service.folder.parent) not in text
    paths = client.get("/openapi.json").json()["paths"]
    for name in (
        "txt2img",
        "img2img",
        "png-info",
        "progress",
        "interrupt",
        "options",
        "sd-models",
        "samplers",
        "loras",
        "memory",
    ):
        assert f"/sdapi/v1/{name}" in paths
    assert {"/v1/images/generations", "/v1/images/edits", "/v1/models", "/v1/scores"} <= set(paths)
    assert client.get("/docs").status_code == 200


@pytest.mark.parametrize("root_path", ["/draw", ""])
def test_addresses_stand_below_the_proxys_path(service, root_path):
    client = TestClient(build_app(service, root_path=root_path), base_url="http://proxy.example")
    body = {"prompt": "猫", "size": "16x16", "steps": 2, "response_format": "url"}
    (data,) = client.post("/v1/images/generations", json=body).json()["data"]
    assert data["url"].startswith(f"http://proxy.example{root_path}/v1/images/files/")
    assert client.get(data["url"]).status_code == 200


def test_browsers_are_told_not_to_guess_types(client):
    assert client.get("/v1/models").headers["x-content-type-options"] == "nosniff"


def test_the_commands_options():
    _, options = parse(
        ["serve", "--models", "mini", "--host", "0.0.0.0", "--port", "8000", "--api-key", KEY, "--any-model",
         "--max-queue", "5", "--max-pixels", "262144", "--producer", "me"]
    )  # fmt: skip
    assert (options.api_key, options.any_model, options.label.producer) == (KEY, True, "me")
    serving = Serving(**options.serving)
    assert (serving.models, serving.host, serving.port, serving.max_queue) == (["mini"], "0.0.0.0", 8000, 5)
    assert serving.limits.pixels == 262144
    plain = parse(["serve"]).settings
    assert (plain.host, plain.page) == ("127.0.0.1", False)
    assert parse(["serve", "--page"]).settings.page


@pytest.mark.parametrize(
    ("serving", "key", "line"),
    [
        (Serving(max_queue=0), None, "--max-queue"),
        (Serving(root_path="draw"), None, "--root-path draw: expected a path"),
        (Serving(), "short", "--api-key: expected at least 8"),
        (Serving(), "钥匙钥匙钥匙钥匙", "--api-key: expected at least 8"),
        (Serving(host="203.0.113.1"), None, "--host 203.0.113.1"),
    ],
)
def test_the_owners_mistakes_are_one_clear_line(serving, key, line):
    with pytest.raises(InputError, match=line) as error, running(serving, key):
        pass
    assert "\n" not in str(error.value)


def test_without_fastapi_the_command_says_what_to_install():
    script = "import sys; sys.modules['fastapi'] = None\nfrom altdiffusion.cli import main\nsys.exit(main(['serve']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert 'pip install "altdiffusion[serve]"' in done.stderr.splitlines()[-1]
