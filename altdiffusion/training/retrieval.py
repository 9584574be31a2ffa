"""How well texts in each language are read: R@1 among the vectors of their English texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from altdiffusion.metrics import recall_at_k
from altdiffusion.text_encoder.tokenizer import pad
from altdiffusion.training.models.teacher_student import Teacher

ReadVectors = Callable[[Sequence[Sequence[int]]], Tensor]  # token ids of texts -> (texts, width)


def teacher_vectors(teacher: Teacher) -> ReadVectors:
    """Reads the frozen teacher's end-of-text states, float32."""
    return pooled_vectors(teacher.text_model, teacher.tokenizer.pad_token_id)


def pooled_vectors(model: Any, padding: int) -> ReadVectors:
    """Reads a text model's pooled states, float32: of AltCLIP the projected [CLS], of CLIP the end of text."""

    @torch.no_grad()
    def read(ids: Sequence[Sequence[int]]) -> Tensor:
        input_ids, mask = pad(ids, padding)
        output = model(input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device))
        return output.pooler_output.float()

    return read


def retrieval(
    pairs: Sequence[tuple[list[int], list[int]]], read_student: ReadVectors, read_teacher: ReadVectors
) -> float:
    """R@1 of the student's texts among the teacher's. pairs: (student's tokens, teacher's tokens)."""
    student, target = [], []
    for first in range(0, len(pairs), 100):
        ids, teacher_ids = zip(*pairs[first : first + 100], strict=True)
        student.append(read_student(ids))
        target.append(read_teacher(teacher_ids))
    left, right = F.normalize(torch.cat(student), dim=-1), F.normalize(torch.cat(target), dim=-1)
    texts = text_keys([teacher_ids for _, teacher_ids in pairs]).to(right.device)
    return recall_at_k(left @ right.T, texts[:, None] == texts[None, :], 1)


def text_keys(ids: Sequence[Sequence[int]]) -> Tensor:
    """int64 (batch,), equal where texts are equal, in every process: parallel data often repeats one."""
    return torch.tensor([hash(tuple(row)) for row in ids])
