"""AltCLIP in ONNX: exported, compared, and scored with by onnxruntime alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from PIL import Image

from altdiffusion import InputError, OnnxScorer, PromptScorer, export_onnx
from altdiffusion.text_encoder.bridge import load_bridge
from altdiffusion.text_encoder.encoder import load_text_encoder
from altdiffusion.text_encoder.tokenizer import pad, tokens

pytestmark = pytest.mark.long

PROMPTS = ["一只猫", "a dog on a blue background", "кошка", "word " * 100]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "altclip"
    export_onnx("mini", folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of shapes, modes and an orientation that are told from one another when they are read wrongly."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    sizes = {"wide.png": (90, 41), "high.jpg": (33, 71), "square.webp": (64, 64), "large.png": (300, 201)}
    for name, (width, height) in sizes.items():
        values = random.integers(0, 255, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
        Image.fromarray(values).resize((width, height)).save(folder / name)
    turned = Image.open(folder / "wide.png")
    exif = turned.getexif()
    exif[274] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    Image.new("LA", (50, 50), (90, 40)).save(folder / "see-through.png")
    return sorted(folder.iterdir())


def test_scores_are_prompt_scorers(exported, images):
    ours, theirs = OnnxScorer(exported, batch_size=4), PromptScorer.from_pretrained("mini", device="cpu")
    expected = theirs.score(images, PROMPTS).numpy()
    assert np.abs(ours.score(images, PROMPTS) - expected).max() < 1e-5
    assert np.abs(ours.score(Image.open(images[0]), "一只猫") - expected[:1, :1]).max() < 1e-5
    assert ours.logit_scale == pytest.approx(theirs.logit_scale)


def test_it_is_what_immich_and_onnx_read(exported):
    config = json.loads((exported / "config.json").read_text())
    assert config["text_cfg"]["context_length"] == 77
    preprocessing = json.loads((exported / "visual/preprocess_cfg.json").read_text())
    assert {"size", "mean", "std", "interpolation", "resize_mode"} <= preprocessing.keys()
    for part, names in (("textual", ["input_ids", "attention_mask"]), ("visual", ["image"])):
        onnx.checker.check_model(str(exported / part / "model.onnx"))
        session = onnxruntime.InferenceSession(exported / part / "model.onnx")
        assert [each.name for each in session.get_inputs()] == names
        kinds = {"tensor(int32)" if part == "textual" else "tensor(float)"}
        assert {each.type for each in session.get_inputs()} == kinds
    assert {"tokenizer.json", "tokenizer_config.json"} <= {path.name for path in (exported / "textual").iterdir()}


def test_the_scorer_needs_no_torch(exported, images):
    code = (
        "import sys\nfrom altdiffusion import OnnxScorer\n"
        f"print(OnnxScorer({str(exported)!r}).score({str(images[0])!r}, '猫').shape)\n"
        "assert not {'torch', 'transformers', 'diffusers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "(1, 1)"), done.stderr


@pytest.mark.parametrize(
    ("precision", "largest", "smaller"), [("float32", 1e-4, 1.1), ("float16", 2e-2, 0.6), ("int8", 0.5, 0.4)]
)
def test_the_towers_states_are_the_pipelines(tmp_path, precision, largest, smaller):
    (model,) = export_onnx("mini", tmp_path / "text", part="text-encoder", precision=precision)
    tower, tokenizer = load_text_encoder("mini")
    ids, mask = pad(tokens(tokenizer, PROMPTS), tokenizer.pad_token_id)
    expected = tower(input_ids=ids, attention_mask=mask)[0].detach()
    session = onnxruntime.InferenceSession(model.path)
    (given,) = session.run(None, {"input_ids": ids.int().numpy(), "attention_mask": mask.int().numpy()})
    assert (torch.tensor(given) - expected).abs().max() < largest
    assert model.cosine > 0.98
    compiled = openvino.Core().compile_model(model.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (by_openvino,) = compiled([ids.int().numpy(), mask.int().numpy()]).values()
    assert (torch.tensor(by_openvino) - expected).abs().max() < largest
    assert model.size < smaller * sum(each.numel() * 4 for each in tower.parameters())


def test_the_bridges_soft_tokens_are_the_pipelines(tmp_path):
    (model,) = export_onnx("mini", tmp_path / "bridge", part="bridge", bridge="mini")
    tower, tokenizer = load_text_encoder("mini")
    bridge = load_bridge("mini", torch.float32).eval()
    ids, mask = pad(tokens(tokenizer, PROMPTS[:3]), tokenizer.pad_token_id)
    soft = bridge(tower(input_ids=ids, attention_mask=mask)[0].detach(), mask)
    session = onnxruntime.InferenceSession(model.path)
    lengths, given = session.run(None, {"input_ids": ids.int().numpy(), "attention_mask": mask.int().numpy()})
    assert lengths.tolist() == soft.lengths.tolist()
    for row, length in enumerate(lengths):
        wanted = soft.embeddings[0][row, :length].detach()
        torch.testing.assert_close(torch.tensor(given[row, :length]), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("source", "asked", "match"),
    [
        ("mini", {"part": "bridge"}, "both or neither"),
        ("mini", {"bridge": "mini"}, "both or neither"),
        ("nowhere", {}, "nowhere"),
    ],
)
def test_what_cannot_be_exported_leaves_nothing(tmp_path, source, asked, match):
    with pytest.raises(InputError, match=match):
        export_onnx(source, tmp_path / "x", **asked)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_has_something_is_left_alone(tmp_path):
    (tmp_path / "kept.txt").write_text("x")
    with pytest.raises(InputError, match="not an empty folder"):
        export_onnx("mini", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize(
    ("images", "prompts", "match"),
    [
        ([], "cat", "no images"),
        ("gone.png", "cat", r"gone\.png"),
        (Image.new("RGB", (8, 8)), " ", "empty prompt"),
        (Image.new("RGB", (8, 900)), "cat", "line"),
        (Image.new("RGB", (8, 8)), [], "empty prompt"),
    ],
)
def test_bad_input_is_one_line(exported, images, prompts, match):
    with pytest.raises(InputError, match=match):
        OnnxScorer(exported).score(images, prompts)


def test_a_folder_without_onnx_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"no AltCLIP in ONNX .*config\.json.*: expected what"):
        OnnxScorer(tmp_path)
