"""Loads a system by its name; a new one is a file in this folder and an entry in FAMILIES.

load_system("openai/clip-vit-large-patch14")                    CLIP
load_system("OFA-Sys/chinese-clip-vit-large-patch14", allow_pickle=True)      CN-CLIP
load_system("IDEA-CCNL/Taiyi-CLIP-Roberta-large-326M-Chinese", allow_pickle=True)     Taiyi, images by OpenAI's CLIP
load_system("taiyi:TEXT+VISION")                                Taiyi with another CLIP
load_system("BAAI/AltCLIP"), load_system("mini")                AltCLIP
load_system("google/siglip2-base-patch16-256")                  SigLIP 2, and SigLIP, mSigLIP
load_system("facebook/metaclip-2-worldwide-huge-quickgelu")     MetaCLIP 2
load_system("jinaai/jina-clip-v2")                              jina-clip-v2
load_system("M-CLIP/XLM-Roberta-Large-Vit-L-14", allow_pickle=True)           M-CLIP, images by OpenAI's CLIP
load_system("m-clip:TEXT+VISION")                               M-CLIP with another CLIP
load_system("open_clip:xlm-roberta-large-ViT-H-14/frozen_laion5b_s13b_b90k")  whatever open_clip loads
load_system("wukong:FILE"), load_system("r2d2:FILE+VOCABULARY") weights and vocabularies that the user brings
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from altdiffusion.altclip.model import EMBEDDED
from altdiffusion.checkpoints import hub, tensor_files
from altdiffusion.devices import choose_device
from altdiffusion.errors import InputError
from altdiffusion.evaluation.systems.altclip import load_altclip
from altdiffusion.evaluation.systems.base import Options, System
from altdiffusion.evaluation.systems.chinese_clip import load_chinese_clip
from altdiffusion.evaluation.systems.clip import load_clip, load_metaclip_2
from altdiffusion.evaluation.systems.jina_clip import load_jina_clip
from altdiffusion.evaluation.systems.m_clip import load_m_clip
from altdiffusion.evaluation.systems.open_clip import load_open_clip
from altdiffusion.evaluation.systems.r2d2 import is_r2d2, load_r2d2, read_r2d2
from altdiffusion.evaluation.systems.revision import revision_of
from altdiffusion.evaluation.systems.siglip import load_siglip
from altdiffusion.evaluation.systems.taiyi import load_taiyi
from altdiffusion.evaluation.systems.vocabulary import split_name
from altdiffusion.evaluation.systems.wukong import is_wukong, load_wukong
from altdiffusion.files import local_path


@dataclass(frozen=True)
class Family:
    """How systems of a kind are loaded, and how a model shows that it is one of them: by its config or its tensors."""

    load: Callable[[str, Options], System]
    model_type: str = ""  # of config.json
    architecture: str = ""  # of config.json
    shares_type: bool = False  # models of other kinds have this model_type: the architecture decides
    owns: Callable[[Mapping[str, Tensor]], bool] | None = None  # whether a lone file's tensors are named as theirs


FAMILIES = {  # by the prefix that names one
    "clip": Family(load_clip, "clip", "CLIPModel"),
    "cn-clip": Family(load_chinese_clip, "chinese_clip", "ChineseCLIPModel"),
    "altclip": Family(load_altclip, "altclip", "AltCLIPModel"),
    "taiyi": Family(load_taiyi, "bert", "BertForSequenceClassification", shares_type=True),
    "siglip": Family(load_siglip, "siglip", "SiglipModel"),
    "siglip2": Family(load_siglip, "siglip2", "Siglip2Model"),  # NaFlex; at a fixed size it is stored as a SigLIP
    "metaclip2": Family(load_metaclip_2, "metaclip_2", "MetaClip2Model"),
    "jina-clip": Family(load_jina_clip, "jina_clip", "JinaCLIPModel"),
    "m-clip": Family(load_m_clip, "M-CLIP", "MultilingualCLIP"),
    "open_clip": Family(load_open_clip),
    "wukong": Family(load_wukong, owns=is_wukong),
    "r2d2": Family(load_r2d2, owns=is_r2d2),
}


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
    name = hub.MINI if name is None else str(name)
    family, colon, rest = name.partition(":")
    if not colon or family not in FAMILIES:
        family, rest = _recognise(name, options)
    system = FAMILIES[family].load(rest, options)
    precision = f"{str(options.dtype).removeprefix('torch.')} on {options.device.type}"
    system.protocol |= {"precision": precision, "model": name if family == "open_clip" else revision_of(rest)}
    return system


def _recognise(name: str, options: Options) -> tuple[str, str]:
    """The family that a model's content shows, and the name that its loader takes."""
    if name == hub.MINI:
        return "altclip", name
    model, _ = split_name(name)  # Taiyi's vision tower or a vocabulary may follow
    path = hub.resolve(model, ["config.json", "open_clip_config.json"])
    if path.is_file():
        return _owner(path, read_r2d2(path, options.allow_pickle)), name
    if (path / EMBEDDED).is_dir():
        return "altclip", name
    if (path / "config.json").is_file():
        config = tensor_files.read_json(path / "config.json")
        if family := _family_of_config(config):
            return family, name
        if not (path / "open_clip_config.json").is_file():
            architectures = ", ".join(map(str, config.get("architectures") or [])) or "a model"
            known = ", ".join(family.architecture for family in FAMILIES.values() if family.architecture)
            raise InputError(
                f"{name} is {architectures} of type {str(config.get('model_type', ''))!r}: expected {known}, or one of "
                "open_clip's"
            )
    if (path / "open_clip_config.json").is_file():
        return "open_clip", f"local-dir:{path}" if local_path(name).is_dir() else f"hf-hub:{name}"
    raise InputError(f"{name} is no model: expected a folder with config.json or open_clip_config.json")


def _family_of_config(config: Mapping[str, Any]) -> str | None:
    architectures = config.get("architectures") or []
    for name, family in FAMILIES.items():
        if family.model_type and family.model_type == str(config.get("model_type", "")):
            return name if not family.shares_type or family.architecture in architectures else None
    return None


def _owner(path: Path, state: Mapping[str, Tensor]) -> str:
    for name, family in FAMILIES.items():
        if family.owns is not None and family.owns(state):
            return name
    raise InputError(
        f"{path} is neither Wukong nor R2D2: its tensors are named like {', '.join(sorted(state)[:3]) or 'nothing'}; "
        "other systems are folders or repositories"
    )
