"""A LoRA that can't be loaded is one line, before the model is read where that is possible."""

import signal

import httpx
import huggingface_hub
import pytest
from huggingface_hub import constants

from altdiffusion import InputError
from altdiffusion.cli import main
from altdiffusion.generation import generate as generation
from altdiffusion.generation import load, parts


@pytest.mark.parametrize("name", ["nothere.safetensors", "./nothere", "owner/nothere.safetensors", "nothere"])
def test_a_file_that_is_not_there(name, monkeypatch):
    monkeypatch.setattr(load, "load_by_kind", None)  # isn't asked
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
    monkeypatch.setattr(parts.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="a LoRA needs peft: pip install peft"):
        load.load_pipeline(lora=tmp_path)


@pytest.mark.parametrize("words", [["cat", "--lora", "a", "--lora=b:0.5"], ["--lora", "a", "cat", "--lora", "b:0.5"]])
def test_a_second_lora_is_added_to_the_first(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)  # this process's own handlers stay
    asked = []
    monkeypatch.setattr(generation, "generate", lambda prompts, **options: asked.append((prompts, options)) or iter([]))
    for name in "ab":
        (tmp_path / name).mkdir()
    assert main(["generate", *words, "--out", "out"]) == 0
    assert [(prompts, options["lora"]) for prompts, options in asked] == [(["cat"], ["a", "b:0.5"])]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--lora", "a:11"], "--lora: a:11: expected a weight from -10 to 10, got 11"),
        (["--lora", "b"], "--lora: no such LoRA: b"),
        (["<lora:b>", "--lora", "a:2"], "<lora:b>: no LoRA of that name: known: a; name its file"),
        (["--lora-dir", "nowhere"], "--lora-dir: there is no nowhere"),
        (["--control-image", "x.png"], "control image needs controlnet: name one, or leave control image out"),
        (["--controlnet", "a"], "controlnet needs a control image"),
        (["--ip-adapter", "a", "--ip-scale", "3"], "--ip-scale: expected 0 to 2, got 3"),
        (["--hires", "0.5x"], "--hires: expected above 1, at most 4, got 0.5"),
        (["--hires", "2x", "--init-image", "x.png"], "hires is of images from text alone"),
        (["--hires", "4x", "--size", "2048x64"], "hires 4 of 2048x64 is 8192x256: at most 4096"),
        (["--hires-steps", "3"], "hires steps needs a second pass, hires"),
        (["--hires", "big"], "--hires: expected a number or none, got 'big'"),
        (["--clip-skip", "2", "--bridge", "exit"], "clip skip 2: "),
        (["--vae", "nowhere.safetensors"], "--vae: unknown model 'nowhere.safetensors'"),
    ],
)
def test_parts_that_do_not_go_together_are_one_line_before_torch(words, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "exit").mkdir()
    (tmp_path / "exit/config.json").write_text('{"model_type": "altdiffusion_bridge"}')
    (tmp_path / "x.png").touch()
    assert main(["generate", "cat", *words]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert "\n" not in error.strip()
