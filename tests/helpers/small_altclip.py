"""A full AltCLIP in a published layout, small, whose features differ from text to text and from image to image."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AltCLIPModel, CLIPImageProcessor

from helpers import layouts

SIDE = 32  # of the images that the model sees, in pixels


def save_small(folder: Path, m18: bool = False) -> AltCLIPModel:
    """Returns the oracle: transformers' own class with the same tensors."""
    oracle = layouts.save_altclip(folder, m18)
    state = {key: value.clone() for key, value in load_file(folder / "model.safetensors").items()}
    for value in state.values():
        if value.dim() > 1:
            torch.nn.init.normal_(value, std=0.3)  # the usual 0.02 gives next to the same for everything
    save_file(state, folder / "model.safetensors")
    stock = {key.replace("encoder.layer.", "encoder.layers."): state[key] for key in state}
    oracle.load_state_dict({key: stock[key] for key in stock if not re.search(r"transformation_pre", key)})
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor.save_pretrained(folder)
    return oracle
