"""A prompt in another language behind a bridge at CLIP's entrance: AltCLIP's tower, the bridge, and CLIP, beside CLIP alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel

from altdiffusion.benchmark import models
from altdiffusion.benchmark.models import PROJECTED, Sizes
from altdiffusion.benchmark.timing import Comparison, in_turns, timed
from altdiffusion.checkpoints import hub
from altdiffusion.text_encoder.bridge import Bridge, BridgeConfig
from altdiffusion.text_encoder.soft_prompts import SoftPrompts
from altdiffusion.text_encoder.soft_tokenizer import soft_tokenizer
from altdiffusion.text_encoder.tokenizer import load_any_tokenizer

PROMPT = "一只猫在海边的城堡前，月光，非常详细"
ENGLISH = "a cat in front of a castle by the sea, moonlight, highly detailed"
STEPS = 25  # of an image, each with and without the prompt


def measure(sizes: Sizes, device: torch.device) -> Iterator[Comparison]:
    torch.manual_seed(0)
    settings = {"vocab_size": 49408, "hidden_size": PROJECTED, "intermediate_size": 4 * PROJECTED}
    clip = CLIPTextModel(CLIPTextConfig(**settings, num_hidden_layers=sizes.layers // 2, num_attention_heads=12))
    clip = clip.eval().requires_grad_(False).to(device)
    bridge = Bridge(BridgeConfig(PROJECTED)).eval().requires_grad_(False)
    tower = models.our_text_encoder(models.text_tower(replace(sizes, vocabulary=None), device))
    plain = load_any_tokenizer(hub.sd_mini_folder() / "tokenizer")
    tokenizer = soft_tokenizer(plain, SoftPrompts(tower, models.tokenizer(), bridge, [clip]))
    numbers = itertools.count()

    def read(prompt: str) -> Any:
        ids = tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            return clip(ids.to(device))[0]

    ways: dict[str, Callable[[], Any]] = {
        "a new prompt: tower, bridge and CLIP": lambda: read(f"{PROMPT}{next(numbers)}"),
        "one that was read before": lambda: read(PROMPT),
        "an English one: CLIP alone": lambda: read(ENGLISH),
    }
    contenders = in_turns(ways, sizes.rounds, device)
    unet = models.unet(sizes).eval().requires_grad_(False).to(device)
    latents = torch.randn(2, 4, sizes.side // 8, sizes.side // 8, device=device)
    states = torch.randn(2, 77, PROJECTED, device=device)
    with torch.no_grad():
        step = min(timed(lambda: unet(latents, 500, states), device) for _ in range(2))
    share = (contenders[0].median or 0) / (STEPS * step)
    limits = [f"a new prompt takes {100 * share:.2g} % of what {STEPS} steps of the UNet take at {sizes.side}²"]
    yield Comparison("text states of a prompt behind a bridge, float32", contenders, limits=limits)
