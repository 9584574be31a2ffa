"""LoRAs of random numbers, as kohya's scripts and as diffusers write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

RANK, ALPHA = 2, 1.0
CLIP = "text_model_encoder_layers_0_self_attn_q_proj"


def projections(unet: Any) -> dict[str, Tensor]:
    """The weights of the UNet's attention that LoRAs change, by the module's name."""
    modules = dict(unet.named_modules())
    return {
        name: modules[name].weight for name in modules if name.endswith(("to_q", "to_k", "to_v")) and "attn" in name
    }


def matrices(unet: Any, seed: int, width: int | None = None) -> dict[str, tuple[Tensor, Tensor]]:
    """(down, up) for each projection. width: of the text states that cross-attention reads, where not the UNet's own."""
    numbers = torch.Generator().manual_seed(seed)
    found = {}
    for name, weight in projections(unet).items():
        wide = width if width and "attn2" in name and not name.endswith("to_q") else weight.shape[1]
        found[name] = (
            0.6 * torch.randn(RANK, wide, generator=numbers),
            0.6 * torch.randn(weight.shape[0], RANK, generator=numbers),
        )
    return found


def save_kohya(path: Path, unet: Any, seed: int = 0, *, clip: bool = True, width: int | None = None) -> Path:
    """clip: with the half for CLIP's text encoder."""
    state: dict[str, Tensor] = {}
    for name, (down, up) in matrices(unet, seed, width).items():
        key = f"lora_unet_{name.replace('.', '_')}"
        state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(ALPHA)}
    if clip:
        key = f"lora_te_{CLIP}"
        state |= {f"{key}.lora_down.weight": torch.randn(RANK, 768), f"{key}.lora_up.weight": torch.randn(768, RANK)}
        state[f"{key}.alpha"] = torch.tensor(ALPHA)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata={"ss_network_module": "networks.lora"})
    return path


def save_diffusers(path: Path, unet: Any, seed: int = 0) -> Path:
    state: dict[str, Tensor] = {}
    for name, (down, up) in matrices(unet, seed).items():
        state |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    return path


@torch.no_grad()
def merge(unet: Any, seed: int, weight: float, scale: float = ALPHA / RANK) -> Any:
    """Add a LoRA to the UNet's own weights, in place: the oracle. scale: alpha / rank, 1 in diffusers' files."""
    for name, (down, up) in matrices(unet, seed).items():
        projections(unet)[name] += weight * scale * (up @ down)
    return unet
