"""How often mini draws what it was asked for: the share of pictures whose nearest rendering shows the right concept.

    python pipelines/judge_mini.py [--model mini-build/mini] [--sheet sheet.png]

Each thing that mini draws is drawn once in each language, by its name alone and on a background that was never seen with
it in training. The judge is no network but the pixels: of all 316 rendered glyphs on the same background, the one with
the smallest squared difference. Chance is 0.3 %.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from altdiffusion import AltDiffusionPipeline
from altdiffusion.training.glyphs import (
    COLOUR_NAMES,
    COLOURED,
    COLOURS,
    CONCEPTS,
    DRAWN,
    PLAIN,
    concept_names,
    held_out,
    render,
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Share of right pictures by language.")
    parser.add_argument("--model", default=None, help="folder (default: the embedded mini)")
    parser.add_argument("--languages", nargs="+", default=["en", "zh"])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance-scale", type=float, default=7.5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sheet", type=Path, default=None, help="write the pictures of the last language here")
    arguments = parser.parse_args()

    pipe = AltDiffusionPipeline.from_pretrained(arguments.model)
    pipe.set_progress_bar_config(disable=True)
    chosen = [CONCEPTS.index(glyph) for glyph in DRAWN]
    rng = random.Random(0)
    unseen = {i: [c for c in range(len(COLOURS)) if held_out(i, c)] for i in chosen}
    pairs = {
        "plain": [(i, 0) for i in chosen],
        "pairs never seen together": [(i, rng.choice(unseen[i])) for i in chosen if unseen[i]],
    }
    print(f"{'language':10} {'prompts':28} right")
    for language in arguments.languages:
        names = concept_names(language)
        for kind, asked in pairs.items():
            colours = COLOUR_NAMES[language]
            prompts = [
                (PLAIN if kind == "plain" else COLOURED)[language][0].format(n=names[i], c=colours[c]) for i, c in asked
            ]
            pictures = []
            for start in range(0, len(prompts), arguments.batch):
                batch = prompts[start : start + arguments.batch]
                generators = [torch.Generator().manual_seed(start + i) for i in range(len(batch))]
                pictures += pipe(
                    batch,
                    num_inference_steps=arguments.steps,
                    guidance_scale=arguments.guidance_scale,
                    generator=generators,
                ).images
            right = sum(nearest(picture, c) == i for picture, (i, c) in zip(pictures, asked, strict=True))
            print(f"{language:10} {kind:28} {100 * right / len(asked):.1f} % of {len(asked)}", flush=True)
    if arguments.sheet:
        sheet(pictures).save(arguments.sheet)


_RENDERED: dict[int, np.ndarray] = {}


def nearest(picture: Image.Image, colour: int) -> int:
    """The concept whose rendering on this background differs least from the picture."""
    if colour not in _RENDERED:
        _RENDERED[colour] = np.stack([np.asarray(render(i, colour), np.float32) for i in range(len(CONCEPTS))])
    difference = _RENDERED[colour] - np.asarray(picture.convert("RGB"), np.float32)
    return int(np.square(difference).mean((1, 2, 3)).argmin())


def sheet(pictures: list[Image.Image], columns: int = 20) -> Image.Image:
    rows = -(-len(pictures) // columns)
    width, height = pictures[0].size
    canvas = Image.new("RGB", (columns * width, rows * height), "white")
    for index, picture in enumerate(pictures):
        canvas.paste(picture, (index % columns * width, index // columns * height))
    return canvas


if __name__ == "__main__":
    main()
