"""Files of textual inversions."""

import pytest
import torch
from safetensors.torch import load_file

from altdiffusion import InputError
from altdiffusion.checkpoints.textual_inversions import (
    check_free,
    notes_of,
    read_notes,
    save_textual_inversion,
    triggers,
)

SD = (torch.linspace(-1, 1, 24).reshape(3, 8),)
XL = (*SD, torch.linspace(-2, 2, 36).reshape(3, 12))


def test_one_clip_in_safetensors(tmp_path):
    path = save_textual_inversion(SD, tmp_path / "new" / "elf.safetensors", notes={"prompt": "猫"})
    assert load_file(path).keys() == {"emb_params"}
    assert torch.equal(load_file(path)["emb_params"], SD[0])
    assert read_notes(path) == {"prompt": "猫", "dtype": "float32"}


def test_one_clip_as_a1111_saves_it(tmp_path):
    saved = torch.load(save_textual_inversion(SD, tmp_path / "dark-elf.pt"), weights_only=True)
    assert torch.equal(saved["string_to_param"].pop("*"), SD[0])
    assert saved == {
        "string_to_token": {"*": 265}, "string_to_param": {}, "name": "dark-elf", "step": 0,
        "sd_checkpoint": None, "sd_checkpoint_name": None,
    }  # fmt: skip


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_two_clips(tmp_path, ending):
    path = save_textual_inversion(XL, tmp_path / f"elf{ending}")
    saved = load_file(path) if ending == ".safetensors" else torch.load(path, weights_only=True)
    assert list(saved) == ["clip_l", "clip_g"] or saved.keys() == {"clip_l", "clip_g"}
    assert torch.equal(saved["clip_l"], XL[0])
    assert torch.equal(saved["clip_g"], XL[1])


def test_float16_halves_a_file(tmp_path):
    path = save_textual_inversion(SD, tmp_path / "elf.safetensors", dtype="float16")
    assert torch.equal(load_file(path)["emb_params"], SD[0].half())
    with pytest.raises(InputError, match="beyond float16's numbers"):
        save_textual_inversion((SD[0] * 1e6,), tmp_path / "large.safetensors", dtype="float16")
    assert [file.name for file in tmp_path.iterdir()] == ["elf.safetensors"]


def test_a_name_that_is_taken(tmp_path):
    path = save_textual_inversion(SD, tmp_path / "elf.safetensors")
    with pytest.raises(InputError, match=r"elf.safetensors is there already: take another name, or --overwrite"):
        save_textual_inversion(XL, path)
    save_textual_inversion(XL, path, overwrite=True)
    assert load_file(path).keys() == {"clip_l", "clip_g"}
    for other in ("elf.pt", "elf.safetensors"):
        (tmp_path / "elf.bin").touch()
        with pytest.raises(
            InputError, match="elf.bin has the name 'elf' already" if other == "elf.safetensors" else "elf"
        ):
            check_free(tmp_path / other, overwrite=True)


@pytest.mark.parametrize("name", ["dark elf", "(elf)", "elf:1.2", "<elf>", "暗,精灵", "暗，精灵", "-elf", "a`b"])
def test_a_name_that_prompts_cannot_hold(tmp_path, name):
    with pytest.raises(InputError, match="name is written in prompts"):
        check_free(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("name", ["elf", "黑暗精灵公主-月光", "बिल्ली", "elf_2", "v1.5-elf"])
def test_a_name_in_any_script(tmp_path, name):
    path = save_textual_inversion(SD, tmp_path / f"{name}.safetensors")
    assert triggers(path.stem)["comfyui"] == f"embedding:{name}"


@pytest.mark.parametrize("name", ["elf", "elf.bin", "elf.png", "elf.pt.gz"])
def test_another_ending(tmp_path, name):
    with pytest.raises(InputError, match=r"ends in .safetensors or .pt"):
        check_free(tmp_path / name)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can't be written"):
        save_textual_inversion(SD, tmp_path / "file" / "elf.safetensors")


def test_notes_have_a_bridge_folders_name_alone(tmp_path):
    (tmp_path / "bridge").mkdir()
    assert notes_of("猫", tmp_path / "bridge", "auto", ["sks", "ink"]) == {
        "prompt": "猫", "bridge": "bridge", "route": "auto", "literal": "sks, ink",
    }  # fmt: skip
    assert notes_of("猫", "someone/bridge", "all", [])["bridge"] == "someone/bridge"


def test_other_files_have_no_notes(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"no such file")
    assert read_notes(tmp_path / "a.safetensors") == read_notes(save_textual_inversion(SD, tmp_path / "b.pt")) == {}
