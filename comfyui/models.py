"""What the loader nodes give: an AltCLIP and a bridge, found in ComfyUI's model folders, by a path, or on the hub."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management as management
import folder_paths
from torch import Tensor, nn

from altdiffusion import InputError, PromptScorer, load_text_encoder
from altdiffusion.checkpoints import bridge_folder, hub
from altdiffusion.pipelines.soft_swap import check_clips
from altdiffusion.text_encoder.bridge import Bridge, load_bridge
from altdiffusion.text_encoder.bridge_layers import check_altclip
from altdiffusion.text_encoder.soft_prompts import SoftPrompts
from altdiffusion.text_encoder.tokenizer import hub_files

ALTCLIP_FOLDER, BRIDGE_FOLDER = "altclip", "altclip_bridges"  # in ComfyUI's models/
for kind in (ALTCLIP_FOLDER, BRIDGE_FOLDER):
    folder_paths.add_model_folder_path(kind, os.path.join(folder_paths.models_dir, kind))


def find(kind: str, name: str) -> str:
    """A folder of this kind in ComfyUI's models, else the name as the library takes it. Raises InputError for an empty one."""
    if not (name := name.strip()):
        raise InputError(f"no model is named: expected a folder in models/{kind}, a path, an id on the hub, or 'mini'")
    if name not in hub.EMBEDDED:
        for root in folder_paths.get_folder_paths(kind):
            if (folder := Path(root, name)).exists():
                return str(folder)
    return name


class AltCLIP:
    """An AltCLIP, each part of which is loaded when a node first needs it: images alone are scored with the vision tower."""

    def __init__(self, name: str, dtype: str, allow_pickle: bool) -> None:
        """Raises InputError for what is neither here nor on the hub."""
        self.name, self.options = name, {"dtype": dtype, "allow_pickle": allow_pickle}
        hub.resolve(name, hub_files(allow_pickle))

    @cached_property
    def text_encoder(self) -> tuple[Any, Any]:
        """(text tower, its tokenizer)."""
        return load_text_encoder(self.name, **self.options)

    @cached_property
    def scorer(self) -> PromptScorer:
        """Both towers. Raises InputError where there is the text tower alone, as in AltDiffusion."""
        return PromptScorer.from_pretrained(self.name, device="cpu", **self.options)


class LoadedBridge:
    """A bridge and the AltCLIP that it reads, for any of ComfyUI's CLIPs that it was trained for."""

    def __init__(self, name: str, altclip: AltCLIP | None) -> None:
        """altclip: None: the one that the bridge names. Raises InputError for what doesn't fit."""
        bridge = load_bridge(name)
        if not isinstance(bridge, Bridge):
            raise InputError(bridge_folder.no_soft_tokens(name))
        named = bridge.config.text_encoder or (hub.MINI if name == hub.MINI else None)
        if altclip is None and named is None:
            raise InputError(f"the bridge {name} doesn't say which AltCLIP it reads: connect one to its input altclip")
        self.altclip = altclip or AltCLIP(find(ALTCLIP_FOLDER, str(named)), "float32", allow_pickle=False)
        self.bridge = bridge.eval()
        check_altclip(bridge, self.altclip.text_encoder[0])
        self._prompts: WeakKeyDictionary[nn.Module, SoftPrompts] = WeakKeyDictionary()

    def soft_prompts(self, model: nn.Module, tables: list[Tensor]) -> SoftPrompts:
        """What reads texts for the CLIPs in one of ComfyUI's models. tables: their token embeddings, in the bridge's order.

        Clones of a model, with other LoRAs or layers, share it. Raises InputError for a bridge to other CLIPs.
        """
        if model not in self._prompts:
            check_clips(self.bridge, tables)
            bridge = copy.deepcopy(self.bridge)
            bridge.mix_relatives(tables)
            self._prompts[model] = SoftPrompts(*self.altclip.text_encoder, bridge, [])
        return self._prompts[model]


@contextmanager
def on_device(*models: nn.Module) -> Iterator[Any]:
    """Models on the device where ComfyUI computes text encoders, and where it keeps them afterwards."""
    device, home = management.text_encoder_device(), management.text_encoder_offload_device()
    if device != home:
        tensors = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
        management.free_memory(sum(tensor.nbytes for tensor in tensors), device)
    try:
        for model in models:
            model.to(device)
        yield device
    finally:
        for model in models:
            model.to(home)
