"""A pipeline in little GPU memory: the text tower stays on the CPU and visits the GPU when a prompt is new.

    pipe = AltDiffusionPipeline.from_pretrained("BAAI/AltDiffusion-m9", low_memory=True)          # or save_memory(pipe)

Images stay the same. As prompts are remembered (`prompt_cache.py`), a negative prompt never comes for a second time.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from transformers import AltCLIPTextModel

from altdiffusion.devices import choose_device
from altdiffusion.errors import InputError
from altdiffusion.text_encoder.forward import CachedForward, patch_forward

logger = logging.getLogger(__name__)


def save_memory(
    pipe: DiffusionPipeline, device: str | torch.device | None = None, *, stream: bool = False
) -> DiffusionPipeline:
    """Put a pipeline that reads prompts with AltCLIP on a device so that it takes little memory there, in place.

    On a GPU: half precision, where it is float32; the text tower is there while it reads, its table of word embeddings
    (0.49 of 1.12 GB in float16) never; the VAE decodes one image after the other. On a CPU only the last: there is no
    other place for the weights, and a warning says so.
    stream: the UNet's weights come from the CPU too, layer by layer while it computes: the least memory, and slower.
    device: by default the best there is. Don't move the pipeline afterwards: `pipe.to` takes the tower along.
    Returns the same pipeline. Raises InputError for a device that isn't there, or another text encoder.
    """
    target = choose_device(None if device is None else str(device))
    parts: dict[str, Any] = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    encoder = parts.get("text_encoder_2", parts.get("text_encoder"))
    tower = getattr(encoder, "tower", encoder)  # AltCLIP's, where a bridge stands behind it
    if not isinstance(tower, AltCLIPTextModel) or not {"unet", "vae"} <= parts.keys():
        raise InputError(f"low memory is for Stable Diffusion with AltCLIP's text encoder, not {type(pipe).__name__}")
    if not isinstance(vars(patch_forward(tower)).get("forward"), CachedForward):
        raise InputError("this pipeline offloads its parts already: save memory in one of the two ways")
    parts["vae"].enable_slicing()
    if target.type == "cpu":
        logger.warning("low memory on a CPU: VAE slicing alone, as there is no other place to keep the weights")
    elif parts["unet"].dtype == torch.float32:
        pipe.to(dtype=torch.float16)

    bridge = getattr(encoder, "bridge", None)
    others = [part for name, part in parts.items() if part is not encoder and not (stream and name == "unet")]
    for part in (*others, *([] if bridge is None else [bridge])):
        part.to(target)
    if stream:
        parts["unet"].enable_group_offload(
            onload_device=target,
            offload_device=torch.device("cpu"),
            offload_type="leaf_level",
            use_stream=target.type == "cuda",
        )
    if target.type != "cpu":
        _visit(tower.to("cpu"), target)
    return pipe


def _visit(tower: AltCLIPTextModel, device: torch.device) -> None:
    """From now on this tower's weights are on the CPU, and on the device while it computes; the table never."""
    reading = vars(tower)["forward"]
    if not isinstance(reading.place, Visit):
        table = tower.get_input_embeddings()
        table.register_forward_pre_hook(_to_the_table)
        table.register_forward_hook(_ToTheTower(tower))
    reading.place = Visit(tower, device)


_ONE_AT_A_TIME = threading.RLock()  # of the module, as a tower must stay copyable


class Visit:
    """Brings a tower's weights to a device, and afterwards puts the ones that lay on the CPU back: nothing is copied back."""

    def __init__(self, tower: AltCLIPTextModel, device: torch.device) -> None:
        self.tower, self.device = tower, device

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        table = self.tower.get_input_embeddings().weight
        with _ONE_AT_A_TIME:
            home = [
                (each, each.data) for each in (*self.tower.parameters(), *self.tower.buffers()) if each is not table
            ]
            try:
                for tensor, data in home:
                    tensor.data = self._bring(data)
                yield
            finally:
                for tensor, data in home:
                    tensor.data = data

    def _bring(self, data: Tensor) -> Tensor:
        return data.to(self.device, non_blocking=True)


def _to_the_table(table: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].to(next(table.parameters()).device),)


class _ToTheTower:
    """What was looked up goes to where the rest of the tower is now."""

    def __init__(self, tower: AltCLIPTextModel) -> None:
        self.tower = tower

    def __call__(self, table: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.to(next(self.tower.pre_LN.parameters()).device)
