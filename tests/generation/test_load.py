"""A LoRA that can't be loaded is one line, before the model is read where that is possible."""

import httpx
import huggingface_hub
import pytest
from huggingface_hub import constants

from altdiffusion import InputError
from altdiffusion.cli import main
from altdiffusion.generation import load


@pytest.mark.parametrize("name", ["nothere.safetensors", "./nothere", "owner/nothere.safetensors", "nothere"])
def test_a_file_that_is_not_there(name, monkeypatch):
    monkeypatch.setattr(load.AltDiffusionPipeline, "from_pretrained", None)  # isn't asked
    with pytest.raises(InputError, match=r"no such LoRA: .*: expected a file, a folder or an id on the hub"):
        load.load_pipeline(lora=name)


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("name", ["owner/nothere", "someone/another-lora"])
def test_an_id_that_the_hub_cannot_be_asked_for(name, offline, monkeypatch):
    def unreachable(*args, **kwargs):
        raise httpx.ConnectError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    if not offline:
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
        monkeypatch.setattr(httpx.Client, "send", unreachable)
    with pytest.raises(InputError, match=f"{name}") as error:
        load.load_pipeline(lora=name)
    assert "\n" not in str(error.value)


def test_without_peft_it_says_how_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "altdiffusion\[train\]"'):
        load.load_pipeline(lora=tmp_path)


def test_two_loras_are_refused_instead_of_losing_the_first(tmp_path, capsys):
    words = ["--lora", str(tmp_path / "a"), "--lora", str(tmp_path / "b")]
    for path in (tmp_path / "a", tmp_path / "b"):
        path.mkdir()
    assert main(["generate", "cat", *words, "--out", str(tmp_path / "out")]) == 2
    assert f"--lora: expected one LoRA, got {tmp_path / 'a'} and {tmp_path / 'b'}" in capsys.readouterr().err
