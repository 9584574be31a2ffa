"""comfyui/ loaded as ComfyUI loads it, without ComfyUI: what of ComfyUI the nodes call is stood in for here.

The tokens are the same data as ComfyUI's, {"l": [[(id or vector, weight), ...77], ...]}, by SD-mini's tokenizer; the conditioning
is [[states, {}]]. What the real one does with them is checked by `pipelines/comfyui_check.py`.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from altdiffusion.text_encoder.soft_tokens import embedding_layer

FOLDER = Path(__file__).parents[2] / "comfyui"


@contextmanager
def loaded_nodes(models: Path) -> Iterator[ModuleType]:
    """The package, with its modules as attributes. models: ComfyUI's folder of that name."""
    before = dict(sys.modules)
    management = ModuleType("comfy.model_management")
    vars(management).update({name: lambda: torch.device("cpu") for name in (
        "text_encoder_device", "text_encoder_offload_device", "intermediate_device")})  # fmt: skip
    weights = ModuleType("comfy.sd1_clip")
    vars(weights).update(token_weights=token_weights, escape_important=escaped, unescape_important=unescaped)
    folders: dict[str, list[str]] = {}
    paths = ModuleType("folder_paths")
    vars(paths).update(models_dir=str(models), get_folder_paths=folders.get)
    vars(paths).update(add_model_folder_path=lambda kind, folder: folders.setdefault(kind, []).append(folder))
    comfy = ModuleType("comfy")
    vars(comfy).update(model_management=management, sd1_clip=weights)
    sys.modules |= {
        "comfy": comfy,
        "comfy.model_management": management,
        "comfy.sd1_clip": weights,
        "folder_paths": paths,
    }
    name = str(FOLDER).replace(".", "_x_")  # ComfyUI names a custom node's module so
    spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr]
        yield module
    finally:
        for added in set(sys.modules) - set(before):
            if added.startswith((name, "comfy", "folder_paths")):
                del sys.modules[added]


def escaped(text: str) -> str:
    return text.replace("\\(", "\ue000").replace("\\)", "\ue001")


def unescaped(text: str) -> str:
    return text.replace("\ue000", "(").replace("\ue001", ")")


def token_weights(text: str, weight: float) -> list[tuple[str, float]]:
    """[(text, its weight)]: (word) is 1.1 times what is around it, (word:1.3) is 1.3 whatever is around it."""
    parts, depth, start = [], 0, 0
    for at, sign in enumerate([*text, ""]):
        if sign in ("(", "") and depth == 0:
            parts += [(text[start:at], weight)] if start < at else []
            start = at
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if sign == ")" and depth == 0:
            inside, colon, number = text[start + 1 : at].rpartition(":")
            is_number = bool(colon and inside and re.fullmatch(r"-?[\d.e-]+", number))
            parts += (
                token_weights(inside, float(number)) if is_number else token_weights(text[start + 1 : at], weight * 1.1)
            )
            start = at + 1
    return parts


class FakeCLIP:
    """What ComfyUI gives the nodes as a CLIP, over the CLIPs of a small diffusers pipeline (helpers.bridges.readable)."""

    def __init__(self, pipe: Any, inversions: dict[str, Tensor] | None = None) -> None:
        self.hf, self.inversions = pipe.tokenizer, inversions or {}
        self.encoders = {"l": pipe.text_encoder} | (
            {"g": pipe.text_encoder_2} if getattr(pipe, "text_encoder_2", None) else {}
        )
        self.cond_stage_model = nn.Module()
        for name, encoder in self.encoders.items():
            inner = nn.Module()
            inner.transformer = encoder
            setattr(self.cond_stage_model, f"clip_{name}", inner)
        vocabulary = {value: key for key, value in self.hf.get_vocab().items()}
        self.tokenizer = SimpleNamespace(clip_l=SimpleNamespace(inv_vocab=vocabulary))

    def tokenize(self, text: str) -> dict[str, list[list[tuple[Any, float]]]]:
        """Parts of different weights are tokenized apart and put into rows of 77, torn where a row is full."""
        flat: list[tuple[Any, float]] = []
        for part, weight in token_weights(escaped(text), 1.0):
            for word in re.split(r"(embedding:\w+)", unescaped(part)):
                if word.startswith("embedding:"):
                    flat += [(vector, weight) for vector in self.inversions[word.removeprefix("embedding:")]]
                else:
                    flat += [(token, weight) for token in self.hf(word, add_special_tokens=False)["input_ids"]]
        begin, end = self.hf.bos_token_id, self.hf.eos_token_id
        rows = {}
        for name in self.encoders:
            padding = [(end if name == "l" else 2, 1.0)]  # XL's second CLIP pads with another token
            parts = [flat[at : at + 75] for at in range(0, len(flat), 75)] or [[]]
            rows[name] = [[(begin, 1.0), *part, (end, 1.0), *padding * (75 - len(part))] for part in parts]
        return rows

    def encode_from_tokens_scheduled(self, tokens: dict[str, list[list[tuple[Any, float]]]]) -> Any:
        """[[states, the tokens]]: without weights, as far as the first CLIP reads them."""
        self.read = tokens
        return [[_states(self.encoders["l"], tokens["l"]), {}]]


@torch.no_grad()
def _states(encoder: Any, rows: list[list[tuple[Any, float]]]) -> Tensor:
    """The last hidden states, one row behind the other. Vectors stand behind the table of token embeddings for that time."""
    layer = embedding_layer(encoder).token_embedding
    table = layer.weight
    vectors: list[Tensor] = []
    ids = []
    for row in rows:
        for token, _ in row:
            ids.append(len(table) + len(vectors) if isinstance(token, Tensor) else token)
            vectors += [token] * isinstance(token, Tensor)
    layer.weight = nn.Parameter(torch.cat([table, *(vector[None] for vector in vectors)]))
    try:
        states = encoder(input_ids=torch.tensor(ids).reshape(len(rows), -1)).last_hidden_state
    finally:
        layer.weight = table
    return states.flatten(0, 1)[None]
