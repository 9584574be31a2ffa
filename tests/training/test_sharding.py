"""FSDP on the CPU, two processes over gloo: the weights of two without it, checkpoints and models that know nothing of it."""

import json
import signal

import pytest
import torch
from helpers.small_diffusion import save_diffusion
from helpers.trainings import contrast, curve, distillation, words
from safetensors.torch import load_file
from torch import nn

from altdiffusion.training.sharding import copy_to_shard

pytestmark = pytest.mark.long
LOOP = "altdiffusion.training.loop"
FSDP = """
import os, sys
os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "%s", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
from altdiffusion.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def with_fsdp(forks, command, version="2", **options):
    return forks.run_script(FSDP % version, *command, processes=2, **options)


def assert_close(found, expected):
    found, expected = load_file(found), load_file(expected)
    assert found.keys() == expected.keys()
    for name in found:
        if not name.endswith(("k_proj.bias", "key.bias")):  # softmax doesn't see them: AdamW steps by rounding errors
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-3, msg=name)


@pytest.fixture(scope="module")
def command(tiny_models):
    settings = {"checkpointing_steps": 2, "ema_decay": 0.9, "validation_steps": 5, "gradient_accumulation_steps": 2}
    return distillation(tiny_models, **settings, validation_data=tiny_models / "pairs.tsv")


@pytest.fixture(scope="module")
def whole(forks, command, tmp_path_factory):
    """A folder with two trainings that nothing interrupted: `plain` and, with FSDP, `divided`."""
    folder = tmp_path_factory.mktemp("whole")
    plain = forks.run(*command, "--output-dir", folder / "plain", processes=2)
    divided = with_fsdp(forks, [*command, "--output-dir", folder / "divided"])
    assert plain.status + divided.status == [0] * 4, plain.stderr + divided.stderr
    return folder


def logged(folder, name):
    return [line[name] for line in curve(folder) if name in line]


def test_the_weights_are_those_without_it(whole):
    plain, divided = whole / "plain", whole / "divided"
    assert logged(divided, "loss") == pytest.approx(logged(plain, "loss"), rel=1e-4)
    assert logged(divided, "gradient_norm") == pytest.approx(logged(plain, "gradient_norm"), rel=1e-3)
    assert logged(divided, "validation") == logged(plain, "validation") != []
    assert_close(divided / "model/model.safetensors", plain / "model/model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        assert (divided / "model" / name).read_bytes() == (plain / "model" / name).read_bytes()


def test_killed_and_resumed_it_ends_bit_for_bit_as_if_it_never_was(forks, command, whole, tmp_path):
    cut = [*command, "--output-dir", tmp_path / "cut", "--resume"]
    assert -signal.SIGKILL in with_fsdp(forks, cut, kill_at=(f"{LOOP}:mix_seeds", 6)).status
    done = with_fsdp(forks, cut)
    assert done.status == [0, 0], done.stderr
    assert curve(tmp_path / "cut") == curve(whole / "divided")
    name = "model/model.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (whole / "divided" / name).read_bytes()


def test_its_checkpoint_goes_on_without_it(forks, command, whole, tmp_path):
    begun = [*command, "--output-dir", tmp_path / "begun", "--resume"]
    assert -signal.SIGKILL in with_fsdp(forks, begun, kill_at=(f"{LOOP}:mix_seeds", 6)).status
    done = forks.run(*begun, processes=2)
    assert done.status == [0, 0], done.stderr
    assert_close(tmp_path / "begun/model/model.safetensors", whole / "plain/model/model.safetensors")


def test_a_unet(forks, tiny_models, published, tmp_path):
    settings = {"max_train_steps": 3, "trainable": "kv", "resolution": 16, "train_data": tiny_models / "pictures"}
    command = words("align", settings | {"model": save_diffusion(tmp_path / "sd", published("m9"))})
    plain = forks.run(*command, "--output-dir", tmp_path / "plain")
    divided = with_fsdp(forks, [*command, "--output-dir", tmp_path / "divided"])
    assert plain.status + divided.status == [0] * 3, plain.stderr + divided.stderr
    name = "model/unet/diffusion_pytorch_model.safetensors"
    assert_close(tmp_path / "divided" / name, tmp_path / "plain" / name)
    configs = [json.loads((tmp_path / kind / "model/unet/config.json").read_text()) for kind in ("divided", "plain")]
    assert configs[0] == configs[1]


def test_what_it_can_t_do_is_said(forks, tiny_models, command, tmp_path):
    refused = with_fsdp(forks, [*contrast(tiny_models), "--output-dir", tmp_path / "contrast"])
    assert refused.status == [2, 2], refused.stderr
    assert "FSDP can't divide model.logit_scale, which is a single number" in refused.stderr
    refused = with_fsdp(forks, [*command, "--output-dir", tmp_path / "old"], version="1")
    assert refused.status == [2, 2], refused.stderr
    assert "expected fsdp_version: 2" in refused.stderr


class Layer(nn.Conv2d):
    def __init__(self):
        super().__init__(4, 4, 3)
        self.forward = self.replaced  # as `altdiffusion.forward_override` does it

    def replaced(self, x):
        return super().forward(x)


class Task(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Layer().to(memory_format=torch.channels_last)
        self.frozen = [nn.Linear(4, 4)]  # beside the model, not in it


def test_the_copy_trains_by_itself():
    task = Task()
    copied = copy_to_shard(task)
    assert copied.frozen is task.frozen
    assert torch.equal(copied.layer.weight, task.layer.weight)
    assert copied.layer.weight.is_contiguous()
    copied.layer(torch.ones(1, 4, 3, 3)).sum().backward()
    assert copied.layer.weight.grad is not None
    assert task.layer.weight.grad is None
