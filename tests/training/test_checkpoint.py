"""Checkpoints: what is damaged is named and the one before is taken; what can't be written leaves those before it."""

import os

import pytest
import torch

from altdiffusion.errors import TrainingStopped
from altdiffusion.training import checkpoint
from altdiffusion.training.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint


def state(step):
    return {"step": step, "model": {"weight": torch.full((50,), float(step))}, "about": {"settings": {"seed": 0}}}


@pytest.fixture
def folder(tmp_path):
    """With the checkpoints of steps 2 and 4."""
    for step in (2, 4):
        save_checkpoint(tmp_path / "checkpoints", step, state(step), keep=2)
    return tmp_path / "checkpoints"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_is_loaded_as_it_was_saved(folder):
    found = load_checkpoint(folder)
    assert found["step"] == 4
    assert torch.equal(found["model"]["weight"], state(4)["model"]["weight"])
    assert found["about"] == state(4)["about"]


def test_only_the_newest_are_kept(folder):
    for step in (6, 8):
        save_checkpoint(folder, step, state(step), keep=2)
    assert names(folder) == ["step-00000006", "step-00000008"]
    save_checkpoint(folder, 10, state(10), keep=1)
    assert names(folder) == ["step-00000010"]


def truncate(path):
    (path / "state.pt").write_bytes((path / "state.pt").read_bytes()[:-100])


def flip_a_bit(path):
    content = bytearray((path / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "state.pt").write_bytes(content)


DAMAGES = {
    "truncated": truncate,
    "bit flipped": flip_a_bit,
    "state missing": lambda path: (path / "state.pt").unlink(),
    "marker missing": lambda path: (path / "complete.json").unlink(),
    "marker garbled": lambda path: (path / "complete.json").write_bytes(b"\xff{"),
    "marker of another kind": lambda path: (path / "complete.json").write_text("[1]"),
    "marker empty": lambda path: (path / "complete.json").write_text("{}"),
    "folder empty": lambda path: [file.unlink() for file in path.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_named_and_the_one_before_is_taken(folder, damage, capsys):
    DAMAGES[damage](folder / "step-00000004")
    assert load_checkpoint(folder)["step"] == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "step-00000004 is damaged" in told
    assert "taking the one before" in told


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_replaced_when_its_step_comes_again(folder, damage):
    DAMAGES[damage](folder / "step-00000004")
    save_checkpoint(folder, 4, state(4), keep=2)
    assert load_checkpoint(folder)["step"] == 4
    assert names(folder) == ["step-00000002", "step-00000004"]


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_ones_from_later_steps_take_no_good_one_s_place(folder, keep, capsys):
    truncate(folder / "step-00000004")
    save_checkpoint(folder, 3, state(3), keep=keep)
    assert names(folder) == ["step-00000002", "step-00000003"][-keep:]


def test_a_damaged_one_is_not_told_to_be_good(folder, monkeypatch):
    truncate(folder / "step-00000004")
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(TrainingStopped, match="the last good checkpoint is step-00000002"):
        save_checkpoint(folder, 4, state(4), keep=2)


def test_none_is_left_is_said(folder, capsys):
    for path in folder.iterdir():
        truncate(path)
    assert load_checkpoint(folder) is None
    assert "none is left, starting anew" in capsys.readouterr().err.splitlines()[-1]


def test_what_a_kill_left_half_written_is_no_checkpoint_and_is_cleared(folder):
    (folder / ".step-00000006.tmp").mkdir()
    (folder / ".step-00000006.tmp/state.pt").write_bytes(b"half")
    assert load_checkpoint(folder)["step"] == 4
    save_checkpoint(folder, 8, state(8), keep=2)
    assert names(folder) == ["step-00000004", "step-00000008"]


def test_a_folder_without_any_has_none(tmp_path):
    assert load_checkpoint(tmp_path / "nowhere") is None
    assert not has_checkpoint(tmp_path / "nowhere")
    (tmp_path / ".step-00000006.tmp").mkdir()
    assert not has_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("module", "name"),
    [(torch, "save"), (checkpoint, "flush_to_disk"), (os, "replace")],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")])
def test_a_write_that_fails_leaves_those_before_and_says_so(folder, monkeypatch, module, name, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(module, name, fail)
    with pytest.raises(
        TrainingStopped, match=r"step 6 can't be written .*--resume; the last good checkpoint is step-00000004"
    ):
        save_checkpoint(folder, 6, state(6), keep=1)
    monkeypatch.undo()
    assert names(folder) == ["step-00000002", "step-00000004"]
    assert load_checkpoint(folder)["step"] == 4


def test_a_folder_that_can_t_be_made_is_said(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(TrainingStopped, match="the last good checkpoint is none"):
        save_checkpoint(tmp_path / "checkpoints", 2, state(2), keep=1)
