"""The text tower of an AltCLIP in any layout, to be trained; what it came with is saved along."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AltCLIPTextModel, CLIPImageProcessor

from altdiffusion.altclip import calibration
from altdiffusion.altclip.model import EMBEDDED, HUB_FILES, AltCLIP, load_image_processor
from altdiffusion.checkpoints import hub, tensor_files
from altdiffusion.text_encoder.encoder import read_text_encoder
from altdiffusion.text_encoder.tokenizer import read_tokenizer
from altdiffusion.training.models.teacher_student import disable_dropout


@dataclass
class TextTower:
    """whole, processor: the AltCLIP that the tower is part of, and how it wants its images; None where it came alone.

    calibrated: whether a calibration of its scores lay beside it, which holds for the weights as they were.
    """

    model: AltCLIPTextModel
    tokenizer: Any
    whole: AltCLIP | None
    processor: CLIPImageProcessor | None
    calibrated: bool

    def save(self, folder: Path) -> None:
        """A full AltCLIP where it was one, else the text tower; both stock. `load_text_encoder` reads either."""
        (self.model if self.whole is None else self.whole).cpu().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        if self.processor is not None:
            self.processor.save_pretrained(folder)


def load_text_tower(model: str | Path) -> TextTower:
    """In float32, without dropout: of a full AltCLIP, of an AltDiffusion, or alone. Raises InputError."""
    root = hub.resolve(model, [*HUB_FILES, calibration.TENSORS])
    folder = root / EMBEDDED if (root / EMBEDDED).is_dir() else root
    whole, processor = None, None
    if folder.is_dir() and tensor_files.read_config_type(folder) == "altclip":
        whole, processor = AltCLIP.from_pretrained(folder), load_image_processor(folder)
    tower = read_text_encoder(folder) if whole is None else whole.text_model
    disable_dropout(tower)
    return TextTower(tower, read_tokenizer(folder), whole, processor, (folder / calibration.ABOUT).is_file())
