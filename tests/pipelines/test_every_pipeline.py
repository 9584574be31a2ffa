"""AltCLIP's encoder in every diffusers pipeline that has CLIP's: what the prompt says must arrive in the image."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from helpers import layouts, pipeline_zoo
from helpers.bridges import small_entrance_bridge
from helpers.pipeline_zoo import CANNOT, OTHER, PROMPT, WORKS
from torch import Tensor
from transformers import CLIPTextModel

from altdiffusion import swap_text_encoder
from altdiffusion.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # of deprecated classes, and of settings that don't matter here
ROOT = Path(__file__).parents[2]
BLIP = ["BlipDiffusionPipeline", "BlipDiffusionControlNetPipeline"]
CLASSES = {cls.__name__: cls for cls in pipeline_zoo.pipeline_classes()}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small AltDiffusion-m9 as published, and its text encoder as published: the folder, the oracle."""
    folder = tmp_path_factory.mktemp("every_pipeline") / "m9"
    return folder, layouts.save_published(folder, "m9", "safetensors")


def swapped(name: str, folder: Path) -> DiffusionPipeline:
    return swap_text_encoder(pipeline_zoo.build(CLASSES[name]), folder)


def draw(pipe: DiffusionPipeline, arguments: dict[str, Any]) -> np.ndarray:
    """The images, frames or maps, always from the same noise."""
    noise = torch.manual_seed(0)
    if "generator" in inspect.signature(pipe.__call__).parameters:
        arguments = arguments | {"generator": noise}
    if hasattr(pipe, "empty_text_embedding"):  # Marigold keeps the states of its only prompt
        pipe.empty_text_embedding = None
    return np.asarray(pipe(**arguments)[0], dtype=np.float64)


@contextlib.contextmanager
def watching(module: torch.nn.Module, name: str) -> Iterator[list[Tensor]]:
    """Collects what the module's `forward` is given under this name."""
    seen: list[Tensor] = []

    def look(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(inspect.signature(module.forward).bind(*args, **kwargs).arguments[name].detach().clone())

    handle = module.register_forward_pre_hook(look, prepend=True, with_kwargs=True)
    yield seen
    handle.remove()


@contextlib.contextmanager
def misreading(encoder: torch.nn.Module, ids: Tensor, others: Tensor) -> Iterator[None]:
    """The encoder, and nothing else in the pipeline, takes one prompt for another."""

    def replace(module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        given = args[0] if args else kwargs["input_ids"]
        if torch.equal(given, ids):
            kept = {key: value for key, value in kwargs.items() if key not in ("input_ids", "attention_mask")}
            return (others,), kept
        return None

    handle = encoder.register_forward_pre_hook(replace, prepend=True, with_kwargs=True)
    yield
    handle.remove()


def published_states(oracle: torch.nn.Module, ids: Tensor, clip_skip: int) -> Tensor:
    """What the encoder gives in the class that AltDiffusion was published with."""
    with torch.no_grad():
        hidden = oracle.roberta(ids, attention_mask=ids.ne(1), output_hidden_states=True).hidden_states[-1 - clip_skip]
        if clip_skip:  # an earlier layer takes the last one's LayerNorm
            hidden = oracle.roberta.encoder.layer[-1].output.LayerNorm(hidden)
        return oracle.transformation(hidden)[0]


def test_every_class_is_covered():
    listed = [name for names in WORKS.values() for name in names] + list(CANNOT)
    assert len(listed) == len(set(listed))
    assert sorted(set(CLASSES) - set(listed)) == [], "not covered: new in diffusers, add them to pipeline_zoo"
    assert sorted(set(listed) - set(CLASSES)) == [], "no longer in diffusers: drop them from pipeline_zoo"


@pytest.mark.parametrize("name", sorted(set(CLASSES) - set(CANNOT)))
def test_prompt_reaches_the_picture(name, model):
    folder, oracle = model
    pipe = swapped(name, folder)
    arguments = pipeline_zoo.arguments(pipe)
    reads = "prompt" in arguments
    prompt, padding = (PROMPT, "max_length") if reads else ("", "do_not_pad")
    ids, others = (
        pipe.tokenizer(text, padding=padding, max_length=77, return_tensors="pt").input_ids for text in (prompt, OTHER)
    )
    assert ids.shape == (1, 77 if reads else 2)
    clip_skip = inspect.signature(pipe.__call__).parameters.get("clip_skip")
    expected = published_states(oracle, ids, clip_skip.default or 0 if clip_skip else 0)

    with contextlib.ExitStack() as stack:
        read = stack.enter_context(watching(pipe.text_encoder, "input_ids"))
        attended = [
            stack.enter_context(watching(pipe.components[part], "encoder_hidden_states"))
            for part in ("unet", "controlnet")
            if part in pipe.components and not isinstance(pipe.components[part], diffusers.ControlNetXSAdapter)
        ]
        picture = draw(pipe, arguments)

    assert picture.size
    assert np.isfinite(picture).all()
    assert any(torch.equal(given, ids) for given in read)
    for states in attended:
        rows = [row for given in states for row in given]
        assert any(row.shape == expected.shape and torch.allclose(row, expected, atol=1e-4) for row in rows)

    assert np.array_equal(picture, draw(pipe, arguments))
    with misreading(pipe.text_encoder, ids, others):
        assert not np.allclose(picture, draw(pipe, arguments), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", BLIP)
def test_blip_diffusion_cannot(name, model):
    stock = pipeline_zoo.build(CLASSES[name])
    with pytest.raises(AttributeError, match="'Blip2QFormerModel' object has no attribute 'invert_attention_mask'"):
        draw(stock, pipeline_zoo.arguments(stock))
    with pytest.raises(InputError, match="expected one CLIP text encoder"):
        swap_text_encoder(stock, model[0])


def test_latent_upscale_cannot(model):
    name = "StableDiffusionLatentUpscalePipeline"
    stock, ours = pipeline_zoo.build(CLASSES[name]), swapped(name, model[0])
    assert np.isfinite(draw(stock, pipeline_zoo.arguments(stock))).all()
    arguments = pipeline_zoo.arguments(ours)
    assert ours.text_encoder.config.hidden_size == 64
    with pytest.raises(RuntimeError, match=re.escape("mat1 and mat2 shapes cannot be multiplied (154x64 and 32x32)")):
        draw(ours, arguments)


def test_unidiffuser_cannot(model):
    stock = pipeline_zoo.build(CLASSES["UniDiffuserPipeline"])
    before = dict(stock.components)
    assert np.isfinite(draw(stock, pipeline_zoo.arguments(stock))).all()
    with pytest.raises(InputError, match="a UNet that attends to its states"):
        swap_text_encoder(stock, model[0])
    assert stock.components == before


def test_notes_of_the_table(model):
    assert set(pipeline_zoo.NOTES) == {
        "StableDiffusionModelEditingPipeline",
        "StableUnCLIPPipeline",
        "MarigoldDepthPipeline",
    }
    # `edit_model` looks for layers of a class that diffusers no longer has, at Stable Diffusion's width
    parts = pipeline_zoo.build(CLASSES["StableDiffusionModelEditingPipeline"]).components
    parts["unet"] = diffusers.UNet2DConditionModel.from_config(parts["unet"].config, cross_attention_dim=768)
    editing = CLASSES["StableDiffusionModelEditingPipeline"](**parts, requires_safety_checker=False)
    assert isinstance(editing.text_encoder, CLIPTextModel)
    assert any(getattr(layer, "to_v", None) is not None for layer in editing.unet.modules())
    assert editing.projection_matrices == []
    unclip = swapped("StableUnCLIPPipeline", model[0])
    assert type(unclip.prior_text_encoder).__name__ == "CLIPTextModelWithProjection"
    for name in ("MarigoldDepthPipeline", "MarigoldNormalsPipeline", "MarigoldIntrinsicsPipeline"):
        assert "prompt" not in inspect.signature(CLASSES[name].__call__).parameters


def test_the_documentation_has_this_table():
    page = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
    section = re.search(r"<!-- pipelines:start -->\n(.*?)\n<!-- pipelines:end -->", page, re.DOTALL)
    assert section, "docs/pipelines.md has no section between <!-- pipelines:start --> and <!-- pipelines:end -->"
    assert section[1].strip() == pipeline_zoo.table(), "run helpers/pipeline_zoo.py and paste what it prints"


# --- a bridge at CLIP's entrance: the pipeline keeps its own encoder and tokenizer -------------------------------------


def in_words(pipe: DiffusionPipeline) -> dict[str, Any]:
    """What to call it with. clip_skip: transformers 5.23 lacks the `text_model` where diffusers looks for the last norm."""
    arguments = pipeline_zoo.arguments(pipe)
    return arguments | ({"clip_skip": None} if "clip_skip" in inspect.signature(pipe.__call__).parameters else {})


def in_english(arguments: dict[str, Any]) -> dict[str, Any]:
    english = {PROMPT: "a cat, a dark elf princess", OTHER: "a dark elf princess"}
    return {name: english.get(value, value) if isinstance(value, str) else value for name, value in arguments.items()}


@pytest.mark.parametrize("name", sorted(set(CLASSES) - {"UniDiffuserPipeline", *BLIP}))
def test_soft_tokens_reach_the_image_and_english_stays_as_it_was(name, model):
    plain = pipeline_zoo.build(CLASSES[name])
    english = in_english(in_words(plain))
    expected = draw(plain, english)
    bridge = small_entrance_bridge(plain, pipeline_zoo.WIDTH)
    pipe = swap_text_encoder(plain, model[0], bridge=bridge)
    assert isinstance(pipe.text_encoder, CLIPTextModel)
    assert np.array_equal(expected, draw(pipe, english))
    if "prompt" in (arguments := in_words(pipe)):
        with watching(pipe.text_encoder, "input_ids") as read:
            image = draw(pipe, arguments)
        assert any((given < 0).any() for given in read)
        assert np.isfinite(image).all()
        assert not np.allclose(image, expected, rtol=0, atol=1e-6)
