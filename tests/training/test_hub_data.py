"""Trainings on data sets of the hub: exact resume, and data that is not there before any model is loaded."""

import datasets
import pytest
import torch
from helpers.hub import local_hub

from altdiffusion.errors import InputError
from altdiffusion.training.checkpoint import load_checkpoint
from altdiffusion.training.stage_settings import BridgeSettings
from altdiffusion.training.stages.bridge import train_bridge

PAIRS = [("a cat", "一只猫"), ("a dog", "一只狗"), ("the sun", "太阳"), ("a big tree", "一棵大树")]
SIZES = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def opus(pairs=PAIRS):
    rows = [{"translation": {"en": en, "zh": zh}} for en, zh in pairs]
    features = datasets.Features({"translation": datasets.Translation(languages=["en", "zh"])})
    return datasets.Dataset.from_list(rows, features=features)


def tatoeba(pairs=PAIRS):
    return datasets.Dataset.from_list([{"english": en, "non_english": zh} for en, zh in pairs])


@pytest.fixture
def publish(tmp_path, monkeypatch):
    with local_hub(tmp_path, monkeypatch) as publish:
        publish("a/opus", {"en-zh": {"train": opus()}})
        publish("a/tatoeba", {"en-zh": {"train": tatoeba(PAIRS[::-1])}})
        yield publish


def settings(folder, **changes):
    return BridgeSettings(
        text_encoder="mini", model="sd-mini", train_data=["hub:a/opus/en-zh", "hub:a/tatoeba/en-zh:train"], languages=["zh"],
        output_dir=folder, batch_size=4, max_train_steps=3, checkpointing_steps=2, device="cpu", **SIZES, **changes,
    )  # fmt: skip


def test_a_resumed_training_ends_in_the_same_weights_and_refuses_other_data(tmp_path, publish):
    train_bridge(settings(tmp_path / "whole"))
    train_bridge(settings(tmp_path / "killed"))
    (tmp_path / "killed" / "checkpoints" / "step-00000003" / "complete.json").unlink()  # as if it had been killed there
    publish("a/tatoeba", {"en-zh": {"train": tatoeba(PAIRS)}}, commit="second")
    with pytest.raises(
        InputError, match="--resume needs the settings and data it began with: train_data holds other data"
    ):
        train_bridge(settings(tmp_path / "killed", resume=True))
    publish("a/tatoeba", {"en-zh": {"train": tatoeba(PAIRS[::-1])}})
    train_bridge(settings(tmp_path / "killed", resume=True))
    whole, resumed = (load_checkpoint(tmp_path / name / "checkpoints")["model"] for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_is_not_on_the_hub_comes_before_any_model(tmp_path, publish, monkeypatch):
    monkeypatch.setattr("altdiffusion.training.stages.bridge.load_text_encoder", None)
    publish("a/tatoeba", {"en-ja": {"train": tatoeba()}})
    with pytest.raises(InputError, match=r"hub:a/tatoeba has no config en-zh: it has en-ja$"):
        train_bridge(settings(tmp_path / "out"))
