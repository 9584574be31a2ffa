"""The systems of the model card's table, each with its own preprocessing: one small file a family.

load_system("openai/clip-vit-large-patch14")                    CLIP
load_system("OFA-Sys/chinese-clip-vit-large-patch14", allow_pickle=True)      CN-CLIP
load_system("IDEA-CCNL/Taiyi-CLIP-Roberta-large-326M-Chinese", allow_pickle=True)     Taiyi, images by OpenAI's CLIP
load_system("taiyi:TEXT+VISION")                                Taiyi with another CLIP
load_system("BAAI/AltCLIP"), load_system("mini")                AltCLIP
load_system("open_clip:xlm-roberta-large-ViT-H-14/frozen_laion5b_s13b_b90k")  whatever open_clip loads
load_system("wukong:FILE"), load_system("r2d2:FILE+VOCABULARY") weights and vocabularies that the user brings
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from altdiffusion.altclip.model import EMBEDDED
from altdiffusion.checkpoints import hub, tensor_files
from altdiffusion.devices import choose_device
from altdiffusion.errors import InputError
from altdiffusion.evaluation.systems.altclip import load_altclip
from altdiffusion.evaluation.systems.base import System
from altdiffusion.evaluation.systems.chinese_clip import load_chinese_clip
from altdiffusion.evaluation.systems.clip import load_clip
from altdiffusion.evaluation.systems.dual_encoder import Options
from altdiffusion.evaluation.systems.loading import split_name
from altdiffusion.evaluation.systems.open_clip import load_open_clip
from altdiffusion.evaluation.systems.r2d2 import is_r2d2, load_r2d2, read_r2d2
from altdiffusion.evaluation.systems.taiyi import load_taiyi
from altdiffusion.evaluation.systems.wukong import is_wukong, load_wukong
from altdiffusion.files import local_path

FAMILIES: dict[str, Callable[[str, Options], System]] = {  # by the prefix that names one
    "clip": load_clip,
    "cn-clip": load_chinese_clip,
    "taiyi": load_taiyi,
    "altclip": load_altclip,
    "open_clip": load_open_clip,
    "wukong": load_wukong,
    "r2d2": load_r2d2,
}
_MODEL_TYPES = {"clip": "clip", "chinese_clip": "cn-clip", "altclip": "altclip", "bert": "taiyi"}  # of config.json


def load_system(
    name: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    allow_pickle: bool = False,
    batch_size: int = 64,
) -> System:
    """A system to evaluate. Its features are float32 unit vectors on the CPU whatever it computes in.

    name: a folder, a file or an id on the hub, whose kind is told by its content; "FAMILY:NAME" (see above) where that
        can't be told or isn't wanted; None or "mini": the embedded default.
    device: None takes the best there is. dtype: None means float32, the exact one.
    allow_pickle: read .bin, .pt, .pth, .ckpt (with torch's weights_only); open_clip chooses its files itself, and opens
        pickles with weights_only.
    batch_size: images, and texts, computed at once.
    Raises InputError for what can't be found or read, and for tensors that are missing or left over.
    """
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size}: expected at least 1")
    options = Options(
        choose_device(None if device is None else str(device)), dtype or torch.float32, batch_size, allow_pickle
    )
    given = hub.MINI if name is None else str(name)
    family, colon, rest = given.partition(":")
    if colon and family in FAMILIES:
        return FAMILIES[family](rest, options)
    family, rest = _family(given, options)
    return FAMILIES[family](rest, options)


def _family(name: str, options: Options) -> tuple[str, str]:
    """The family that a model's content shows, and the name that its loader takes."""
    if name == hub.MINI:
        return "altclip", name
    first, _ = split_name(name)  # Taiyi's vision tower or a vocabulary may follow
    path = hub.resolve(first, ["config.json", "open_clip_config.json"])
    if path.is_file():
        state = read_r2d2(path, options.allow_pickle)
        for family, fits in (("wukong", is_wukong), ("r2d2", is_r2d2)):
            if fits(state):
                return family, name
        raise InputError(
            f"{path} is neither Wukong nor R2D2: its tensors are named like {', '.join(sorted(state)[:3]) or 'nothing'}; "
            "other systems are folders or repositories"
        )
    if (path / EMBEDDED).is_dir():
        return "altclip", name
    if (path / "config.json").is_file():
        config = tensor_files.read_json(path / "config.json")
        kind = str(config.get("model_type", ""))
        classes = config.get("architectures") or []
        if kind in _MODEL_TYPES and (kind != "bert" or "BertForSequenceClassification" in classes):
            return _MODEL_TYPES[kind], name
        if not (path / "open_clip_config.json").is_file():
            raise InputError(
                f"{name} is {', '.join(map(str, classes)) or 'a model'} of type {kind!r}: expected CLIPModel, ChineseCLIPModel, "
                "AltCLIPModel, BertForSequenceClassification (Taiyi), or one of open_clip's"
            )
    if (path / "open_clip_config.json").is_file():
        return "open_clip", f"local-dir:{path}" if local_path(name).is_dir() else f"hf-hub:{name}"
    raise InputError(f"{name} is no model: expected a folder with config.json or open_clip_config.json")
