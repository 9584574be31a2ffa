"""The settings that every training shares."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Literal

from altdiffusion.settings import Settings, about_of, neutral, setting

Tracker = Literal[
    "tensorboard", "wandb", "trackio", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab",
]  # fmt: skip


def cache_folder(what: str) -> Any:
    """A setting that names a folder for features. Resumed with it elsewhere, a training computes the same: it checks them."""
    return setting(None, f"folder for {what}, so that they are computed once", cache=True)


class TrainingSettings(Settings):
    """What every stage shares."""

    group: ClassVar[str] = "Every training"

    output_dir: Path = neutral(..., "folder for the log, the checkpoints and the trained model")
    max_train_steps: int = setting(1000, "optimizer steps", minimum=1)
    batch_size: int = setting(32, "samples of one optimizer step, over all processes", minimum=1)
    gradient_accumulation_steps: int = setting(1, "micro-batches per optimizer step and process", minimum=1)
    gradient_checkpointing: bool = neutral(False, "spend time to save memory: activations are computed twice")
    learning_rate: float = setting(1e-4, "the highest of the schedule", minimum=0)
    lr_scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = setting(
        "cosine", "schedule after the warmup"
    )
    lr_warmup_steps: int = setting(0, "steps over which the learning rate rises from 0", minimum=0)
    adam_beta1: float = setting(0.9, "AdamW's first moment", minimum=0, maximum=0.9999)
    adam_beta2: float = setting(0.999, "AdamW's second moment", minimum=0, maximum=0.999999)
    weight_decay: float = setting(1e-2, "AdamW's", minimum=0)
    max_grad_norm: float = setting(1.0, "the gradient is clipped to this norm", minimum=1e-8)
    ema_decay: float = setting(0.0, "moving average of the weights, which is then what is saved; 0: none",
                               minimum=0, maximum=0.999999)  # fmt: skip
    mixed_precision: Literal["no", "fp16", "bf16"] = setting("no", "arithmetic of the model that is trained")
    device: Literal["auto", "cpu"] = neutral("auto", "auto takes a GPU if there is one")
    seed: int = setting(0, "of everything random", minimum=0, maximum=2**32 - 1)
    checkpointing_steps: int = neutral(500, "steps from one checkpoint to the next", minimum=1)
    checkpoints_total_limit: int = neutral(2, "checkpoints kept; 2 survive the damage of one", minimum=1)
    validation_steps: int = neutral(500, "steps from one validation to the next", minimum=1)
    logging_steps: int = neutral(10, "steps from one line of the log to the next", minimum=1)
    tensorboard: bool = neutral(False, "write TensorBoard events beside the log: the same as --trackers tensorboard")
    trackers: list[Tracker] = neutral([], "who is told the metrics besides the log, by accelerate")
    data_workers: int = neutral(2, "threads that prepare batches ahead", minimum=1, maximum=64)
    max_skipped: float = neutral(0.01, "fraction of unusable records that is put up with", minimum=0, maximum=1)
    plan: bool = neutral(
        False, "measure a few steps, say how many hours and how much memory and disk it takes, and stop"
    )
    hour_price: float | None = neutral(
        None, "what an hour of this machine costs, for --plan to say the money", minimum=0
    )
    resume: bool = neutral(False, "go on from the newest good checkpoint in output_dir, if there is one")

    @classmethod
    def data_fields(cls) -> list[str]:
        """The settings that name the data a training reads."""
        fields = {name: about_of(field) for name, field in cls.model_fields.items()}
        return [
            name
            for name, about in fields.items()
            if (about.get("source") == "data" or name in ("instance_dir", "class_dir")) and not about.get("neutral")
        ]

    def differences(self, former: dict[str, Any], same: Collection[str] = ()) -> list[str]:
        """Where settings that a training's numbers depend on differ from a former one's, which are as JSON holds them.

        same: settings that are known to mean the same as before, such as data under another path. A setting that there wasn't
            then had what is its default now.
        """
        now = self.model_dump(mode="json")
        defaults = {
            name: field.get_default(call_default_factory=True) for name, field in type(self).model_fields.items()
        }
        former = {**defaults, **former}

        def is_same(name: str, about: dict[str, Any]) -> bool:
            if about.get("cache"):  # without one the numbers are others, as features are kept in float16
                return (now[name] is None) == (former.get(name) is None)
            return about.get("neutral") or name in same or now[name] == former.get(name)

        return [
            f"{name} was {former.get(name)}, is {now[name]}"
            for name, field in type(self).model_fields.items()
            if not is_same(name, about_of(field))
        ]
