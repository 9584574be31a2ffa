"""Where models are looked for."""

from pathlib import Path

import pytest
import torch
from helpers.bridges import small_bridge

from altdiffusion import AltDiffusionPipeline, InputError, PromptScorer, swap_text_encoder
from altdiffusion.checkpoints import hub
from altdiffusion.checkpoints.hub import is_local, mini_folder, resolve, sd_mini_folder, vae_folder
from altdiffusion.text_encoder.bridge import load_bridge


def test_the_output_dir_of_a_training_stands_for_its_model(tmp_path):
    for name in ("settings.json", "log.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="holds a training that has not ended: go on with --resume"):
        resolve(tmp_path)
    (tmp_path / "model").mkdir()
    assert resolve(tmp_path) == resolve(tmp_path / "model") == tmp_path / "model"


def test_any_other_folder_stands_for_itself(tmp_path):
    (tmp_path / "model").mkdir()
    assert resolve(tmp_path) == tmp_path
    assert resolve(None) == resolve("mini") == mini_folder()


@pytest.mark.parametrize(("name", "folder"), [("mini", mini_folder()), ("sd-mini", sd_mini_folder())])
def test_the_embedded_names_are_known_as_text_and_as_paths(tmp_path, monkeypatch, name, folder):
    monkeypatch.chdir(tmp_path)
    assert resolve(name) == resolve(Path(name)) == folder
    assert is_local(name)
    assert is_local(Path(name))
    assert vae_folder(folder) == mini_folder() / "vae"
    assert AltDiffusionPipeline.fetch(Path(name)) == folder
    (tmp_path / name).mkdir()
    assert resolve(name) == folder
    assert resolve(Path(name)) == Path(name)  # a folder of that name is the user's own


def test_what_is_local(tmp_path):
    assert is_local(tmp_path)
    assert not is_local("owner/name")


def test_every_name_is_resolved_once(tmp_path, monkeypatch):
    small_bridge().save_pretrained(tmp_path / "bridge")
    names = []
    monkeypatch.setattr(
        hub, "resolve", lambda name, *args, **kwargs: names.append(name) or resolve(name, *args, **kwargs)
    )
    pipe = AltDiffusionPipeline.from_pretrained("sd-mini")
    swap_text_encoder(pipe, tower := mini_folder(), bridge="mini")
    load_bridge(tmp_path / "bridge", torch.float32)
    PromptScorer.from_pretrained("mini")
    assert names == ["sd-mini", tower, tmp_path / "bridge", "mini"]
