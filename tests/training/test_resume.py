"""Trainings as people run them: killed, resumed, on a full disk, interrupted, by several processes."""

import random
import signal

import pytest
import torch
from helpers.trainings import contrast, curve, distillation
from safetensors.torch import load_file

# functions are named in strings where another process is to be killed before it calls them
CHECKPOINT, LOOP = "altdiffusion.training.checkpoint", "altdiffusion.training.loop"


def test_killed_at_any_moment_it_ends_bit_for_bit_as_if_it_never_was(forks, tiny_models, tmp_path):
    settings = {"max_train_steps": 40, "checkpointing_steps": 2, "ema_decay": 0.9, "validation_steps": 10}
    command = distillation(tiny_models, **settings, validation_data=tiny_models / "pairs.tsv")
    whole = forks.run(*command, "--output-dir", tmp_path / "whole")
    assert whole.status == [0], whole.stderr

    moments = [
        (f"{CHECKPOINT}:flush_to_disk", 1),  # the first checkpoint's tensors are written, its marker is not
        (f"{CHECKPOINT}:flush_to_disk", 3),  # all of it is written, it is not renamed
        (f"{CHECKPOINT}:flush_to_disk", 4),  # it is renamed
        (f"{CHECKPOINT}:flush_to_disk", 10),
        ("torch:save", 2),
        ("os:replace", 4),  # after settings.json and log.jsonl, a checkpoint
        ("shutil:rmtree", 2),  # while old ones are removed
        (f"{LOOP}:mix_seeds", 4),  # between two steps
        (f"{LOOP}:to_device", 7),
        ("altdiffusion.training.inputs.parallel_text:tokens", 1),
    ]
    kills = []
    for place, call in moments:
        kills += forks.run(*command, "--output-dir", tmp_path / "cut", "--resume", kill_at=(place, call)).status
    assert kills == [-signal.SIGKILL] * len(moments)
    chance = random.Random(0)
    for _ in range(4):
        after = chance.uniform(0.2, 1) * whole.seconds
        kills += forks.run(*command, "--output-dir", tmp_path / "cut", "--resume", kill_after=after).status
    assert set(kills) <= {-signal.SIGKILL, 0}
    last = ("altdiffusion.training.stages.distill:assemble_altclip", 1)  # while the model is written
    assert forks.run(*command, "--output-dir", tmp_path / "cut", "--resume", kill_at=last).status == [-signal.SIGKILL]

    done = forks.run(*command, "--output-dir", tmp_path / "cut", "--resume")
    assert done.status == [0], done.stderr
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json"):
        assert (tmp_path / "cut/model" / name).read_bytes() == (tmp_path / "whole/model" / name).read_bytes()
    left = {path.name for path in (tmp_path / "cut").iterdir()}
    assert left == {"checkpoints", "log.jsonl", "model", "settings.json"}


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        (distillation, {}),
        (distillation, {"loss": "contrastive"}),
        (contrast, {"trainable": "both"}),
        (contrast, {"trainable": "text", "ema_decay": 0.9}),
    ],
)
def test_two_processes_equal_one(forks, tiny_models, tmp_path, stage, settings):
    command = stage(tiny_models, **settings)
    one = forks.run(*command, "--output-dir", tmp_path / "one")
    two = forks.run(*command, "--output-dir", tmp_path / "two", processes=2)
    assert one.status + two.status == [0, 0, 0], one.stderr + two.stderr
    assert two.stdout == f"{tmp_path}/two/model\n"
    found, expected = ([line["loss"] for line in curve(tmp_path / name)] for name in ("two", "one"))
    assert found == pytest.approx(expected, rel=1e-4)
    assert_same_model(tmp_path / "two/model", tmp_path / "one/model")


def test_accumulated_pieces_equal_one_batch(forks, tiny_models, tmp_path):
    for folder, micro_batches in (("one", 1), ("two", 2)):
        command = distillation(tiny_models, gradient_accumulation_steps=micro_batches, output_dir=tmp_path / folder)
        assert forks.run(*command).status == [0]
    losses = [[line["loss"] for line in curve(tmp_path / name)] for name in ("two", "one")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert_same_model(tmp_path / "two/model", tmp_path / "one/model")


def assert_same_model(left, right):
    found, expected = load_file(left / "model.safetensors"), load_file(right / "model.safetensors")
    assert set(found) == set(expected)
    for name in found:
        if name.endswith(("k_proj.bias", "key.bias")):
            continue  # softmax doesn't see them: AdamW makes steps of the rounding errors
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-3, msg=name)


def test_processes_that_share_a_cache_and_are_killed_leave_one_that_goes_on(forks, tiny_models, tmp_path):
    command = [*distillation(tiny_models, teacher_cache=tmp_path / "cache"), "--output-dir"]
    assert forks.run(
        *command, tmp_path / "a", kill_at=("altdiffusion.training.inputs.feature_cache:save_file", 1)
    ).status == [-9]
    assert forks.run(*command, tmp_path / "b", processes=2).status == [0, 0]
    assert [path.suffix for path in sorted((tmp_path / "cache").iterdir())] == [".json", ".safetensors"]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_two_lines_and_status_130(forks, tiny_models, tmp_path, sign):
    command = [*distillation(tiny_models, checkpointing_steps=2), "--output-dir", tmp_path / "run"]
    done = forks.run(*command, kill_at=(f"{LOOP}:mix_seeds", 6), sign=sign)
    assert done.status == [130], done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-2:] == [
        f"{tmp_path}/run keeps the checkpoints: the same command with --resume goes on from the last",
        "altdiffusion: interrupted; what was finished is kept",
    ]
    assert forks.run(*command, "--resume").status == [0]


def test_an_interrupt_before_the_first_checkpoint_promises_none(forks, tiny_models, tmp_path):
    command = [*distillation(tiny_models, checkpointing_steps=100), "--output-dir", tmp_path / "run"]
    done = forks.run(*command, kill_at=(f"{LOOP}:mix_seeds", 3), sign=signal.SIGINT)
    assert done.status == [130], done.stderr
    assert "no checkpoint was due yet (--checkpointing-steps 100): nothing to go on from" in done.stderr
    assert "--resume" not in done.stderr


@pytest.mark.parametrize(("limit", "place"), [(3000, "log.jsonl"), (10000, "checkpoint of step 4")])
def test_a_full_disk_is_one_line_and_status_1_and_the_training_goes_on_from_before(
    forks, tiny_models, tmp_path, limit, place
):
    settings = {"checkpointing_steps": 2, "max_train_steps": 60} if limit > 3000 else {"max_train_steps": 60}
    command = [*distillation(tiny_models, **settings), "--output-dir", tmp_path / "run", "--resume"]
    if limit > 3000:
        assert forks.run(*command, kill_at=(f"{LOOP}:mix_seeds", 4)).status == [-9]
    full = forks.run(*command, limit=limit)
    assert full.status == [1], full.stderr
    assert "Traceback" not in full.stderr
    told = full.stderr.splitlines()[-1]
    assert place in told
    assert "--resume" in told
    assert ("the last good checkpoint is step-00000002" in told) == (limit > 3000)
    done = forks.run(*command)
    assert done.status == [0], done.stderr
    assert [line["step"] for line in curve(tmp_path / "run")] == list(range(1, 61))


def test_a_loss_that_is_no_number_is_one_line_and_status_1(forks, tiny_models, tmp_path):
    done = forks.run(*distillation(tiny_models, learning_rate=1e38, output_dir=tmp_path / "run"))
    assert done.status == [1]
    assert "Traceback" not in done.stderr
    assert "lower --learning-rate" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run/model").exists()


def test_the_command_prints_the_model_s_folder_and_no_loading_bars(forks, tiny_models, tmp_path):
    command = [*distillation(tiny_models, max_train_steps=2), "--output-dir", tmp_path / "run"]
    done = forks.run(*command)
    assert done.status == [0]
    assert done.stdout == f"{tmp_path}/run/model\n"
    assert "Loading weights" not in done.stderr
    assert "Writing model" not in done.stderr
    refused = forks.run(*command)
    assert refused.status == [2]
    assert "holds a training already" in refused.stderr.splitlines()[-1]
