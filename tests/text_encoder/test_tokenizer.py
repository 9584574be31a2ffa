"""Which tokenizer reads the prompts of a single file, which carries none."""

from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from transformers import CLIPTokenizer, XLMRobertaTokenizer

from altdiffusion import InputError
from altdiffusion.checkpoints import hub
from altdiffusion.checkpoints.bridge_folder import with_tokenizer
from altdiffusion.text_encoder.tokenizer import choose_clip_tokenizer, tokenizer_of

FOLDER = hub.sd_mini_folder()
FILE = Path("dream.safetensors")


@pytest.fixture
def downloads(monkeypatch):
    """What is asked of the hub, which can't be reached."""
    asked = []

    def refuse(name, **options):
        asked.append((name, options.get("allow_patterns")))
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    return asked


@pytest.fixture(scope="module")
def bridge(tmp_path_factory):
    """A bridge's folder with a tokenizer of its own, of 269 tokens."""
    folder = tmp_path_factory.mktemp("bridge")
    CLIPTokenizer().train_new_from_iterator([["a cat and a dog"] * 50], vocab_size=300).save_pretrained(
        folder / "tokenizer"
    )
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("given", [FOLDER, str(FOLDER / "tokenizer"), "sd-mini"])
def test_the_one_that_is_named_comes_first(downloads, bridge, given):
    tokenizer = choose_clip_tokenizer(given, bridge, FILE)
    assert (len(tokenizer), tokenizer.model_max_length) == (1360, 77)
    assert not downloads


def test_one_that_is_loaded_is_taken_as_it_is(downloads, bridge):
    loaded = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")
    assert choose_clip_tokenizer(loaded, bridge, FILE) is loaded


def test_a_bridges_own_comes_before_the_hubs(downloads, bridge):
    assert len(choose_clip_tokenizer(None, bridge, FILE)) < 300
    assert with_tokenizer(bridge) == bridge
    assert len(choose_clip_tokenizer(None, with_tokenizer("mini"), FILE)) == 1360
    assert not downloads


@pytest.mark.parametrize("fallback", [None, Path(__file__).parent])
def test_else_it_is_openais_from_the_hub_or_its_cache(monkeypatch, fallback):
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: asked.append(name) or str(FOLDER / "tokenizer")
    )
    assert len(choose_clip_tokenizer(None, fallback, FILE)) == 1360
    assert asked == ["openai/clip-vit-large-patch14"]


def test_without_any_one_line_says_all_three_ways(downloads):
    with pytest.raises(InputError, match=r"^dream\.safetensors is a single file and carries no tokenizer") as caught:
        choose_clip_tokenizer(None, None, FILE)
    line = str(caught.value)
    assert all(way in line for way in ("--tokenizer", "a bridge that has it", "openai/clip-vit-large-patch14"))
    assert "\n" not in line
    ((_, patterns),) = downloads
    assert not [pattern for pattern in patterns if "safetensors" in pattern or "bin" in pattern or pattern == "*"]


def test_a_folder_without_one_is_refused(tmp_path):
    with pytest.raises(InputError, match="no CLIP tokenizer in"):
        choose_clip_tokenizer(tmp_path, None, FILE)


def test_which_tokenizer_a_file_needs_is_read_off_its_names(published, downloads, tmp_path):
    def save(name, encoder):
        sizes = {
            "model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3),
            "model.diffusion_model.out.2.weight": (4, 8),
        }
        state = {key: torch.zeros(shape) for key, shape in sizes.items()} | {encoder: torch.zeros(1, 1)}
        (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
        return tmp_path / name

    clip = save("clip.safetensors", "cond_stage_model.transformer.text_model.embeddings.x")
    ours = save("ours.safetensors", "cond_stage_model.roberta.embeddings.word_embeddings.weight")
    assert type(tokenizer_of(clip, FOLDER)) is CLIPTokenizer
    assert type(tokenizer_of(clip, fallback=FOLDER)) is CLIPTokenizer
    assert type(tokenizer_of(ours, published("m9"), fallback=FOLDER)) is XLMRobertaTokenizer
    pickle = save("clip.ckpt", "cond_stage_model.transformer.text_model.embeddings.x")
    with pytest.raises(InputError, match="--allow-pickle"):
        tokenizer_of(pickle, FOLDER)
    assert type(tokenizer_of(pickle, FOLDER, allow_pickle=True)) is CLIPTokenizer
