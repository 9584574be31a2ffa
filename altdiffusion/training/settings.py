"""The settings that every training shares."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from altdiffusion.settings import Settings, setting


class TrainingSettings(Settings):
    """What every stage shares."""

    group: ClassVar[str] = "Every training"

    output_dir: Path = setting(..., "folder for the log, the checkpoints and the trained model")
    max_train_steps: int = setting(1000, "optimizer steps", minimum=1)
    batch_size: int = setting(32, "samples of one optimizer step, over all processes", minimum=1)
    gradient_accumulation_steps: int = setting(1, "pieces that a process cuts its share of a batch into", minimum=1)
    gradient_checkpointing: bool = setting(False, "spend time to save memory: activations are computed twice")
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
    device: Literal["auto", "cpu"] = setting("auto", "auto takes a GPU if there is one")
    seed: int = setting(0, "of everything random", minimum=0, maximum=2**32 - 1)
    checkpointing_steps: int = setting(500, "steps from one checkpoint to the next", minimum=1)
    checkpoints_total_limit: int = setting(2, "checkpoints kept; 2 survive the damage of one", minimum=1)
    validation_steps: int = setting(500, "steps from one validation to the next", minimum=1)
    logging_steps: int = setting(10, "steps from one line of the log to the next", minimum=1)
    tensorboard: bool = setting(False, "write TensorBoard events beside the log")
    data_workers: int = setting(2, "threads that prepare batches ahead", minimum=1, maximum=64)
    max_skipped: float = setting(0.01, "share of unusable records that is put up with", minimum=0, maximum=1)
    resume: bool = setting(False, "go on from the newest good checkpoint in output_dir, if there is one")
