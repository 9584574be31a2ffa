"""A visitor's prompt as a textual inversion, on the page and by the API: the file that `altdiffusion invert` writes."""

import asyncio

import pytest
from helpers import layouts, web_server
from helpers.bridges import save_english_and_bridges
from safetensors.torch import load_file

pytest.importorskip("gradio", reason="the demo needs gradio: pip install altdiffusion[demo]")
gradio_client = pytest.importorskip("gradio_client")

import torch  # noqa: E402

from altdiffusion import invert_prompt  # noqa: E402
from altdiffusion.checkpoints.textual_inversions import read_notes  # noqa: E402
from altdiffusion.generation.styles import Style  # noqa: E402
from altdiffusion.web import html_parts  # noqa: E402
from altdiffusion.web.limits import Limits  # noqa: E402
from altdiffusion.web.model_pool import Models  # noqa: E402
from altdiffusion.web.page import build_page  # noqa: E402
from altdiffusion.web.service import DemoService  # noqa: E402
from altdiffusion.web.translations import Refused, say  # noqa: E402


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_english_and_bridges(root)
    layouts.save_published(root / "alt", "m9", "safetensors")
    return root


@pytest.fixture(scope="module")
def entries(root):
    """A model with a bridge at its CLIP's entrance, one without, one with a bridge at the exit."""
    bridged = f"{root}/english+text-encoder={root}/alt+bridge={root}"
    return [f"{bridged}/entrance", f"{root}/english", f"{bridged}/exit"]


@pytest.fixture(scope="module")
def service(entries, tmp_path_factory):
    styles = {"ink": Style(prompt="{prompt}，水墨画"), "bold": Style(prompt="({prompt}:1.2)")}
    models = Models(entries, device="cpu")
    service = DemoService(models, Limits(), max_waiting=4, folder=tmp_path_factory.mktemp("generated"), styles=styles)
    yield service
    service.close()


def inverted(service, prompt="一只猫", model=0, **said):
    return asyncio.run(service.invert({"prompt": prompt, "model": service.models.labels[model], **said}))


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("一只猫, a castle", {}),
        ("a cat", {"route": "all"}),
        ("一只猫, `sks`", {"route": "none"}),
        ("(一只猫:1.2)", {"prompt_syntax": "none"}),
    ],
)
def test_the_file_is_the_one_that_the_command_writes(service, root, tmp_path, prompt, said):
    saved, out = inverted(service, prompt, name="elf", **said), tmp_path / "elf.safetensors"
    wanted = invert_prompt(prompt, bridge=root / "entrance", text_encoder=root / "alt", out=out, device="cpu", **said)
    assert torch.equal(load_file(saved.path)["emb_params"], load_file(out)["emb_params"])
    assert read_notes(saved.path) == read_notes(out)
    assert saved.document == wanted.document("elf")
    assert [file.name for file in saved.path.parent.iterdir()] == ["elf.safetensors"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("", "一只猫-a-castle.safetensors"),
        ("黑暗精灵", "黑暗精灵.safetensors"),
        (" dark-elf ", "dark-elf.safetensors"),
        ("elf.SafeTensors", "elf.safetensors"),
        ("v1.5.pt", "v1.5.pt"),
        (".pt", "一只猫-a-castle.pt"),
        ("x" * 40, "x" * 40 + ".safetensors"),
    ],
)
def test_names(service, name, file):
    saved = inverted(service, "一只猫, a castle", name=name)
    assert saved.path.name == file
    assert saved.document["name"] == saved.path.stem


def test_files_of_one_name_do_not_replace_each_other(service):
    first, second = (inverted(service, prompt, name="elf").path for prompt in ("一只猫", "一只狗"))
    assert [read_notes(path)["prompt"] for path in (first, second)] == ["一只猫", "一只狗"]


def test_a1111s_own_layout(service):
    saved = inverted(service, name="elf.pt")
    (vectors,) = torch.load(saved.path, weights_only=True)["string_to_param"].values()
    assert torch.equal(vectors, load_file(inverted(service, name="elf").path)["emb_params"])


def test_styles_are_in_it(service):
    assert read_notes(inverted(service, styles=["ink"]).path)["prompt"] == "一只猫，水墨画"


@pytest.mark.parametrize("name", ["a b", "../elf", "/etc/elf", "..", "a/b", "a\\b", ".elf", "<elf>", "elf:1", "x" * 41])
def test_names_that_cannot_stand_in_prompts(service, name):
    with pytest.raises(Refused) as refused:
        inverted(service, name=name)
    assert refused.value.said("zh") == say("bad_inversion_name", "zh", most=40)


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ({"model": 1}, "no_inversion"),
        ({"model": 2}, "no_inversion"),
        ({"prompt": " "}, "no_prompt"),
        ({"prompt": "(猫:1.2)"}, "only_words"),
        ({"prompt": "{a|b}"}, "only_words"),
        ({"prompt": "a BREAK b"}, "only_words"),
        ({"prompt": "[猫:狗:0.5]", "prompt_syntax": "lenient"}, "only_words"),
        ({"styles": ["bold"]}, "only_words"),
        ({"prompt": "(猫"}, "bad_prompt"),
        ({"prompt": "`猫"}, "bad_prompt"),
        ({"prompt": "cat " * 76}, "bad_prompt"),
        ({"prompt": {"a": 1}}, "bad_input"),
        ({"name": ["elf"]}, "bad_input"),
        ({"route": "some"}, "bad_input"),
        ({"prompt": "猫" * 2001}, "long_text"),
        ({"styles": ["other"]}, "unknown_style"),
    ],
)
def test_refusals(service, said, key):
    before = list(service.folder.rglob("*"))
    with pytest.raises(Refused) as refused:
        inverted(service, **said)
    assert refused.value.key == key
    assert "\n" not in refused.value.said("zh")
    assert list(service.folder.rglob("*")) == before


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_was_understood_and_what_to_write_is_shown(service, language):
    saved = inverted(service, name="dark-elf")
    html = html_parts.inversion(saved, language)
    assert saved.document["english"] in html
    for written in ("dark-elf.safetensors", "embedding:dark-elf", "&lt;dark-elf&gt;"):
        assert written in html
    warning = say("inversion_is_word", language, word="castle")
    assert warning in html_parts.inversion(inverted(service, name="castle"), language)
    assert "castle" not in html


def test_the_page_has_the_button_where_a_model_has_a_bridge(service, entries):
    def parts(service):
        return [block for block in build_page(service).blocks.values() if "inversion" in (block.elem_classes or [])]

    others = {}
    for name, models in (("first", entries[1:]), ("second", [entries[1], entries[0]])):
        others[name] = DemoService(Models(models), service.limits, max_waiting=4, folder=service.folder)
    try:
        assert [part.visible for part in parts(service)] == [True]
        assert [part.visible for part in parts(others["second"])] == [False]
        assert parts(others["first"]) == []
    finally:
        for other in others.values():
            other.close()


def test_by_the_api(root, entries):
    with web_server.served(root, models=entries[:2]) as url:
        client = gradio_client.Client(url, verbose=False)
        bridged, english = client.predict(api_name="/models")
        found = client.predict("一只猫, a castle", name="castle", api_name="/invert")
        assert load_file(found["file"])["emb_params"].shape == (found["vectors"], found["widths"][0]) == (6, 32)
        assert read_notes(found["file"])["english"] == found["english"]
        assert (found["name"], found["is_word"]) == ("castle", True)
        assert found["triggers"]["comfyui"] == "embedding:castle"
        assert found == client.predict("一只猫, a castle", "castle", bridged, api_name="/invert") | {
            "file": found["file"]
        }
        with pytest.raises(gradio_client.exceptions.AppError, match="no bridge at its CLIP's entrance"):
            client.predict("一只猫", model=english, api_name="/invert")
