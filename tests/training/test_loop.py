"""The loop under every stage, with a toy model that has dropout."""

import itertools
import json
import math
import threading

import numpy as np
import pytest
import torch
from torch import nn

from altdiffusion import InputError
from altdiffusion.errors import TrainingStopped
from altdiffusion.settings import setting
from altdiffusion.training import log, loop
from altdiffusion.training.loop import export, fit, start
from altdiffusion.training.settings import TrainingSettings
from altdiffusion.training.stage_settings import DistillSettings


class ToySettings(TrainingSettings):
    teacher: str = setting("a", "a setting of the stage's own")


class DataSettings(ToySettings):
    train_data: list[str] = setting([], "files", source="data")


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))

    def forward(self, batch):
        return {"loss": (self.layers(batch["x"]).squeeze(-1) - batch["y"]).square().mean()}


def batches(step, index, count):
    x = torch.from_numpy(np.random.default_rng([9, step]).standard_normal((8, 4), np.float32))
    rows = slice(index * 8 // count, (index + 1) * 8 // count)
    return {"x": x[rows], "y": x.sum(1)[rows]}


def train(folder, *, batches=batches, validate=None, records=8, model=None, **settings):
    """(the trained model, the lines of the log)."""
    settings = {
        "max_train_steps": 12,
        "batch_size": 8,
        "learning_rate": 0.1,
        "logging_steps": 1,
        "device": "cpu",
    } | settings
    kind = DataSettings if "train_data" in settings else ToySettings
    settings = kind(output_dir=folder, checkpointing_steps=settings.pop("checkpointing_steps", 3), **settings)
    accelerator = start(settings)
    torch.manual_seed(0)
    model = model or Toy()
    fit(model, batches, settings, accelerator, records=records, validate=validate)
    with export(settings, accelerator) as target:
        torch.save(model.state_dict(), target / "model.pt")
    return model, [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same_weights(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


def losses(lines):
    return [line["loss"] for line in lines if "loss" in line]


def stopping_at(step, error):
    def deliver(number, index, count):
        if number == step:
            raise error
        return batches(number, index, count)

    return deliver


@pytest.mark.parametrize("precision", ["no", "fp16", "bf16"])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "constant_with_warmup"])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, schedule, precision):
    options = {"lr_scheduler": schedule, "lr_warmup_steps": 2, "ema_decay": 0.9, "gradient_accumulation_steps": 2}
    options |= {"mixed_precision": precision}
    whole, expected = train(tmp_path / "whole", **options)
    for stop in (1, 5, 9):
        with pytest.raises(ZeroDivisionError):
            train(tmp_path / "cut", batches=stopping_at(stop, ZeroDivisionError()), resume=stop > 1, **options)
    cut, found = train(tmp_path / "cut", resume=True, **options)
    assert same_weights(whole, cut)
    rates = [line["learning_rate"] for line in expected]
    assert losses(found) == losses(expected)
    assert [line["learning_rate"] for line in found] == rates
    assert [line["step"] for line in found] == list(range(1, 13))
    assert rates[:3] == [0, 0.05, 0.1] or schedule == "constant"


def test_resuming_a_finished_run_writes_the_same_model_again(tmp_path):
    whole, lines = train(tmp_path / "run", ema_decay=0.9)
    again, lines_again = train(tmp_path / "run", ema_decay=0.9, resume=True)
    assert same_weights(whole, again)
    assert lines_again == lines
    assert (tmp_path / "run/model/model.pt").is_file()


def test_what_is_left_is_the_moving_average(tmp_path):
    plain, _ = train(tmp_path / "plain")
    averaged, _ = train(tmp_path / "averaged", ema_decay=0.9)
    assert not same_weights(plain, averaged)


def test_validation_changes_nothing(tmp_path):
    seen = []

    def validate(step):
        seen.append((step, model.training, torch.is_grad_enabled(), torch.rand(3)))
        np.random.rand(3)
        return {"figure": 0.5}

    alone, expected = train(tmp_path / "alone", ema_decay=0.9)
    model = Toy()
    torch.manual_seed(0)
    model.load_state_dict(Toy().state_dict())
    model, found = train(tmp_path / "both", ema_decay=0.9, validate=validate, validation_steps=5, model=model)
    assert [each[:3] for each in seen] == [(step, False, False) for step in (5, 10, 12)]
    assert losses(found) == losses(expected)
    assert same_weights(model, alone)
    assert [line for line in found if "validation" in line][-1] == {"step": 12, "validation": {"figure": 0.5}}


def test_validation_sees_the_averaged_weights_and_training_does_not(tmp_path):
    taken = {}
    model = Toy()
    final, _ = train(
        tmp_path / "run",
        ema_decay=0.9,
        model=model,
        validate=lambda step: taken.update({step: [each.clone() for each in model.parameters()]}) or {},
        validation_steps=12,
    )
    assert all(torch.equal(a, b) for a, b in zip(taken[12], final.parameters(), strict=True))


def test_accumulated_pieces_make_the_same_step(tmp_path):
    def still():
        torch.manual_seed(0)
        model = Toy()
        model.layers[1].p = 0.0
        return model

    one, expected = train(tmp_path / "one", model=still())
    four, found = train(tmp_path / "four", model=still(), gradient_accumulation_steps=4)
    assert losses(found) == pytest.approx(losses(expected), rel=1e-4)
    for a, b in zip(one.parameters(), four.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_trainings_with_other_settings_follow_one_another_in_one_process(tmp_path):
    plain, expected = train(tmp_path / "plain")
    half, found = train(tmp_path / "half", mixed_precision="bf16")
    plain_again, again = train(tmp_path / "again")
    assert losses(expected) == losses(again) != losses(found)
    assert losses(found) == pytest.approx(losses(expected), rel=0.2, abs=0.05)
    assert half.layers[0].weight.dtype == torch.float32
    assert same_weights(plain, plain_again)


def test_arithmetic_that_the_machine_lacks_is_refused(tmp_path, monkeypatch):
    def lacking(**settings):
        raise ValueError("fp16 mixed precision requires a GPU")

    monkeypatch.setattr(loop, "Accelerator", lacking)
    with pytest.raises(InputError, match="--mixed-precision fp16 can't be had here"):
        train(tmp_path / "run", mixed_precision="fp16")


class Spoilt(Toy):
    """Its loss, or its gradient alone, is no number from the fifth step on."""

    def __init__(self, gradient):
        super().__init__()
        self.steps, self.gradient = itertools.count(1), gradient

    def forward(self, batch):
        loss = super().forward(batch)["loss"]
        if next(self.steps) < 5:
            return {"loss": loss}
        weight = self.layers[0].weight
        return {"loss": loss + 0 * (weight - weight.detach()).abs().sqrt().sum() if self.gradient else loss * math.nan}


@pytest.mark.parametrize("gradient", [False, True])
def test_what_is_no_number_stops_the_training_before_it_spoils_the_weights(tmp_path, gradient):
    name = "gradient norm" if gradient else "loss"
    with pytest.raises(TrainingStopped, match=f"the {name} became nan at step 5: lower --learning-rate"):
        train(tmp_path / "run", model=Spoilt(gradient), checkpointing_steps=1)
    model, lines = train(tmp_path / "run", resume=True, checkpointing_steps=1)
    assert all(each.isfinite().all() for each in model.parameters())
    assert [line["step"] for line in lines] == list(range(1, 13))


def test_a_folder_that_holds_a_training_is_not_touched_without_resume(tmp_path):
    train(tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"holds a training already: the same command with --resume goes on"):
        train(tmp_path / "run", seed=1)
    with pytest.raises(InputError, match=r"seed was 0, is 1; teacher was a, is b; records was 8, is 9\. To train on"):
        train(tmp_path / "run", seed=1, teacher="b", records=9, resume=True)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_data_that_is_not_there_is_refused_before_anything_is_loaded(tmp_path):
    settings = DistillSettings(
        teacher="no/teacher", student="no/student", train_data=[str(tmp_path / "x.tsv")], output_dir=tmp_path / "run"
    )
    with pytest.raises(InputError, match=r"there is no .*x\.tsv"):
        start(settings)
    assert not (tmp_path / "run").exists()


def test_settings_that_change_no_number_may_change(tmp_path):
    train(tmp_path / "run")
    train(tmp_path / "run", resume=True, logging_steps=2, checkpointing_steps=1, validation_steps=1, data_workers=1)


@pytest.mark.parametrize("place", ["moved/x.tsv", "renamed.tsv", "./x.tsv", "x*.tsv", "{x,y}.tsv"])
def test_the_same_data_under_another_path_is_the_same(tmp_path, place):
    for name in ("x.tsv", "moved/x.tsv", "renamed.tsv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("en\n" + "a cat\n" * 8)
    given = ["x.tsv", "x.tsv"] if "," in place else ["x.tsv"]
    (tmp_path / "y.tsv").write_bytes((tmp_path / "x.tsv").read_bytes())
    train(tmp_path / "run", train_data=[str(tmp_path / name) for name in given], max_train_steps=3)
    train(tmp_path / "run", train_data=[f"{tmp_path}/{place}"], max_train_steps=3, resume=True)


@pytest.mark.parametrize("other", ["en\n" + "a dog\n" * 8, "en\n" + "a cat\n" * 9])
def test_other_data_under_another_path_is_refused(tmp_path, other):
    (tmp_path / "x.tsv").write_text("en\n" + "a cat\n" * 8)
    (tmp_path / "other.tsv").write_text(other)
    train(tmp_path / "run", train_data=[str(tmp_path / "x.tsv")], max_train_steps=3)
    with pytest.raises(InputError, match=r"train_data was .*x\.tsv.*, is .*other\.tsv"):
        train(tmp_path / "run", train_data=[str(tmp_path / "other.tsv")], max_train_steps=3, resume=True)


def test_another_model_is_not_resumed(tmp_path):
    train(tmp_path / "run")
    other = Toy()
    other.layers[2] = nn.Linear(8, 1, bias=False)
    with pytest.raises(InputError, match=r"another model \(only one has 'layers.2.bias' in shape \(1,\)\)"):
        train(tmp_path / "run", resume=True, model=other)


@pytest.mark.parametrize(("size", "micro_batches", "expected"), [(8, 3, "multiple of 3"), (7, 2, "multiple of 2")])
def test_a_batch_that_can_t_be_shared_is_refused(tmp_path, size, micro_batches, expected):
    with pytest.raises(InputError, match=f"--batch-size {size} .*{expected}"):
        train(tmp_path / "run", batch_size=size, gradient_accumulation_steps=micro_batches)


def test_a_folder_that_can_t_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"--output-dir .* can't be written"):
        train(tmp_path / "file/run")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("bad data"), TrainingStopped("full")])
def test_no_thread_is_left_when_a_training_is_interrupted(tmp_path, error):
    before = threading.active_count()
    with pytest.raises(type(error)):
        train(tmp_path / "run", batches=stopping_at(5, error), data_workers=4, tensorboard=True)
    alive = [each for each in threading.enumerate() if not each.daemon]
    assert len(alive) <= before, alive


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path):
    _, expected = train(tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "cut", batches=stopping_at(7, ZeroDivisionError()))
    log = tmp_path / "cut/log.jsonl"
    log.write_bytes(log.read_bytes() + '{"step": 8, "validation": {"中'.encode()[:-1])
    _, found = train(tmp_path / "cut", resume=True)
    assert losses(found) == losses(expected)


def test_a_model_that_can_t_be_written_leaves_the_one_before(tmp_path):
    train(tmp_path / "run")
    settings = ToySettings(output_dir=tmp_path / "run", resume=True, device="cpu")
    (tmp_path / "run/.model.killed").mkdir()
    with pytest.raises(TrainingStopped, match=r"the model can't be written to .*No space left"):
        fill_the_disk(settings)
    assert [path.name for path in (tmp_path / "run").glob("*model*")] == ["model"]
    assert [path.name for path in (tmp_path / "run/model").iterdir()] == ["model.pt"]


def fill_the_disk(settings):
    with export(settings, start(settings)) as folder:
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")


def test_tensorboard_gets_what_the_log_gets(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, lines = train(tmp_path / "run", tensorboard=True, validate=lambda step: {"R@1": 0.25}, validation_steps=6)
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses(lines))
    assert [(event.step, event.value) for event in events.Scalars("validation/R@1")] == [(6, 0.25), (12, 0.25)]
    assert "validation/step" not in events.Tags()["scalars"]


def test_tensorboard_is_one_of_the_trackers(tmp_path):
    train(tmp_path / "run", trackers=["tensorboard"], tensorboard=True)
    assert len(list((tmp_path / "run/tensorboard").iterdir())) == 1


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "get_available_trackers", lambda: [])
    with pytest.raises(InputError, match=r"--trackers comet_ml needs: pip install comet-ml"):
        train(tmp_path / "run", trackers=["comet_ml"])
    with pytest.raises(InputError, match=r'--trackers tensorboard needs: pip install "altdiffusion\[train\]"'):
        train(tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_accelerate_does_not_know_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"trackers: expected one of tensorboard, wandb, .*, got 'excel'"):
        train(tmp_path / "run", trackers=["excel"])


def test_progress_is_a_few_lines_where_nobody_watches(tmp_path, capfd):
    train(tmp_path / "run", max_train_steps=300, checkpointing_steps=1000, logging_steps=100)
    told = capfd.readouterr().err
    assert "\r" not in told
    assert [line.partition(":")[0] for line in told.splitlines() if line.startswith("step ")] == [
        f"step {step} of 300" for step in (100, 200, 300)
    ]
