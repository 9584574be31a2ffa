"""The teachers and students that distillation starts from; a tensor that is missing is an error, never random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    AltCLIPTextConfig,
    AltCLIPTextModel,
    AltCLIPVisionConfig,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
)

from altdiffusion.altclip.model import HUB_FILES
from altdiffusion.checkpoints import hub, tensor_files
from altdiffusion.checkpoints.layouts import WORD_EMBEDDINGS
from altdiffusion.errors import InputError
from altdiffusion.text_encoder.encoder import read_text_encoder
from altdiffusion.text_encoder.tokenizer import load_any_tokenizer, read_tokenizer


@dataclass
class Teacher:
    """A CLIP text tower. whole: the CLIP it is part of, or None where it came alone, as in a diffusers folder."""

    text_model: Any
    tokenizer: Any
    whole: CLIPModel | None
    folder: Path

    @property
    def width(self) -> int:
        """Of its states and of its `pooler_output`."""
        return int(self.text_model.config.hidden_size)


def load_teacher(model: str | Path) -> Teacher:
    """A CLIP text tower from a CLIP folder, a text encoder's folder, a Stable Diffusion folder, or the hub."""
    root = hub.resolve(model, HUB_FILES)
    whole_pipeline = (root / "model_index.json").is_file()
    folder = root / "text_encoder" if whole_pipeline else root
    kind = tensor_files.read_config_type(folder)
    if kind == "clip":
        whole = tensor_files.load_strict(CLIPModel, folder)
        text_model = whole.text_model
    elif kind == "clip_text_model":
        projects = "CLIPTextModelWithProjection" in (
            tensor_files.read_json(folder / "config.json").get("architectures") or []
        )
        whole = None
        text_model = tensor_files.load_strict(CLIPTextModelWithProjection if projects else CLIPTextModel, folder)
        if projects:  # its own output is the projected vector; the tower inside gives what precedes it
            text_model = text_model.text_model
    else:
        raise InputError(
            f"the teacher {model} is of type {kind!r}: expected a CLIP, its text encoder or a Stable Diffusion"
        )
    tokenizer = load_any_tokenizer(root / "tokenizer" if whole_pipeline else folder)
    return Teacher(text_model.eval().requires_grad_(False), tokenizer, whole, folder)


def load_student(model: str | Path, width: int) -> tuple[AltCLIPTextModel, Any]:
    """An AltCLIP text tower to train, dropout 0, and its tokenizer: one that exists, or a plain XLM-R with a new projection.

    width: of what it is to give, the teacher's. Raises InputError where a tower that exists gives another one.
    """
    root = hub.resolve(model, HUB_FILES)
    if root.is_dir() and tensor_files.read_config_type(root) in ("xlm-roberta", "roberta", "camembert"):
        student = _from_roberta(root, width)
    else:
        student = read_text_encoder(root)
    if student.config.project_dim != width:
        raise InputError(
            f"the student {model} gives vectors of width {student.config.project_dim}, the teacher's have {width}: "
            "start from a plain XLM-R, whose projection is made to fit, or take another teacher"
        )
    disable_dropout(student)
    return student, read_tokenizer(root)


def disable_dropout(student: AltCLIPTextModel) -> None:
    """Set dropout to 0, in place: with it a student would chase targets that it can't reach."""
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    student.config.update({"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})


def _from_roberta(folder: Path, width: int) -> AltCLIPTextModel:
    """XLM-R's layers with a new, random pre_LN and transformation."""
    known = tensor_files.read_json(folder / "config.json")
    wanted = AltCLIPTextConfig().to_dict()
    settings = {name: value for name, value in known.items() if name in wanted and name != "model_type"}
    config = AltCLIPTextConfig(**{**settings, "project_dim": width})
    config.use_attention_mask = True  # tells Stable Diffusion pipelines to pass the mask
    student = AltCLIPTextModel(config)
    state = tensor_files.read_weights(folder, dtype=torch.float32)
    prefix = "" if WORD_EMBEDDINGS in state else "roberta."
    renamed = {
        (prefix + name).replace("encoder.layer.", "encoder.layers."): tensor
        for name, tensor in state.items()
        if "pooler." not in name and not name.startswith(("lm_head.", "classifier.")) and "position_ids" not in name
    }
    report = student.load_state_dict(renamed, strict=False)
    missing = [name for name in report.missing_keys if not name.startswith(("pre_LN.", "transformation."))
               and "position_ids" not in name and "token_type_ids" not in name]  # fmt: skip
    if missing or report.unexpected_keys:
        odd = f"missing {missing[0]}" if missing else f"unexpected {report.unexpected_keys[0]}"
        raise InputError(f"the tensors in {folder} are not those of its config.json: {odd}")
    return student


def assemble_altclip(student: AltCLIPTextModel, teacher: CLIPModel) -> AltCLIPModel:
    """A full AltCLIP: the student's text tower, the teacher's vision tower, both of its projections and its scale."""
    vision = teacher.config.vision_config.to_dict()
    for name in ("model_type", "architectures", "transformers_version"):
        vision.pop(name, None)
    config = AltCLIPConfig(
        text_config=student.config.to_dict(),
        vision_config=AltCLIPVisionConfig(**vision).to_dict(),
        projection_dim=teacher.config.projection_dim,
    )
    model = AltCLIPModel(config)
    # strict per part: a tensor that has no place raises
    model.text_model.load_state_dict(student.state_dict())
    model.vision_model.load_state_dict(teacher.vision_model.state_dict())
    model.visual_projection.load_state_dict(teacher.visual_projection.state_dict())
    model.text_projection.load_state_dict(teacher.text_projection.state_dict())
    with torch.no_grad():
        model.logit_scale.copy_(teacher.logit_scale)
    return model.eval()
