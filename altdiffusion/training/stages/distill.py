"""Phase 1 of AltCLIP: a multilingual text tower learns CLIP's text space from parallel text.

    altdiffusion train distill --teacher openai/clip-vit-large-patch14 --student FacebookAI/xlm-roberta-large \
        --train-data en-zh.tsv --output-dir altclip-phase-1

The student's projected [CLS] state, of a text in any language, is pulled to the frozen teacher's end-of-text state of
the English text: `pooler_output` on both sides, before `text_projection`, which is the teacher's and stays as it is
(AltCLIP, arXiv 2211.06679, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altdiffusion.altclip.model import load_image_processor
from altdiffusion.text_encoder.tokenizer import pad
from altdiffusion.training.gates import RETRIEVAL
from altdiffusion.training.inputs.feature_cache import FeatureCache, about_data, checksum
from altdiffusion.training.inputs.parallel_text import Pair, ParallelText
from altdiffusion.training.inputs.sampling import LengthBatches, micro_batch
from altdiffusion.training.loop import Batch, export, fit, frozen_dtype, start
from altdiffusion.training.losses.contrastive import contrastive, cosine_distance, gathered
from altdiffusion.training.models.teacher_student import assemble_altclip, load_student, load_teacher
from altdiffusion.training.retrieval import ReadVectors, pooled_vectors, retrieval, teacher_vectors, text_keys
from altdiffusion.training.stage_settings import DistillSettings


def train_distill(settings: DistillSettings) -> None:
    """Train a student and save it in output_dir/model.

    That is a full AltCLIP (`transformers.AltCLIPModel`) where the teacher is a full CLIP, else an `AltCLIPTextModel`;
    `load_text_encoder` reads both. Raises InputError and TrainingStopped.
    """
    accelerator = start(settings)
    teacher = load_teacher(settings.teacher)
    processor: Any = load_image_processor(teacher.folder) if teacher.whole is not None else None
    torch.manual_seed(settings.seed)
    student, tokenizer = load_student(settings.student, teacher.width)
    if settings.gradient_checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": False})

    def read_text(paths: Sequence[str]) -> ParallelText:
        return ParallelText(
            paths, settings.languages, settings.teacher_language, tokenizer, teacher.tokenizer, settings.seed,
            settings.max_skipped,
        )  # fmt: skip

    text = read_text(settings.train_data)
    teacher.text_model.to(accelerator.device, frozen_dtype(settings))
    read_teacher = teacher_vectors(teacher)
    cache = None
    if settings.teacher_cache is not None:
        about = {
            "what": "pooler_output",
            "teacher": checksum(teacher.text_model),
            "language": settings.teacher_language,
        }
        about |= about_data(text.records.parts)

        def compute(records: Sequence[int]) -> list[Tensor]:
            return list(read_teacher(text.english(records)).unsqueeze(1))

        cache = FeatureCache(settings.teacher_cache, len(text), compute, about, accelerator)
    by_length = LengthBatches(text.read, lambda pair: len(pair.ids), settings.batch_size, settings.seed)

    def batches(step: int, index: int, count: int) -> Batch:
        pairs: Sequence[Pair] = micro_batch(by_length.batch(step), index, count)
        ids, mask = pad([pair.ids for pair in pairs], tokenizer.pad_token_id)
        batch: Batch = {"input_ids": ids, "attention_mask": mask}
        batch["texts"] = text_keys([pair.teacher_ids for pair in pairs])
        if cache is not None:
            batch["targets"] = torch.cat([cache[pair.record] for pair in pairs]).float()
        else:
            batch["teacher_ids"] = [pair.teacher_ids for pair in pairs]
        return batch

    task = Distillation(student, read_teacher, settings.loss, settings.contrastive_scale)
    validate = None
    if settings.validation_data:
        validate = partial(
            _validate, student, read_text(settings.validation_data), read_teacher, tokenizer.pad_token_id
        )
    fit(task, batches, settings, accelerator, records=len(text), validate=validate)

    with export(settings, accelerator) as folder:
        if folder is not None:
            model: Any = student
            if teacher.whole is not None:
                model = assemble_altclip(student.cpu(), teacher.whole.cpu().float())
                processor.save_pretrained(folder)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)


class Distillation(nn.Module):
    """The student's error. read_teacher gives the targets where the batch holds none from a cache.

    In a batch, `texts` (batch,) is equal where the teacher's texts are: those are no negatives of each other.
    """

    def __init__(self, student: nn.Module, read_teacher: ReadVectors, loss: str, scale: float) -> None:
        super().__init__()
        self.student = student
        self._read_teacher, self._loss, self._scale = read_teacher, loss, scale

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        state = self.student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output.float()
        target = batch["targets"] if "targets" in batch else self._read_teacher(batch["teacher_ids"])
        losses = {"mse": F.mse_loss(state, target), "cosine": cosine_distance(state, target)}
        if self._loss == "contrastive":
            texts = gathered(batch["texts"])
            losses["contrastive"] = contrastive(
                gathered(state), gathered(target), self._scale, same=texts[:, None] == texts[None, :]
            )
        return {"loss": losses[self._loss], **losses}


def _validate(student: Any, text: ParallelText, read_teacher: ReadVectors, padding: int, step: int) -> dict[str, float]:
    """R@1 of each language's texts among the teacher's English ones, of up to 1,000 pairs."""
    read = pooled_vectors(student, padding)
    return {
        f"{language} {RETRIEVAL}": retrieval(text.of_language(language, 1000), read, read_teacher)
        for language in text.languages
    }
