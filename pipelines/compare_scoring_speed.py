"""Scoring speed beside the usual ways, on the same model in one run: captions and pictures a second.

    python pipelines/compare_scoring_speed.py text       # 5,000 captions, half of them Chinese, through XLM-R large
    python pipelines/compare_scoring_speed.py images     # JPEG files of 640 x 480 through ViT-L/14, against 10 prompts

Random weights at full size; on a GPU if there is one. On two CPU cores `text` takes an hour: `--padded 640` gives the first
contender, to which every caption costs the same, a sample. `--layers 1 --width 64 --captions 50 --pictures 8` is a quick look.
Wants 4 GB of memory.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import AltCLIPConfig, AltCLIPModel, CLIPImageProcessor

from altdiffusion import AltCLIPProcessor, PromptScorer
from altdiffusion.text_encoder import load_tokenizer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH = 64
# A caption of Flickr30k has 12.3 words, with a standard deviation of 5.2.
MEDIAN_WORDS, SPREAD = 11.3, 0.42
# One token each in mini's vocabulary, which is at hand; to XLM-R's larger one most common words are.
WORDS = {
    "en": ["photo", "cat", "on", "green", "blue", "dog", "house", "tree", "water", "in", "an", "car"],
    "zh": ["红", "猫", "的", "绿", "草", "上", "小", "蓝", "天", "狗", "树", "鱼"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Scoring speed beside the usual ways.")
    parser.add_argument("what", choices=["text", "images"])
    parser.add_argument("--captions", type=int, default=5000)
    parser.add_argument("--padded", type=int, help="captions for the contender that pads to 77; all by default")
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--layers", type=int, default=24, help="of each tower")
    parser.add_argument("--width", type=int, default=1024, help="of each tower")
    given = parser.parse_args()
    model, processor = build(given.layers, given.width)
    print(f"{given.layers} layers of {given.width}, {DEVICE.type.upper()}, {torch.get_num_threads()} threads")
    if given.what == "text":
        compare_text(model, processor, captions(given.captions), given.padded or given.captions)
    else:
        with tempfile.TemporaryDirectory() as folder:
            compare_images(model, processor, save_pictures(Path(folder), given.pictures), captions(given.prompts))


def build(layers: int, width: int) -> tuple[AltCLIPModel, AltCLIPProcessor]:
    """transformers' own model, without our trimming. A small vocabulary: looking words up takes no time."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer("mini")
    tower = dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers)
    tower |= dict(num_attention_heads=width // 64)
    text = tower | dict(vocab_size=len(tokenizer), max_position_embeddings=514, project_dim=768)
    config = AltCLIPConfig(text_config=text, vision_config=tower | dict(patch_size=14), projection_dim=768)
    return AltCLIPModel(config).eval().to(DEVICE), AltCLIPProcessor(CLIPImageProcessor(), tokenizer)


def captions(count: int) -> list[str]:
    """Different ones, of the lengths that captions have; every second in Chinese."""
    rng, found = random.Random(0), dict[str, None]()
    while len(found) < count:
        language = ("en", "zh")[len(found) % 2]
        words = rng.choices(WORDS[language], k=max(3, round(MEDIAN_WORDS * rng.lognormvariate(0, SPREAD))))
        found[(" " if language == "en" else "").join(words)] = None
    return list(found)


def save_pictures(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        Image.effect_noise((640, 480), 60).convert("RGB").save(path)
    return paths


def compare_text(model: AltCLIPModel, processor: AltCLIPProcessor, texts: list[str], padded: int) -> None:
    lengths = [len(row) for row in processor.tokenizer(texts).input_ids]
    limit = 77 * len(lengths) / sum(lengths)
    print(
        f"{len(texts)} captions of {sum(lengths) / len(lengths):.1f} tokens: at most {limit:.2f} times faster than 77"
    )
    scorer = PromptScorer(model, processor)
    slowest, expected = timed(lambda some: encode(model, processor, some, "max_length"), texts[:padded])
    usual, _ = timed(lambda some: encode(model, processor, some, "longest"), texts)
    ours, got = timed(scorer.text_features, texts, scorer.forget)
    show("padded to 77", slowest, "captions", {})
    show(f"each {BATCH} padded to its longest", usual, "captions", {"padded to 77": slowest})
    show("PromptScorer", ours, "captions", {"padded to 77": slowest, "the longest": usual})
    print(f"{ours / slowest / limit:.0%} of the limit; largest difference {(got[:padded] - expected).abs().max():.1e}")


def compare_images(model: AltCLIPModel, processor: AltCLIPProcessor, paths: list[Path], prompts: list[str]) -> None:
    print(f"{len(paths)} pictures, {len(prompts)} prompts")
    scorer = PromptScorer(model, processor)
    size = scorer.batch_size
    pictures = [Image.open(path) for path in paths]
    batches = processor.image_processor(pictures, return_tensors="pt")["pixel_values"].split(size)
    bare, expected = timed(lambda some: torch.cat([image_features(model, each) for each in some]), batches)
    bare *= len(paths) / len(batches)
    features, got = timed(scorer.image_features, paths, scorer.forget)
    scores, _ = timed(lambda some: scorer.score(some, prompts), paths, scorer.forget)
    loop, _ = timed(lambda some: documented_loop(model, processor, some, prompts), paths)
    show("bare model, pixels at hand", bare, "pictures", {})
    show("PromptScorer.image_features, files", features, "pictures", {"the bare model": bare})
    show("loop of transformers' documentation", loop, "pictures", {})
    show("PromptScorer.score, files", scores, "pictures", {"the loop": loop})
    print(f"largest difference {(got - expected).abs().max():.1e}")


def timed(
    work: Callable[[Any], Any], items: Sequence[Any], forget: Callable[[], None] = lambda: None
) -> tuple[float, Any]:
    """(items a second, what came out), after a warm-up on the first few."""
    work(items[: max(1, len(items) // 50)])
    forget()
    begun = time.perf_counter()
    result = work(items)
    return len(items) / (time.perf_counter() - begun), result


@torch.inference_mode()
def encode(model: AltCLIPModel, processor: AltCLIPProcessor, texts: Sequence[str], padding: str) -> Tensor:
    """What most scripts do: batches in the order given."""
    features = []
    for start in range(0, len(texts), BATCH):
        some = list(texts[start : start + BATCH])
        inputs = processor.tokenizer(some, padding=padding, max_length=77, truncation=True, return_tensors="pt")
        features.append(model.get_text_features(**inputs.to(DEVICE)).pooler_output.cpu())
    return F.normalize(torch.cat(features), dim=-1)


@torch.inference_mode()
def image_features(model: AltCLIPModel, pixels: Tensor) -> Tensor:
    return F.normalize(model.get_image_features(pixels.to(DEVICE)).pooler_output, dim=-1).cpu()


@torch.inference_mode()
def documented_loop(
    model: AltCLIPModel, processor: AltCLIPProcessor, paths: Sequence[Path], prompts: list[str]
) -> list[Tensor]:
    """The example of AltCLIP's page, for each picture."""
    found = []
    for path in paths:
        inputs = processor(text=prompts, images=Image.open(path), return_tensors="pt", padding=True)
        found.append(model(**inputs.to(DEVICE)).logits_per_image.softmax(dim=1).cpu())
    return found


def show(name: str, rate: float, unit: str, others: dict[str, float]) -> None:
    ratios = ", ".join(f"{rate / other:.2f} x {what}" for what, other in others.items())
    print(f"{name:36} {rate:9.2f} {unit}/s  {ratios}".rstrip())


if __name__ == "__main__":
    main()
