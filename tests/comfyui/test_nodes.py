"""The nodes as ComfyUI sees them. See helpers/comfyui.py for what stands in for ComfyUI."""

from __future__ import annotations

import importlib.util
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.bridges import readable, small_bridge, small_entrance_bridge
from helpers.comfyui import FOLDER, loaded_nodes
from PIL import Image

from altdiffusion import AltDiffusionPipeline, InputError, PromptScorer, encode_prompts

WIDGETS = ("STRING", "INT", "FLOAT", "BOOLEAN")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def nodes(models) -> Any:
    with loaded_nodes(models) as module:
        yield module


@pytest.fixture(scope="module")
def mini(nodes) -> Any:
    return nodes.models.AltCLIP("mini", "float32", False)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 40, 64, 3)


def run(nodes: Any, name: str, **inputs: Any) -> Any:
    node = nodes.NODE_CLASS_MAPPINGS[name]()
    return getattr(node, node.FUNCTION)(**inputs)


def inputs_of(node: Any) -> dict[str, Any]:
    return {name: spec for part in node.INPUT_TYPES().values() for name, spec in part.items()}


def test_every_node_takes_what_it_says(nodes):
    assert nodes.NODE_CLASS_MAPPINGS.keys() == nodes.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in nodes.NODE_CLASS_MAPPINGS.values():
        taken = inspect.signature(getattr(node, node.FUNCTION)).parameters
        assert list(taken)[1:] == list(inputs_of(node))
        given = [name for name, each in taken.items() if each.default is not inspect.Parameter.empty]
        assert given == list(node.INPUT_TYPES().get("optional", ()))
        assert len(node.RETURN_TYPES) == len(getattr(node, "RETURN_NAMES", node.RETURN_TYPES))
        assert all(spec[1]["tooltip"] for spec in inputs_of(node).values())


def test_every_name_is_there_in_chinese(nodes):
    chinese = json.loads((FOLDER / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert chinese.keys() == nodes.NODE_CLASS_MAPPINGS.keys()
    for name, node in nodes.NODE_CLASS_MAPPINGS.items():
        assert chinese[name]["inputs"].keys() == inputs_of(node).keys()
        assert list(chinese[name]["outputs"]) == [str(index) for index in range(len(node.RETURN_TYPES))]


@pytest.mark.parametrize("path", sorted((FOLDER / "example_workflows").glob("*.json")), ids=lambda path: path.stem)
def test_an_example_workflow_fits_the_nodes(nodes, path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    by_id = {node["id"]: node for node in workflow["nodes"]}
    for link, source, output, target, place, kind in workflow["links"]:
        assert link in by_id[source]["outputs"][output]["links"]
        assert by_id[target]["inputs"][place]["link"] == link
        assert by_id[source]["outputs"][output]["type"] == kind
        assert by_id[target]["inputs"][place]["type"] in (kind, "*")
    ours = [node for node in by_id.values() if node["type"] in nodes.NODE_CLASS_MAPPINGS]
    assert len(ours) >= 4
    for node in ours:
        known = nodes.NODE_CLASS_MAPPINGS[node["type"]]
        specs = inputs_of(known)
        widgets = [spec for spec in specs.values() if isinstance(spec[0], list) or spec[0] in WIDGETS]
        sockets = [(name, spec[0]) for name, spec in specs.items() if spec not in widgets]
        assert [(each["name"], each["type"]) for each in node["inputs"]] == sockets
        assert [each["type"] for each in node["outputs"]] == list(known.RETURN_TYPES)
        assert len(node["widgets_values"]) == len(widgets)
        for value, spec in zip(node["widgets_values"], widgets, strict=True):
            assert value in spec[0] if isinstance(spec[0], list) else type(value).__name__[:3].upper() in spec[0]


@pytest.mark.parametrize("text", ["一只猫", "(红苹果:1.3), 蓝色背景", "", "a cat, " * 40])
def test_an_altdiffusion_gets_its_own_states(nodes, mini, text):
    ((states, more),) = run(nodes, "AltCLIPTextEncode", altclip=mini, text=text)[0]
    expected = encode_prompts(AltDiffusionPipeline.from_pretrained("mini"), text)["prompt_embeds"]
    assert torch.allclose(states, expected, atol=1e-5)
    assert more == {}


@pytest.mark.parametrize("score_as", ["cosine", "percentile"])
@pytest.mark.parametrize("prompt", ["一只猫", "(a dog:1.2)"])
def test_scores_are_the_scorer_s(nodes, mini, images, prompt, score_as):
    result = run(nodes, "AltCLIPScore", altclip=mini, images=images, prompt=prompt, score_as=score_as)
    scorer = PromptScorer.from_pretrained("mini", device="cpu")
    files = [Image.fromarray((image.numpy() * 255).round().astype("uint8")) for image in images]
    expected = scorer.score(files, prompt.strip("(:1.2)"), as_=score_as)[:, 0].tolist()
    scores, text = result["result"]
    assert scores == pytest.approx(expected, abs=1e-4)
    assert len(text.splitlines()) == 4
    assert result["ui"] == {"text": [text]}


@pytest.mark.parametrize("keep", [1, 3, 4])
def test_the_best_come_first(nodes, mini, images, keep):
    scores, _ = run(nodes, "AltCLIPScore", altclip=mini, images=images, prompt="一只猫")["result"]
    best, kept, text = run(nodes, "AltCLIPBestOf", altclip=mini, images=images, prompt="一只猫", keep=keep)["result"]
    order = sorted(range(4), key=lambda index: -scores[index])[:keep]
    assert torch.equal(best, images[order])
    assert kept == [scores[index] for index in order]
    assert [int(line.split(":")[0]) - 1 for line in text.splitlines()] == order


def test_values_a_little_outside_are_scored_as_they_are_saved(nodes, mini, images):
    wild = torch.where(images > 0.5, 1.02, -0.01)
    scores = [
        run(nodes, "AltCLIPScore", altclip=mini, images=each, prompt="猫")["result"][0]
        for each in (wild, wild.clamp(0, 1))
    ]
    assert scores[0] == scores[1]


def test_a_model_in_comfyui_s_folders_comes_first(nodes, models, tmp_path):
    (models / "altclip" / "mine").mkdir(parents=True)
    find, kind = nodes.models.find, nodes.models.ALTCLIP_FOLDER
    assert find(kind, " mine ") == str(models / "altclip" / "mine")
    assert find(kind, str(tmp_path)) == str(tmp_path)
    assert find(kind, "BAAI/AltCLIP-m9") == "BAAI/AltCLIP-m9"
    (models / "altclip" / "mini").mkdir()
    assert find(kind, "mini") == "mini"


def test_a_bridge_finds_the_altclip_that_it_names(nodes, tmp_path):
    small_entrance_bridge(readable(), input_width=192, text_encoder="mini").save_pretrained(tmp_path)
    (bridge,) = run(nodes, "AltCLIPBridgeLoader", bridge=str(tmp_path))
    assert bridge.altclip.name == "mini"


def refused(nodes: Any, name: str, **inputs: Any) -> str:
    with pytest.raises(InputError) as error:
        run(nodes, name, **inputs)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("model", "line"), [("", "no model is named"), ("no/such/model", "unknown model"), ("x.bin", "unknown model")]
)
def test_a_model_that_is_not_there_is_refused(nodes, model, line):
    assert line in refused(nodes, "AltCLIPLoader", model=model, dtype="float32", allow_pickle=False)
    assert line in refused(nodes, "AltCLIPBridgeLoader", bridge=model)


def test_a_bridge_that_does_not_fit_is_refused(nodes, mini, tmp_path):
    pipe = readable()
    small_entrance_bridge(pipe, input_width=48).save_pretrained(tmp_path / "other")
    small_bridge().save_pretrained(tmp_path / "exit")
    assert "reads text states of width 48" in refused(
        nodes, "AltCLIPBridgeLoader", bridge=str(tmp_path / "other"), altclip=mini
    )
    assert "doesn't say which AltCLIP" in refused(nodes, "AltCLIPBridgeLoader", bridge=str(tmp_path / "other"))
    assert "stands at CLIP's exit" in refused(nodes, "AltCLIPBridgeLoader", bridge=str(tmp_path / "exit"), altclip=mini)


@pytest.mark.parametrize(
    ("inputs", "line"),
    [
        ({"prompt": " "}, "empty"),
        ({"keep": 5}, "keep is 5, the batch has 4 images"),
        ({"images": torch.zeros(4, 1, 500, 3)}, "500 x 1 pixels"),
        ({"images": torch.full((4, 8, 8, 3), float("nan"))}, "NaN"),
        ({"images": torch.zeros(4, 8, 8, 5)}, "channels"),
    ],
)
def test_what_cannot_be_scored_is_refused(nodes, mini, images, inputs, line):
    given = {"altclip": mini, "images": images, "prompt": "一只猫", "keep": 1} | inputs
    assert line in refused(nodes, "AltCLIPBestOf", **given)


def test_a_checkpoint_without_a_clip_is_refused(nodes):
    assert "has no CLIP" in refused(nodes, "AltCLIPBridgeTextEncode", clip=None, bridge=None, text="猫")


def test_without_the_library_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install altdiffusion") as error, loaded_nodes(tmp_path):
        pass
    assert "\n" not in str(error.value)
