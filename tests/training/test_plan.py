"""`train STAGE --plan`: what a training will take, from a few measured steps."""

import pytest

from altdiffusion.errors import InputError
from altdiffusion.training.plan import Plan, make_plan
from altdiffusion.training.stage_settings import BridgeSettings, DistillSettings

SMALL = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "device": "cpu"}


@pytest.mark.parametrize(
    ("steps", "batch_size", "rate", "price", "hours", "money"),
    [
        (3600, 10, 10.0, None, 1.0, None),
        (7200, 512, 1024.0, 2.5, 1.0, 2.5),
        (40000, 512, 1000.0, 3.0, 5.688889, 17.066667),
    ],
)
def test_hours_and_money_follow_from_steps_batch_and_rate(steps, batch_size, rate, price, hours, money):
    plan = Plan("a machine", steps, batch_size, rate, 2e9, {"checkpoints": 1e9, "model": 5e8}, ["a guess"], price)
    assert plan.hours == pytest.approx(hours)
    assert plan.money == pytest.approx(money)
    told = str(plan)
    for part in (f"{hours:.3g} hours", "2 GB", "1.5 GB: checkpoints 1 GB, model 0.5 GB", "- a guess"):
        assert part in told
    assert ("--hour-price" in told) == (price is None)


def test_a_preset_is_planned_without_its_models_and_data(tmp_path, small_stand_ins):
    settings = BridgeSettings(
        preset="sd15",
        languages=["zh"],
        output_dir=tmp_path / "out",
        plan=True,
        hour_price=2,
        mixed_precision="no",
        **SMALL,
    )
    plan = make_plan("bridge", settings)
    assert (plan.steps, plan.batch_size, plan.hour_price) == (40000, 512, 2)
    assert plan.samples_per_second > 0
    assert set(plan.disk) == {settings.text_encoder, settings.model, "checkpoints", "the trained model"}
    assert all(size > 0 for size in plan.disk.values())
    # what the bridge's own states take, alone, of 512 texts: queries, keys, values and both feed-forward layers
    assert plan.memory > 512 * 77 * 16 * 4 * 5
    assert len(plan.notes) == 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("batch_size", [2, 8])
def test_models_and_data_that_are_here_are_used_themselves(tmp_path, batch_size):
    texts = tmp_path / "pairs.tsv"
    texts.write_text("en\tzh\na cat\t一只猫\na dog\t一只狗\n", encoding="utf-8")
    settings = DistillSettings(
        teacher="sd-mini", student="mini", train_data=[str(texts)], output_dir=tmp_path / "out", batch_size=batch_size,
        device="cpu", max_train_steps=10,
    )  # fmt: skip
    plan = make_plan("distill", settings)
    assert set(plan.disk) == {"checkpoints", "the trained model"}
    assert bool(plan.notes) == (batch_size > 4)
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.tsv"]


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--plan measures one process"):
        make_plan("bridge", BridgeSettings(preset="sd15", languages=["zh"], output_dir=tmp_path / "out"))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("altdiffusion.training.plan.stand_in", full)
    with pytest.raises(InputError, match=r"^--plan can't write beside .*out: .*No space left on device$"):
        make_plan("bridge", BridgeSettings(preset="sd15", languages=["zh"], output_dir=tmp_path / "out"))
    assert not list(tmp_path.iterdir())
