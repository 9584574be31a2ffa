"""Files to tensors: damaged ones are refused by name, pickles on demand only, memory once."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import layouts
from helpers.memory_of_loading import MEASURE
from safetensors.torch import save_file

from altdiffusion import InputError
from altdiffusion.checkpoints.tensor_files import read_tensors, weight_files


@pytest.fixture
def tensors():
    return {"a": torch.randn(4, 3), "b": torch.arange(5)}


def test_safetensors_and_pickle_give_the_same(tmp_path, tensors):
    save_file(tensors, tmp_path / "x.safetensors")
    torch.save(tensors, tmp_path / "x.bin")
    torch.save(tensors, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("x.safetensors", "x.bin", "old.bin"):
        read = read_tensors(tmp_path / name, allow_pickle=True)
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[key], tensors[key]) for key in tensors)


def test_dtype_changes_floats_alone(tmp_path, tensors):
    save_file(tensors, tmp_path / "x.safetensors")
    read = read_tensors(tmp_path / "x.safetensors", dtype=torch.float16)
    assert torch.equal(read["a"], tensors["a"].half())
    assert torch.equal(read["b"], tensors["b"])


def test_pickle_is_refused_unless_allowed(tmp_path, tensors):
    torch.save(tensors, tmp_path / "x.bin")
    with pytest.raises(InputError, match="--allow-pickle"):
        read_tensors(tmp_path / "x.bin")


class _Touch:
    """A pickle that would create a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickle_with_code_is_not_run(tmp_path):
    torch.save({"a": torch.zeros(1), "evil": _Touch(str(tmp_path / "ran"))}, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="more than tensors"):
        read_tensors(tmp_path / "x.ckpt", allow_pickle=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 5, 40, 100])
@pytest.mark.parametrize("name", ["x.safetensors", "x.bin"])
def test_truncated_file_is_one_clear_line(tmp_path, tensors, name, keep):
    path = tmp_path / name
    if name.endswith("bin"):
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="damaged"):
        read_tensors(path, allow_pickle=True)


def test_nested_state_dict_and_ema_copy(tmp_path):
    inner = {"model.diffusion_model.out.2.weight": torch.ones(1)}
    outer = {"epoch": 3, "state_dict": inner, "state_dict_ema": {key: value * 2 for key, value in inner.items()}}
    torch.save(outer, tmp_path / "x.ckpt")
    read = read_tensors(tmp_path / "x.ckpt", allow_pickle=True)
    assert read.keys() == {"model.diffusion_model.out.2.weight", "model_ema.diffusion_modelout2weight"}
    assert read["model_ema.diffusion_modelout2weight"] == 2


def test_missing_shard_is_named(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001.safetensors"}}')
    with pytest.raises(InputError, match=r"model-00001\.safetensors"):
        weight_files(tmp_path)


def test_empty_folder_says_what_was_expected(tmp_path):
    with pytest.raises(InputError, match=r"expected model\.safetensors"):
        weight_files(tmp_path)


LOADED = [("safetensors", "float32"), ("safetensors", "float16"), ("bin", "float16")]


@pytest.fixture(scope="module")
def peaks(tmp_path_factory):
    """Of loading each of LOADED in one process: a tower with 76M parameters, 305 MB in float32."""
    root, words = tmp_path_factory.mktemp("big"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "VOCABULARY", 1_000_000)
        for weights in {weights for weights, _ in LOADED}:
            layouts.save_published(root / weights, "m9", weights)
    for weights, dtype in LOADED:
        words += [str(root / weights), dtype]
    done = subprocess.run([sys.executable, "-c", MEASURE, *words], capture_output=True, text=True, check=True)
    return dict(zip(LOADED, map(float, done.stdout.split()[-len(LOADED) :]), strict=True))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's account of memory")
@pytest.mark.parametrize(("weights", "dtype"), LOADED)
def test_loading_never_holds_two_copies(peaks, weights, dtype):
    """`helpers/measure_loading.py` is the same at full size."""
    ratio = peaks[weights, dtype]
    assert 0.9 < ratio < 1.6, f"{ratio:.2f} times the weights' size"
