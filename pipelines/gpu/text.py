"""Part c: text states of new prompts, and scoring, each beside the bare tower."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from gpu.models import TOKENS, Setup, prompt_ids, release, save_altclip, save_pipeline, saved
from gpu.timing import Row, in_turns, row
from PIL import Image
from transformers import AltCLIPTextModel

from altdiffusion import PromptScorer, load_text_encoder


def text(setup: Setup) -> Iterator[Row]:
    """Text states of new prompts, alone and with the negative prompt; then scoring."""
    folder = saved(setup, "pipeline", save_pipeline)
    ours, words = load_text_encoder(folder, dtype=setup.dtype)
    stock = AltCLIPTextModel.from_pretrained(folder / "text_encoder", dtype=setup.dtype).eval()
    encoders = {"AltCLIPTextModel, padded to 77": stock.to(setup.device), "ours": ours.to(setup.device)}
    negative = words([""], padding="max_length", max_length=77, return_tensors="pt").to(setup.device)
    for count in setup.prompts:
        yield from text_states(setup, count, encoders, {k: v.repeat(count, 1) for k, v in negative.items()})
    del stock, ours, encoders
    release()
    yield from scoring(setup)


def text_states(setup: Setup, count: int, encoders: Mapping[str, Any], negative: dict[str, Any]) -> Iterator[Row]:
    table = f"Text states: {count} new prompts of {TOKENS} tokens"
    config = encoders["ours"].config
    with torch.no_grad():
        given = next(prompt_ids(setup, count, config))
        states = [encoder(**given)[0].float() for encoder in encoders.values()]
        error = (states[0] - states[1]).abs().max().item()
        for what, more in (("", ()), (', and the negative prompt ""', (negative,))):
            ways = {name: reads(setup, encoder, count, more) for name, encoder in encoders.items()}
            found = in_turns(ways, setup, 10 if setup.on_gpu else 1)
            stock = statistics.median(next(iter(found.values())))
            for name, seconds in found.items():
                median = statistics.median(seconds)
                figures = {"call (ms)": median * 1e3, "prompts a second": count / median, "times stock": stock / median}
                yield row(table, name + what, **figures, **{"largest difference of the states": error})


def reads(setup: Setup, encoder: Any, count: int, more: tuple[dict[str, Any], ...]) -> Callable[[], Any]:
    batches = prompt_ids(setup, count, encoder.config)
    return lambda: [encoder(**each) for each in (next(batches), *more)]


def scoring(setup: Setup) -> Iterator[Row]:
    """Images in files against prompts, beside the vision tower with its pixels at hand on the device."""
    folder = saved(setup, "altclip", save_altclip)
    scorer = PromptScorer.from_pretrained(folder, dtype=setup.dtype, device=str(setup.device))
    (setup.folder / "images").mkdir(exist_ok=True)
    paths = [setup.folder / "images" / f"{number}.jpg" for number in range(setup.images)]
    for path in paths:
        Image.effect_noise((640, 480), 60).convert("RGB").save(path)
    size = scorer.batch_size
    pixels = torch.randn(size, 3, 224, 224, device=setup.device, dtype=setup.dtype).split(min(size, setup.images))[0]
    vision, calls = scorer.model.vision_model, -(-setup.images // size)

    def score() -> None:
        scorer.forget()
        scorer.score(paths, ["一只猫", "a dog", "雪山"])

    @torch.no_grad()
    def bare() -> None:
        for _ in range(calls):
            vision(pixel_values=pixels)

    found = in_turns({"ours, PromptScorer.score, JPEG files": score, "the vision tower alone": bare}, setup)
    bound = setup.images / (calls * len(pixels)) * statistics.median(found["the vision tower alone"])
    for name, seconds in found.items():
        taken = bound if "alone" in name else statistics.median(seconds)
        figures = {"images a second": setup.images / taken, "fraction of the tower": bound / taken}
        yield row(f"Scoring: {setup.images} images (640 x 480) and 3 prompts", name, **figures)
