"""Teachers and students: every tensor in its place, none random."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import XLMRobertaModel

from altdiffusion import InputError
from altdiffusion.training.models.teacher_student import load_student, load_teacher


def test_what_is_no_clip_is_no_teacher(tiny_models):
    with pytest.raises(
        InputError, match=r"type 'xlm-roberta': expected a CLIP, its text encoder or a Stable Diffusion"
    ):
        load_teacher(tiny_models / "xlm-r")


@pytest.fixture
def plain(tiny_models, tmp_path):
    return shutil.copytree(tiny_models / "xlm-r", tmp_path / "plain")


def rename(folder, change):
    state = load_file(folder / "model.safetensors")
    save_file({change(name): tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors")


def bare(folder):
    tokenizer = {path.name: path.read_bytes() for path in folder.glob("tokenizer*")}
    XLMRobertaModel.from_pretrained(folder).save_pretrained(folder)  # with a pooler, without the prefix
    for name, content in tokenizer.items():
        (folder / name).write_bytes(content)


NAMES = {
    "with the head": lambda folder: None,
    "bare": bare,
    "new": lambda folder: rename(folder, lambda name: name.replace("encoder.layer.", "encoder.layers.")),
    "old": lambda folder: rename(folder, lambda name: name.replace("encoder.layers.", "encoder.layer.")),
}


@pytest.mark.parametrize("names", NAMES)
def test_every_tensor_of_an_xlm_r_has_its_place_in_the_student(tiny_models, plain, names):
    NAMES[names](plain)
    student, tokenizer = load_student(plain, 12)
    given = load_file(tiny_models / "xlm-r/model.safetensors")
    placed = {name.replace("encoder.layers.", "encoder.layer."): each for name, each in student.state_dict().items()}
    tower = {
        name.replace("encoder.layers.", "encoder.layer."): each for name, each in given.items() if "lm_head" not in name
    }
    assert len(tower) > 15
    for name, tensor in tower.items():
        assert torch.equal(placed[name], tensor), name
    left = {name for name in placed if name not in tower and not name.endswith("_ids")}
    assert left == {f"{part}.{kind}" for part in ("pre_LN", "transformation") for kind in ("weight", "bias")}
    assert student.config.project_dim == 12
    assert tokenizer.model_max_length == 77
    assert not any(module.p for module in student.modules() if isinstance(module, torch.nn.Dropout))


def test_a_tensor_that_is_missing_or_left_over_is_named(plain):
    state = load_file(plain / "model.safetensors")
    name = next(name for name in state if "attention.self.query.weight" in name)
    save_file({key: value for key, value in state.items() if key != name}, plain / "model.safetensors")
    with pytest.raises(InputError, match=r"missing roberta\.encoder\.layers\.0\.attention\.self\.query\.weight"):
        load_student(plain, 8)
    save_file(state | {"roberta.extra": torch.zeros(1)}, plain / "model.safetensors")
    with pytest.raises(InputError, match=r"unexpected roberta\.extra"):
        load_student(plain, 8)
