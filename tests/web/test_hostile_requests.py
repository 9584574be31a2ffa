"""Hostile requests, as raw HTTP: every one is refused, none is answered with a path or a trace, and the server lives."""

import http.client
import json
import secrets
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from helpers import web_server
from helpers.hostile_images import bomb
from PIL import Image, PngImagePlugin

pytest.importorskip("gradio", reason="the demo needs gradio: pip install altdiffusion[demo]")

HOSTILE = '<script>window.hacked=1</script><img src=x onerror="window.hacked=1">{{7*7}}${7*7}\x00\u202e'


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def server(root):
    (root / "secret.txt").write_text("the owner's secret")
    with web_server.served(root, max_queue=5) as url:
        yield url.rstrip("/")


@pytest.fixture(autouse=True)
def _alive(server):
    """After each hostile request the server still answers."""
    yield
    assert "alt-small" in call(server, "models", [])[1]


def request(url, data=None, headers=None, method=None):
    """(status, body as text)."""
    asked = urllib.request.Request(url, data=data, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=60) as response:
            return response.status, response.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except (
        urllib.error.URLError,
        http.client.HTTPException,
    ) as error:  # the server closed the line before the whole body was sent
        return 0, str(error)


def call(server, endpoint, data):
    """The events of one call of the API."""
    body = json.dumps({"data": data}).encode()
    status, text = request(f"{server}/gradio_api/call/{endpoint}", body, {"Content-Type": "application/json"})
    if status != 200:
        return status, text
    return request(f"{server}/gradio_api/call/{endpoint}/{json.loads(text)['event_id']}")


def upload(server, content, name="x.png"):
    edge = secrets.token_hex(8)
    head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'
    body = head.encode() + content + f"\r\n--{edge}--\r\n".encode()
    return request(f"{server}/gradio_api/upload", body, {"Content-Type": f"multipart/form-data; boundary={edge}"})


def file(path, **more):
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def assert_refused(answer, root):
    """No image, no trace, no path of this machine."""
    status, text = answer
    assert status >= 400 or status == 0 or "event: error" in text, text
    for leak in ("Traceback", "site-packages", 'File "', str(root), "the owner's secret", "root:x:0"):
        assert leak not in text, text


WRONG = {
    "sizes": ["a", "", "", "1", 2, 7.5, 10**9, 10**9, "", 1, 0],
    "negative": ["a", "", "", "1", -2, 7.5, -16, -16, "", -1, -1],
    "too much": ["a", "", "", "1", 100, 7.5, 768, 768, "", 8, 8],
    "not of 8": ["a", "", "", "1", 2, 7.5, 17, 16, "", 1, 0],
    "types": [{"a": 1}, [], 3, {}, "x", "y", "16", None, [], "1", {}],
    "empty": ["", "", "", "", 2, 7.5, 16, 16, "", 1, 0],
    "long": ["a" * 10**5, "", "", "", 2, 7.5, 16, 16, "", 1, 0],
    "seed": ["a", "", "", "1; DROP TABLE", 2, 7.5, 16, 16, "", 1, 0],
    "huge seed": ["a", "", "", "9" * 10**5, 2, 7.5, 16, 16, "", 1, 0],
    "model path": ["a", "", "/etc", "1", 2, 7.5, 16, 16, "", 1, 0],
    "model on the hub": ["a", "", "stable-diffusion-v1-5/stable-diffusion-v1-5", "1", 2, 7.5, 16, 16, "", 1, 0],
    "model above": ["a", "", "../alt-small", "1", 2, 7.5, 16, 16, "", 1, 0],
    "scheduler": ["a", "", "", "1", 2, 7.5, 16, 16, "__class__", 1, 0],
    "none": [],
    "many": ["a"] * 100,
    "file for a prompt": [file("/etc/passwd"), "", "", "1", 2, 7.5, 16, 16, "", 1, 0],
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_requests_beyond_the_limits(server, root, data):
    assert_refused(call(server, "draw", data), root)


WRONG_TOKENS = {
    "nothing": [],
    "types": [{"a": 1}, [], {}, "x", 3],
    "long": ["a" * 10**5, "", "webui", 25, None],
    "unclosed": ["(" * 2000, "", "webui", 25, None],
    "steps": ["a", "", "webui", 10**9, None],
    "model path": ["a", "../alt-small", "webui", 25, None],
    "styles": ["a", "", "webui", 25, [{"a": 1}]],
    "many styles": ["a", "", "webui", 25, ["ink"] * 10**4],
    "file for a prompt": [file("/etc/passwd"), "", "webui", 25, None],
}


@pytest.mark.parametrize("data", WRONG_TOKENS.values(), ids=WRONG_TOKENS)
def test_prompts_that_are_not_counted(server, root, data):
    assert_refused(call(server, "tokens", data), root)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(server, root, number):
    body = f'{{"data": ["a", "", "", "1", 2, {number}, 16, 16, "", 1, 0]}}'.encode()
    status, text = request(f"{server}/gradio_api/call/draw", body, {"Content-Type": "application/json"})
    if status == 200:
        status, text = request(f"{server}/gradio_api/call/draw/{json.loads(text)['event_id']}")
    assert_refused((status, text), root)


PATHS = [
    "/etc/passwd",
    "../../../../etc/passwd",
    "file:///etc/passwd",
    "{folder}/../../etc/passwd",
    "{root}/secret.txt",
    "/proc/self/environ",
    "/dev/zero",
    "C:\\Windows\\win.ini",
    "\x00",
    "x" * 10**4,
    "http://127.0.0.1:{port}/config",
    "http://169.254.169.254/latest/meta-data/",
]


@pytest.mark.parametrize("endpoint", ["read_settings", "score", "change"])
@pytest.mark.parametrize("path", PATHS)
def test_files_that_were_not_uploaded(server, root, path, endpoint):
    port = urllib.parse.urlsplit(server).port
    folder = "/tmp/gradio"
    given = file(path.format(root=root, port=port, folder=folder))
    data = {"read_settings": [given], "score": [[given], ["a"]], "change": [given, "a"]}[endpoint]
    assert_refused(call(server, endpoint, data), root)
    data = json.loads(json.dumps(data).replace('"meta"', '"other"'))  # without the mark that Gradio looks for
    assert_refused(call(server, endpoint, data), root)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=%2e%2e%2f%2e%2e%2fetc/passwd",
        "/gradio_api/file={root}/secret.txt",
        "/gradio_api/file={root}/alt-small/model_index.json",
        "/gradio_api/file=/proc/self/environ",
        "/gradio_api/file=http://127.0.0.1:{port}/config",
        "/file=/etc/passwd",
        "/assets/../../../../../../etc/passwd",
        "/assets/%2e%2e/%2e%2e/%2e%2e/routes.py",
        "/static/../../routes.py",
        "/gradio_api/proxy=http://169.254.169.254/",
        "/gradio_api/stream/../../etc/passwd",
        "/gradio_api/upload_progress?upload_id=../../x",
        "/docs",
        "/gradio_api/dev/reload",
        "/monitoring/x",
    ],
)
def test_files_outside_the_output_folder(server, root, path):
    port = urllib.parse.urlsplit(server).port
    status, text = request(server + path.format(root=root, port=port))
    assert "root:x:0" not in text
    assert "the owner's secret" not in text
    assert "_class_name" not in text
    assert status >= 400 or "gradio_config" in text or text.startswith("<!doctype html>"), (status, text[:300])


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", "..\\evil.png", "a\x00b.png", "x" * 5000 + ".png"])
def test_names_of_uploads_stay_in_the_folder(server, root, name):
    status, text = upload(server, b"x", name)
    if status == 200:
        (path,) = json.loads(text)
        assert ".." not in Path(path).parts
        assert "altdiffusion-demo-" in path
        assert_refused(call(server, "read_settings", [file(path)]), root)


def uploaded(server, content):
    status, text = upload(server, content)
    assert status == 200, text
    return json.loads(text)[0]


@pytest.mark.parametrize(
    "content",
    [
        bomb(30000),
        bomb(5000),
        b"GIF89a" + b"\xff" * 50,
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"<svg onload='alert(1)'/>",
        b"",
        b"\x89PNG\r\n",
    ],
    ids=["bomb", "smaller bomb", "gif", "eps", "svg", "empty", "cut"],
)
@pytest.mark.parametrize("endpoint", ["read_settings", "score", "change"])
def test_pictures_that_are_none(server, root, content, endpoint):
    given = file(uploaded(server, content), orig_name="x.png")
    data = {"read_settings": [given], "score": [[given], ["a"]], "change": [given, "a"]}[endpoint]
    assert_refused(call(server, endpoint, data), root)


def test_uploads_that_are_too_large(server):
    assert upload(server, bytes(11 * 2**20))[0] in (413, 0)


def test_bodies_that_are_too_large(server):
    body = json.dumps({"data": ["a" * 3 * 2**20]}).encode()
    assert request(f"{server}/gradio_api/call/draw", body, {"Content-Type": "application/json"})[0] in (413, 0)


def test_many_pictures_and_many_lines(server, root, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    given = file(uploaded(server, (tmp_path / "x.png").read_bytes()))
    assert_refused(call(server, "score", [[given] * 31, ["a"]]), root)
    assert_refused(call(server, "score", [[given], ["a"] * 51]), root)
    assert_refused(call(server, "classify", [[given], ["a"], "{0.__class__}"]), root)
    assert_refused(call(server, "score", [given, ["a"]]), root)
    assert_refused(call(server, "rank", [[given], "\n"]), root)


def test_scripts_in_prompts_and_in_png_texts_are_only_words(server, tmp_path):
    status, events = call(server, "draw", [HOSTILE, HOSTILE, "", "1", 2, 7.5, 16, 16, "", 1, 0, "none"])
    assert status == 200
    assert "event: complete" in events
    info = PngImagePlugin.PngInfo()
    info.add_itxt(
        "parameters", f"{HOSTILE}\nSteps: 999999999, Seed: -1, Size: 99999x99999, Model: {HOSTILE}, Sampler: x"
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    status, events = call(server, "read_settings", [file(uploaded(server, (tmp_path / "x.png").read_bytes()))])
    assert status == 200
    found = json.loads(events.split("data: ", 1)[1].splitlines()[0])[0]
    assert (found["steps"], found["seed"], found["width"], found["scheduler"]) == (100, 0, None, None)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"data": null}', b'{"data": {}}', b"\xff\xfe", b'{"data": [' + b"[" * 10**4]
)
@pytest.mark.parametrize("path", ["call/draw", "queue/join", "run/draw", "api/draw", "cancel", "reset"])
def test_bodies_that_are_no_request(server, root, body, path):
    assert_refused(request(f"{server}/gradio_api/{path}", body, {"Content-Type": "application/json"}), root)


def test_there_is_no_way_around_the_queue(server, root):
    body = json.dumps({"data": ["a", "", "", "1", 2, 7.5, 16, 16, "", 1, 0], "fn_index": 1}).encode()
    for path in ("run/draw", "api/draw", "run/predict", "api/predict"):
        assert_refused(request(f"{server}/gradio_api/{path}", body, {"Content-Type": "application/json"}), root)


def test_endpoints_that_do_not_exist(server, root):
    for name in ("predict", "load_example", "__import__", "draw/../../x", "/config"):
        assert_refused(call(server, urllib.parse.quote(name), ["a"]), root)


def test_one_visitors_events_are_not_anothers(server):
    body = json.dumps({"data": ["a cat", "", "", "1", 2, 7.5, 16, 16, "", 1, 0]}).encode()
    _, text = request(f"{server}/gradio_api/call/draw", body, {"Content-Type": "application/json"})
    mine = json.loads(text)["event_id"]
    for guess in ("0" * 32, mine[:-1], "../" + mine):
        _, events = request(f"{server}/gradio_api/call/draw/{urllib.parse.quote(guess, safe='')}")
        assert "seed" not in events
    request(f"{server}/gradio_api/call/draw/{mine}")


def test_the_page_says_nothing_of_the_machine(server, root):
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/startup-events"):
        _, text = request(server + path)
        assert str(root) not in text
        assert "altdiffusion-demo-" not in text, path


def test_an_honest_visitor_is_served_after_all_that(server):
    status, events = call(server, "draw", ["a cat", "", "", "1", 2, 7.5, 16, 16, "", 1, 0])
    assert status == 200
    assert '"seed": "1"' in events, events
