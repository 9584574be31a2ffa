"""A pipeline in little GPU memory: the text tower stays on the CPU and visits the GPU while it encodes prompts.

    pipe = AltDiffusionPipeline.from_pretrained("BAAI/AltDiffusion-m9", low_memory=True)          # or save_memory(pipe)

Images stay the same.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from transformers import AltCLIPTextModel

from altdiffusion.devices import choose_device
from altdiffusion.errors import InputError
from altdiffusion.forward_override import ForwardOverride, find, install
from altdiffusion.text_encoder.forward import TrimmedForward, patch_forward
from altdiffusion.text_encoder.soft_prompts import SoftPrompts

logger = logging.getLogger(__name__)


P = TypeVar("P", bound=DiffusionPipeline)


def save_memory(pipe: P, device: str | torch.device | None = None, *, stream: bool = False) -> P:
    """Put a pipeline that encodes prompts with AltCLIP on a device so that it takes little memory there, in place.

    On a GPU: half precision, where it is float32; the text tower is there while it encodes, its table of word embeddings
    (0.49 of 1.12 GB in float16) never; before a bridge at CLIP's entrance the tower stays on the CPU; the VAE decodes one image
    after the other. On a CPU only the last: there is no other place for the weights, and a warning says so.
    stream: the UNet's weights come from the CPU too, layer by layer while it computes: the least memory, and slower.
    device: by default the best there is. Don't move the pipeline afterwards: `pipe.to` takes the tower along.
    Returns the same pipeline. Raises InputError for a device that isn't there, or another text encoder.
    """
    target = choose_device(None if device is None else str(device))
    parts: dict[str, Any] = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    encoder = parts.get("text_encoder_2", parts.get("text_encoder"))
    prompts: SoftPrompts | None = getattr(getattr(pipe, "tokenizer", None), "soft_prompts", None)
    # AltCLIP's tower: with a bridge behind it, before one, or alone
    tower = getattr(encoder, "tower", encoder) if prompts is None else prompts.tower
    if not isinstance(tower, AltCLIPTextModel) or not {"unet", "vae"} <= parts.keys():
        raise InputError(f"low memory is for Stable Diffusion with AltCLIP's text encoder, not {type(pipe).__name__}")
    if find(patch_forward(tower), TrimmedForward) is None:
        raise InputError("this pipeline offloads its parts already: save memory in one of the two ways")
    parts["vae"].enable_slicing()
    if target.type == "cpu":
        logger.warning("low memory on a CPU: VAE slicing alone, as there is no other place to keep the weights")
    elif parts["unet"].dtype == torch.float32:
        pipe.to(dtype=torch.float16)

    bridge = getattr(encoder, "bridge", None)
    others = [
        part for name, part in parts.items() if (part is not encoder or prompts) and not (stream and name == "unet")
    ]
    for part in (*others, *([] if bridge is None else [bridge])):
        part.to(target)
    if stream:
        parts["unet"].enable_group_offload(
            onload_device=target,
            offload_device=torch.device("cpu"),
            offload_type="leaf_level",
            use_stream=target.type == "cuda",
        )
    if prompts is not None:
        prompts.device = torch.device("cpu")
    elif target.type != "cpu":
        compute_on(tower.to("cpu"), target)
    return pipe


def compute_on(tower: AltCLIPTextModel, device: torch.device) -> None:
    """From now on this tower's weights are on the CPU, and on the device while it computes; its word embeddings never."""
    tower.text_model = install(VisitingForward(tower, device))


_ONE_VISIT_AT_A_TIME = threading.RLock()  # of the module, as a tower must stay copyable


class VisitingForward(TrimmedForward):
    """The tower's forward, with its weights on a device. Afterwards those on the CPU are put back: nothing is copied back."""

    def __init__(self, tower: AltCLIPTextModel, device: torch.device) -> None:
        super().__init__(tower)
        self.device = device

    def arguments(self) -> tuple[torch.device]:
        return (self.device,)

    def original(self, *args: Any, **kwargs: Any) -> Any:
        with self._visit():
            return super().original(*args, **kwargs)

    def final_layer_norm(self, hidden_states: Tensor) -> Tensor:
        """As in `TrimmedForward`."""
        with self._visit():
            return super().final_layer_norm(hidden_states)

    def bring(self, data: Tensor) -> Tensor:
        """A weight's values on the device."""
        return data.to(self.device, non_blocking=True)

    @contextlib.contextmanager
    def _visit(self) -> Iterator[None]:
        table = self.model.get_input_embeddings()
        if find(table, StationaryEmbedding) is None:  # a tower gets a new table with every word that it learns
            install(StationaryEmbedding(table, self.device))
        with _ONE_VISIT_AT_A_TIME:
            tensors = (*self.model.parameters(), *self.model.buffers())
            home = [(tensor, tensor.data) for tensor in tensors if tensor is not table.weight]
            try:
                for tensor, data in home:
                    tensor.data = self.bring(data)
                yield
            finally:
                for tensor, data in home:
                    tensor.data = data


class StationaryEmbedding(ForwardOverride):
    """An embedding that looks up where its weights are, and gives what it found to another device."""

    def __init__(self, table: nn.Module, device: torch.device) -> None:
        super().__init__(table)
        self.device = device

    def arguments(self) -> tuple[torch.device]:
        return (self.device,)

    def __call__(self, input: Tensor) -> Tensor:
        """input: ids, int64 (batch, tokens) -> (batch, tokens, width)."""
        embeddings: Tensor = self.original(input.to(self.model.weight.device)).to(self.device)
        return embeddings
