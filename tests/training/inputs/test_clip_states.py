"""A Stable Diffusion whose text states a bridge learns: which of its files are read, here and on the hub."""

import fnmatch
import shutil

import huggingface_hub
import pytest
import torch
from helpers.clip_pipeline import clip_pipeline
from safetensors.torch import load_file
from transformers import CLIPTextModel

from altdiffusion.checkpoints.tensor_files import load_strict
from altdiffusion.errors import InputError
from altdiffusion.training.inputs.clip_states import stable_diffusion_folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same model with safetensors, with pickles, and with both."""
    root = tmp_path_factory.mktemp("clip_states")
    clip_pipeline().save_pretrained(root / "safetensors")
    shutil.copytree(root / "safetensors", root / "both")
    for file in (root / "both").rglob("*.safetensors"):
        name = "pytorch_model.bin" if file.stem == "model" else f"{file.stem}.bin"
        torch.save(load_file(file), file.with_name(name))
    shutil.copytree(root / "both", root / "pickles", ignore=shutil.ignore_patterns("*.safetensors"))
    return root


@pytest.fixture(params=["here", "hub"])
def place(request, folders, tmp_path, monkeypatch):
    """Of a model's kind, the name that stands for it: its folder, or an id on a hub that has it."""
    if request.param == "here":
        return lambda kind: str(folders / kind)

    def download(name, allow_patterns, **options):
        source = folders / name.partition("/")[2]
        for file in source.rglob("*"):
            inside = file.relative_to(source).as_posix()
            if file.is_file() and any(fnmatch.fnmatch(inside, pattern) for pattern in allow_patterns):
                (tmp_path / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, tmp_path / inside)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return lambda kind: f"owner/{kind}"


@pytest.mark.parametrize("kind", ["safetensors", "pickles", "both"])
def test_pickles_are_read_where_they_are_allowed_and_nothing_else_is_there(folders, place, kind):
    root = stable_diffusion_folder(place(kind), allow_pickle=True)
    found, expected = (
        load_strict(CLIPTextModel, folder / "text_encoder").state_dict() for folder in (root, folders / "safetensors")
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    if "owner" in place(kind) and kind == "both":
        assert not list(root.rglob("*.bin"))


def test_pickles_alone_are_refused_without_consent(place):
    with pytest.raises(InputError, match="only with --allow-pickle"):
        stable_diffusion_folder(place("pickles"))
    assert stable_diffusion_folder(place("both")).is_dir()
