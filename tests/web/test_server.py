"""How the demo is served: to this machine alone, within its sizes, leaving nothing behind; and its HTML."""

import asyncio
import os
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from altdiffusion import InputError
from altdiffusion.cli.main import parse
from altdiffusion.web import html_parts
from altdiffusion.web.draw_queue import Generating, Loading, Waiting
from altdiffusion.web.guard import MAX_JSON, Guard
from altdiffusion.web.limits import Limits
from altdiffusion.web.model_entry import ModelEntry, parse_entry
from altdiffusion.web.model_pool import Models
from altdiffusion.web.server import Serving, running, sweep

HOSTILE = "<script>alert(1)</script><img src=x onerror=\"alert(2)\">' onload='x"

PIECE = {"piece": HOSTILE, "text": HOSTILE, "weight": 1.2, "known": False}
PART = {"from_step": 1, "until_step": 2, "prompt": HOSTILE, "chunks": [[PIECE, PIECE | {"known": True}]]}
PART["understood"] = [{"text": HOSTILE, "tokens": [{"words": [{"word": HOSTILE, "share": 0.5}], "rest": 0.5}]}]
READ = {
    "chunk_tokens": 75,
    "prompts": 2 * [{"prompt": HOSTILE, "loras": [{"name": HOSTILE, "weight": 1}], "parts": [PART]}],
}


def test_loopback_is_the_default():
    assert Serving().host == "127.0.0.1"
    assert parse(["demo"]).settings.host == "127.0.0.1"


def test_the_commands_options():
    _, options = parse(
        ["demo", "--models", "mini", "BAAI/AltDiffusion-m9", "--host", "0.0.0.0", "--port", "8000", "--auth", "a:b",
         "--max-queue", "5", "--max-pixels", "262144", "--root-path", "/draw"]
    )  # fmt: skip
    assert (options.models, options.host, options.port) == (["mini", "BAAI/AltDiffusion-m9"], "0.0.0.0", 8000)
    assert (options.auth, options.max_queue, options.max_pixels) == ("a:b", 5, 262144)
    assert options.root_path == "/draw"


def test_a_model_of_the_page_has_parts(tmp_path):
    (tmp_path / "ink.safetensors").touch()
    entry = f"sd-mini+bridge=mini+lora={tmp_path}/ink.safetensors:0.5"
    assert parse(["demo", "--models", "mini", entry]).settings.models == ["mini", entry]
    assert parse_entry(entry) == ModelEntry("sd-mini", {"bridge": "mini", "lora": [f"{tmp_path}/ink.safetensors:0.5"]})
    assert Models(["mini", entry, entry]).labels == ["mini", "sd-mini + ink + mini", "sd-mini + ink + mini'"]
    assert parse_entry("C++/a+b") == ModelEntry("C++/a+b", {})


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ("mini+lora=nowhere.safetensors", "--models: no such LoRA: nowhere.safetensors"),
        ("mini+lara=x", "lara is no part of a model: expected lora, textual-inversion, vae, text-encoder, bridge"),
        ("mini+vae=mini+vae=mini", "expected one vae"),
        ("nowhere+vae=mini", "unknown model 'nowhere'"),
    ],
)
def test_parts_that_are_not_there_are_said_at_once(entry, line):
    with pytest.raises(InputError, match=line):
        parse(["demo", "--models", entry])


@pytest.mark.parametrize(
    ("serving", "line"),
    [
        (Serving(auth="nobody"), "--auth"),
        (Serving(auth=":x"), "--auth"),
        (Serving(max_queue=0), "--max-queue"),
        (Serving(limits=Limits(pixels=0)), "--max-pixels"),
        (Serving(styles=Path("nowhere.toml")), "--styles nowhere.toml can't be read"),
        (Serving(root_path="draw"), "--root-path draw: expected a path such as /draw"),
    ],
)
def test_the_owners_mistakes_are_one_clear_line(serving, line):
    with pytest.raises(InputError, match=line) as error, running(serving):
        pass
    assert "\n" not in str(error.value)


def test_without_gradio_the_command_says_what_to_install():
    script = "import sys; sys.modules['gradio'] = None\nfrom altdiffusion.cli import main\nsys.exit(main(['demo']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert 'pip install "altdiffusion[demo]"' in done.stderr.splitlines()[-1]


def test_old_files_are_swept_away(tmp_path):
    for name, age in (("new/a.png", 10), ("old/b.png", 10_000), ("generated/c.png", 10_000)):
        path = tmp_path / name
        path.parent.mkdir()
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    assert sweep(tmp_path, time.time(), keep=3600) == 2
    assert {path.name for path in tmp_path.rglob("*.png")} == {"a.png"}
    assert (tmp_path / "generated").is_dir()


def answer(path, body=b"", headers=(), chunks=None, max_upload=4 * MAX_JSON):
    """The status that a guarded app answers, which reads its whole body."""

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent = []
    waiting = list(chunks if chunks is not None else [body])

    async def receive():
        part = waiting.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(waiting)}

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(app, max_upload)({"type": "http", "path": path, "headers": list(headers)}, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"])


def test_large_bodies_are_refused_whatever_they_declare():
    assert answer("/gradio_api/queue/join", b"{}")[0] == 200
    assert answer("/gradio_api/queue/join", headers=[(b"content-length", str(MAX_JSON + 1).encode())])[0] == 413
    assert answer("/gradio_api/queue/join", headers=[(b"content-length", b"-1")])[0] == 413
    assert answer("/gradio_api/queue/join", chunks=[bytes(MAX_JSON // 2)] * 3)[0] == 413
    assert answer("/gradio_api/upload", chunks=[bytes(MAX_JSON // 2)] * 3)[0] == 200
    assert answer("/gradio_api/upload", chunks=[bytes(MAX_JSON)] * 5)[0] == 413


def test_the_developers_stream_is_closed():
    assert answer("/gradio_api/dev/reload")[0] == 404


def test_browsers_are_told_not_to_guess_types():
    assert answer("/")[1][b"x-content-type-options"] == b"nosniff"


class Found(HTMLParser):
    """The tags and attributes of HTML."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes = set(), set()
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}


@pytest.mark.parametrize(
    "html",
    [
        html_parts.line(HOSTILE),
        html_parts.refusal(HOSTILE),
        html_parts.heat_map([HOSTILE], [HOSTILE], [[0.5]], HOSTILE),
        html_parts.bars([HOSTILE], [HOSTILE], [[0.5]], HOSTILE),
        html_parts.settings_list([(HOSTILE, HOSTILE)], HOSTILE),
        html_parts.token_problem(HOSTILE),
        html_parts.token_counter(READ, READ, "en"),
        html_parts.token_pieces(READ, "en"),
    ],
    ids=["line", "refusal", "heat map", "bars", "settings", "token problem", "tokens", "pieces"],
)
def test_what_visitors_write_is_text_never_html(html):
    found = Found(html)
    assert not found.tags & {"script", "img"}
    assert not {name for name in found.attributes if name.startswith("on")}


def test_the_heat_maps_best_of_each_column_is_bold():
    html = html_parts.heat_map(["one", "two"], ["a", "b"], [[0.1, 0.9], [0.5, 0.2]], "x")
    assert html.count("<b>") == 2
    assert "<b>0.500</b>" in html
    assert "<b>0.900</b>" in html
    assert "--warmth:0%" in html
    assert "--warmth:100%" in html


def test_equal_scores_have_a_map_too():
    assert "--warmth:50%" in html_parts.heat_map(["one"], ["a"], [[0.5]], "x")
    assert "--length:0%" in html_parts.bars(["one"], ["a"], [[-0.5]], "x")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_happens_is_said_and_shown(language):
    html = html_parts.status(Generating(5, 25, 3.2, Image.new("RGB", (8, 8))), language)
    assert 'value="5" max="25"' in html
    assert ("第 5 步" if language == "zh" else "Step 5 of 25") in html
    for news in (Waiting(2), Loading()):
        assert 'role="status"' in html_parts.status(news, language)
