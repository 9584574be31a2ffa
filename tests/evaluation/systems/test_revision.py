"""A system's protocol says how it computes and which weights it has."""

import hashlib

import pytest
import torch
from helpers.small_systems import load

from altdiffusion.evaluation.systems.load import load_system
from altdiffusion.evaluation.systems.revision import revision_of


def test_weights_on_the_disk_are_told_by_their_contents(tmp_path):
    first, second = tmp_path / "model.safetensors", tmp_path / "vocab.txt"
    first.write_bytes(b"abc")
    second.write_bytes(b"x")
    digest = hashlib.sha256(b"abc").hexdigest()[:12]
    assert revision_of(str(tmp_path)) == f"{tmp_path}, sha256 {digest}"
    assert revision_of(f"{first}+{second}") == f"{first}+{second}, sha256 {digest}"


def test_a_snapshot_of_the_hub_is_told_by_its_commit(tmp_path):
    folder = tmp_path / "snapshots" / "0123456789abcdef"
    folder.mkdir(parents=True)
    assert revision_of(str(folder)) == f"{folder} at 0123456789ab"


@pytest.mark.parametrize(
    ("name", "padding"),
    [
        ("clip", "to the longest text of a batch, cut at 77 tokens"),
        ("chinese_clip", "to the longest text of a batch, cut at 52 tokens"),
        ("taiyi", "to 77 tokens"),
    ],
)
def test_every_system_says_how_it_pads_and_in_what_it_computes(folders, name, padding):
    root = folders[0]
    asked = f"{root / name}+{root / 'clip'}" if name == "taiyi" else root / name
    protocol = load(asked, dtype=torch.bfloat16).protocol
    assert (protocol["padding"], protocol["precision"]) == (padding, "bfloat16 on cpu")
    assert protocol["model"].startswith(f"{asked}, sha256 ")


def test_mini_says_so_too():
    protocol = load_system("mini", device="cpu").protocol
    assert protocol["model"].startswith("mini, sha256 ")
    assert protocol["precision"] == "float32 on cpu"
