"""The hidden states that a bridge is trained on: AltCLIP's go in, those of a Stable Diffusion's own CLIP should come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from altdiffusion.checkpoints import hub, tensor_files
from altdiffusion.errors import InputError
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS, load_any_tokenizer, pad

# What is downloaded of a Stable Diffusion whose text encoders and UNet are wanted: each weight once, in full precision.
STABLE_DIFFUSION_FILES = [
    *("model_index.json", "text_encoder*/*.json", "tokenizer*/*", "unet/*.json", "scheduler/*.json"),
    *("text_encoder*/model.safetensors", "text_encoder*/model-*.safetensors"),
    *("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model-*.safetensors"),
]

_PICKLES = [
    *("text_encoder*/pytorch_model.bin", "text_encoder*/pytorch_model-*.bin"),
    *("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model-*.bin"),
]


def stable_diffusion_folder(model: str | Path, allow_pickle: bool = False) -> Path:
    """The folder of a Stable Diffusion with its text encoders and UNet, which are downloaded where it is on the hub.

    allow_pickle: its .bin files, too, where a part has no others.
    Raises InputError where there are pickles alone and they are not allowed.
    """
    root = hub.resolve(model, STABLE_DIFFUSION_FILES)
    encoders, unet = sorted(root.glob("text_encoder*")), root / "unet"
    parts = [*encoders, *([unet] if unet.is_dir() else [])]
    if allow_pickle and not hub.is_local(model) and not all(any(part.glob("*.safetensors")) for part in parts):
        root = hub.resolve(model, [*STABLE_DIFFUSION_FILES, *_PICKLES])
    if not allow_pickle:
        for encoder in encoders:
            tensor_files.weight_files(encoder, use_safetensors=True)
        if unet.is_dir():
            tensor_files.refuse_pickles(unet)
    return root


class ClipStates:
    """What a Stable Diffusion's own text encoders give its UNet.

    Stable Diffusion 1.x and 2.x: the last hidden states, 77 x 768 or 1024. XL: the penultimate hidden states of both
    encoders side by side, 77 x 2048, and the second one's projected vector, 1280.
    Raises InputError where there is no CLIP.
    """

    def __init__(self, root: Path, device: torch.device, dtype: torch.dtype) -> None:
        """root: of a Stable Diffusion in diffusers' layout. Raises InputError."""
        if not (root / "text_encoder").is_dir():
            raise InputError(f"no text_encoder/ in {root}: expected a Stable Diffusion in diffusers' layout")
        kind = tensor_files.read_config_type(root / "text_encoder")
        if kind != "clip_text_model":
            raise InputError(
                f"the text encoder of {root} is {kind!r}: a bridge leads to CLIP's, so expected one trained with it"
            )
        self.root = root
        towers = [tensor_files.load_strict(CLIPTextModel, root / "text_encoder")]
        tokenizers = [load_any_tokenizer(root / "tokenizer")]
        if (root / "text_encoder_2").is_dir():
            towers.append(tensor_files.load_strict(CLIPTextModelWithProjection, root / "text_encoder_2"))
            tokenizers.append(load_any_tokenizer(root / "tokenizer_2"))
        self.towers = [tower.eval().requires_grad_(False).to(device, dtype) for tower in towers]
        self.tokenizer = tokenizers[0]  # both of XL's cut words alike; they differ in the padding
        self._padding = [tokenizer.pad_token_id for tokenizer in tokenizers]
        self.width = sum(int(tower.config.hidden_size) for tower in self.towers)
        self.pooled_width = int(self.towers[1].config.projection_dim) if len(self.towers) > 1 else 0

    @torch.no_grad()
    def joined(self, ids: Sequence[Sequence[int]], length: int = MAX_TOKENS) -> Tensor:
        """float32 (batch, length, width); of XL (batch, length + 1, width), whose last row begins with the projected vector.

        length: of the rows that CLIP reads; what lies behind it changes nothing before it.
        """
        return self.of_rows(ids, length)

    def of_rows(self, ids: Sequence[Sequence[int]], length: int = MAX_TOKENS) -> Tensor:
        """As `joined`, with gradients: ids below zero are soft tokens, see text_encoder.soft_tokens."""
        device = self.towers[0].device
        if not self.pooled_width:
            last: Tensor = self.towers[0](pad(ids, self._padding[0], length)[0].to(device))[0]
            return last.float()
        outputs = [
            tower(pad(ids, padding, length)[0].to(device), output_hidden_states=True)
            for tower, padding in zip(self.towers, self._padding, strict=True)
        ]
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1).float()
        pooled = outputs[1].text_embeds.float()
        row = pooled.new_zeros(len(states), 1, self.width)
        row[:, 0, : pooled.shape[1]] = pooled
        return torch.cat([states, row], dim=1)

    def end_states(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """float32 (batch, width): of the last encoder, the state at the end of each text."""
        states = self.of_rows(ids)
        ends = torch.tensor([min(len(row), MAX_TOKENS) - 1 for row in ids], device=states.device)
        return states[torch.arange(len(ids), device=states.device), ends]


def altclip_states(encoder: Any, padding: int) -> Callable[[Sequence[Sequence[int]]], list[Tensor]]:
    """Token ids -> the frozen encoder's states, float32 (tokens, width) for each text, without padding."""

    @torch.no_grad()
    def read(ids: Sequence[Sequence[int]]) -> list[Tensor]:
        input_ids, mask = pad(ids, padding)
        states = encoder(input_ids=input_ids.to(encoder.device), attention_mask=mask.to(encoder.device))[0].float()
        return [rows[: len(row_ids)] for rows, row_ids in zip(states, ids, strict=True)]

    return read


def stack_states(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Of texts, (tokens, width) each: (batch, longest, width), zero beyond each one's end, and the mask (batch, longest)."""
    lengths = torch.tensor(list(map(len, states)), device=states[0].device)
    mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
    return nn.utils.rnn.pad_sequence(list(states), batch_first=True), mask
