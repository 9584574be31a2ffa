"""Build `mini`, the model inside the wheel: AltCLIP's and AltDiffusion's method in miniature, on two CPU cores.

    apt-get install fonts-noto-color-emoji libtcmalloc-minimal4
    LD_PRELOAD=libtcmalloc_minimal.so.4 python pipelines/build_mini.py --out mini-build

An English-only CLIP is the teacher; an XLM-R text tower learns its text space from parallel captions in nine
languages (AltCLIP, phase 1); a small latent diffusion model learns to draw from that tower's states (AltDiffusion).
Each stage is kept in --out, so an interrupted build goes on where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import (
    AltCLIPTextConfig,
    AltCLIPTextModel,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    XLMRobertaTokenizer,
)

from altdiffusion import AltDiffusionPipeline
from altdiffusion.conversion import forget_paths
from altdiffusion.files import write_text
from altdiffusion.text_encoder import MAX_TOKENS, equip
from altdiffusion.training.glyphs import COLOURS, CONCEPTS, DRAWN, LANGUAGES, caption, concept_names, held_out, render

TEXT_WIDTH = 192
STEPS = {"teacher": 400, "distill": 1500, "vae": 8000, "unet": 5000}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the mini model, stage by stage.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the stages and the finished pipeline")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything, to see that it runs")
    arguments = parser.parse_args()
    steps = dict.fromkeys(STEPS, 5) if arguments.smoke else STEPS
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    data = NamedPictures()
    teacher, teacher_tokenizer = clip_teacher(arguments.out, data, steps["teacher"])
    encoder, tokenizer = distill(arguments.out, data, teacher, teacher_tokenizer, steps["distill"])
    vae = autoencoder(arguments.out, data, steps["vae"])
    unet = diffusion(arguments.out, data, encoder, tokenizer, vae, steps["unet"])

    pipeline = AltDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=noise_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(arguments.out / "mini")
    forget_paths(arguments.out / "mini")
    write_text(arguments.out / "mini" / "README.md", CARD)
    log(f"saved {arguments.out / 'mini'}")


CARD = f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
language: [{", ".join(LANGUAGES)}]
---

# mini

AltDiffusion in miniature, the embedded default of `altdiffusion`: it draws {len(DRAWN)} things at 64 x 64 pixels, on ten
background colours, from prompts in nine languages. It serves for trying things out and for tests, nothing else.

- **Made by** `pipelines/build_mini.py`: an English-only CLIP teacher; an XLM-R text tower distilled from it on parallel captions
  (AltCLIP's phase 1, arXiv 2211.06679); a small VAE; a UNet trained on that tower's states (AltDiffusion, arXiv 2308.09991).
- **Time**: about an hour and a half on two CPU cores. This version was made in several runs: the teacher and the text tower in
  bfloat16, and the UNet's first 2,000 steps along a learning rate meant for 5,000; else as the recipe stands.
- **Data**: Noto Color Emoji glyphs (SIL Open Font License 1.1), rendered; Unicode's names of them in nine languages
  (Unicode CLDR, as packaged by PyPI's `emoji`); sentences around the names in `altdiffusion/training/glyphs.py`.
- **Figures**: `python pipelines/judge_mini.py --steps 20` finds the right thing in 100 of 100 pictures, in English and in
  Chinese, and in 88 and 90 % of 82 on backgrounds that were never seen with it (nearest of 316 renderings, by pixels).
- **Limits**: one drawing of each thing; no scenes, no styles, no people. Its text tower read the names of {len(CONCEPTS)}
  things, its UNet spent most of its time on {len(DRAWN)}; what it was not taught comes out as something else.
"""


class NamedPictures:
    """Every concept on every background, and captions for them in every language."""

    def __init__(self) -> None:
        self.names = {language: concept_names(language) for language in LANGUAGES}
        pictures = [np.asarray(render(i, c)) for i in range(len(CONCEPTS)) for c in range(len(COLOURS))]
        grid = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        self.pictures = grid.reshape(len(CONCEPTS), len(COLOURS), 3, 64, 64)  # uint8
        self.pairs = [(i, c) for i in range(len(CONCEPTS)) for c in range(len(COLOURS)) if not held_out(i, c)]

    def sample(self, count: int, rng: random.Random, among: str = CONCEPTS) -> list[tuple[int, int]]:
        """(concept, background) pairs of the training set; white is a third of them, as plain captions mean it."""
        concepts = [CONCEPTS.index(glyph) for glyph in among]
        pairs = [pair for pair in self.pairs if CONCEPTS[pair[0]] in among]
        return [(rng.choice(concepts), 0) if rng.random() < 0.3 else rng.choice(pairs) for _ in range(count)]

    def captions(self, pairs: Iterable[tuple[int, int]], languages: list[str], rng: random.Random) -> list[list[str]]:
        """One list of parallel captions for each of `languages`."""
        texts: list[list[str]] = [[] for _ in languages]
        for concept, colour in pairs:
            template, named = rng.randrange(6), rng.random()
            for column, language in zip(texts, languages, strict=True):
                same_choice = random.Random(named)  # "white" is named in both languages or in none
                column.append(caption(self.names[language][concept], colour, language, template, same_choice))
        return texts

    def images(self, pairs: list[tuple[int, int]]) -> Tensor:
        """float (batch, 3, 64, 64) in [-1, 1]."""
        concepts, colours = torch.tensor(pairs).unbind(1)
        return self.pictures[concepts, colours].float() / 127.5 - 1


def clip_teacher(out: Path, data: NamedPictures, steps: int) -> tuple[CLIPModel, CLIPTokenizer]:
    """An English-only CLIP, trained from nothing on pictures and their English captions."""
    folder = out / "teacher"
    if folder.exists():
        return CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    rng = random.Random(1)
    corpus = (data.captions(data.sample(64, rng), ["en"], rng)[0] for _ in range(400))
    tokenizer = CLIPTokenizer().train_new_from_iterator(corpus, vocab_size=2400)
    tokenizer.model_max_length = MAX_TOKENS
    text = dict(vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=768, num_hidden_layers=4)
    text |= dict(num_attention_heads=4, projection_dim=128, eos_token_id=tokenizer.eos_token_id)
    text |= dict(bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id)
    vision = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4)
    vision |= dict(image_size=64, patch_size=16, projection_dim=128)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)
    config._attn_implementation = "eager"  # faster than SDPA on shapes this small
    teacher = CLIPModel(config)

    def loss() -> Tensor:
        pairs = data.sample(256, rng)
        inputs = tokenizer(data.captions(pairs, ["en"], rng)[0], padding=True, return_tensors="pt")
        logits = teacher(**inputs, pixel_values=data.images(pairs)).logits_per_image
        target = torch.arange(len(pairs))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    fit(teacher, loss, steps, learning_rate=1e-3, state=out / "teacher.pt")
    tokenizer.save_pretrained(folder)
    teacher.save_pretrained(folder)
    return teacher.eval(), tokenizer


def distill(
    out: Path, data: NamedPictures, teacher: CLIPModel, teacher_tokenizer: CLIPTokenizer, steps: int
) -> tuple[AltCLIPTextModel, XLMRobertaTokenizer]:
    """AltCLIP's phase 1: the student's [CLS] state for a caption in any language is pulled to the
    teacher's end-of-text state for the English one, by mean squared error."""
    folder = out / "student"
    if folder.exists():
        encoder = equip(AltCLIPTextModel.from_pretrained(folder).eval())
        return encoder, XLMRobertaTokenizer.from_pretrained(folder)
    rng = random.Random(2)
    corpus = (itertools.chain(*data.captions(data.sample(16, rng), list(LANGUAGES), rng)) for _ in range(800))
    tokenizer = XLMRobertaTokenizer().train_new_from_iterator(corpus, vocab_size=6000)
    tokenizer.model_max_length = MAX_TOKENS
    config = AltCLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS + 3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        project_dim=TEXT_WIDTH,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config._attn_implementation = "eager"
    config.use_attention_mask = True  # tells Stable Diffusion pipelines to pass the mask
    student = AltCLIPTextModel(config)

    def loss() -> Tensor:
        pairs = data.sample(256, rng)
        language = rng.choice(LANGUAGES)
        english, translated = data.captions(pairs, ["en", language], rng)
        with torch.no_grad():
            inputs = teacher_tokenizer(english, padding=True, return_tensors="pt")
            target = teacher.text_model(**inputs).pooler_output
        inputs = tokenizer(translated, padding=True, return_tensors="pt")
        return F.mse_loss(student(**inputs).pooler_output, target)

    fit(student, loss, steps, learning_rate=1.5e-3, state=out / "student.pt")
    tokenizer.save_pretrained(folder)
    student.save_pretrained(folder)
    return equip(student.eval()), tokenizer


def autoencoder(out: Path, data: NamedPictures, steps: int) -> AutoencoderKL:
    """64 x 64 pixels to 16 x 16 latents of 4 channels."""
    folder = out / "vae"
    if folder.exists():
        return AutoencoderKL.from_pretrained(folder).eval()
    rng = random.Random(3)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        norm_num_groups=16,
        sample_size=64,
    ).to(memory_format=torch.channels_last)

    def loss(error: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        images = data.images(data.sample(4, rng)).to(memory_format=torch.channels_last)
        posterior = vae.encode(images).latent_dist
        return error(vae.decode(posterior.sample()).sample, images) + 1e-5 * posterior.kl().mean() / 1024

    # absolute error finds the outlines; squared error then cares for the colours of small things
    fit(vae, lambda: loss(F.l1_loss), steps // 2, learning_rate=1e-3, state=out / "vae.pt", ema_decay=0.998)
    fit(vae, lambda: loss(F.mse_loss), steps // 2, learning_rate=1.5e-3, state=out / "vae-squared.pt", ema_decay=0.998)
    vae.eval()
    with torch.no_grad():
        latents = vae.encode(data.images(data.sample(256, rng))).latent_dist.mean
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    vae.save_pretrained(folder)
    return vae


def diffusion(
    out: Path,
    data: NamedPictures,
    encoder: AltCLIPTextModel,
    tokenizer: XLMRobertaTokenizer,
    vae: AutoencoderKL,
    steps: int,
) -> UNet2DConditionModel:
    """A UNet that predicts v from noisy latents and the text tower's states; a tenth of the captions are empty."""
    rng = random.Random(4)
    scheduler = noise_scheduler()
    with torch.no_grad():
        flat = data.pictures.flatten(0, 1).split(64)
        latents = torch.cat([vae.encode(chunk.float() / 127.5 - 1).latent_dist.mean for chunk in flat])
        latents = (latents * vae.config.scaling_factor).reshape(len(CONCEPTS), len(COLOURS), 4, 16, 16)
    unet = UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 160),
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=16,
        cross_attention_dim=TEXT_WIDTH,
    ).to(memory_format=torch.channels_last)

    def loss(among: str) -> Tensor:
        pairs = data.sample(24, rng, among)
        texts = [data.captions([pair], [rng.choice(LANGUAGES)], rng)[0][0] for pair in pairs]
        texts = ["" if rng.random() < 0.1 else text for text in texts]
        inputs = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        with torch.no_grad():
            states = encoder(**inputs)[0]
        concepts, colours = torch.tensor(pairs).unbind(1)
        clean = latents[concepts, colours]
        noise = torch.randn_like(clean)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(pairs),))
        noisy = scheduler.add_noise(clean, noise, timesteps).to(memory_format=torch.channels_last)
        target = scheduler.get_velocity(clean, noise, timesteps)
        return F.mse_loss(unet(noisy, timesteps, states).sample.float(), target)

    # all of them teach colours, backgrounds and words; the hundred that are to be drawn well then get the time
    fit(unet, lambda: loss(CONCEPTS), steps * 2 // 5, learning_rate=1e-3, state=out / "unet.pt", ema_decay=0.999)
    fit(unet, lambda: loss(DRAWN), steps * 3 // 5, learning_rate=1e-3, state=out / "unet-drawn.pt", ema_decay=0.999)
    fit(unet, lambda: loss(DRAWN), steps // 5, learning_rate=6e-4, state=out / "unet-more.pt", ema_decay=0.997)
    return unet.eval()


def noise_scheduler() -> DDIMScheduler:
    """Latent diffusion's own betas; v prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def fit(
    model: nn.Module,
    loss: Callable[[], Tensor],
    steps: int,
    learning_rate: float,
    state: Path,
    ema_decay: float = 0.0,
) -> None:
    """AdamW with warm-up and cosine decay; `model` ends as its moving average if a decay is given.

    Progress is kept in `state` every 500 steps. A build that goes on from there begins the stage's random batches anew.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-2, betas=(0.9, 0.98))
    warm_up = min(100, steps // 10 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))
    )
    average = copy.deepcopy(model).requires_grad_(False) if ema_decay else None
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule} | ({"average": average} if average else {})
    first = 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        first = saved.pop("step")
        for name, part in parts.items():
            part.load_state_dict(saved[name])

    # four times float32's speed with AMX, half of it without
    fast_bfloat16 = torch.cpu._is_amx_tile_supported()
    model.train()
    running, since = 0.0, time.monotonic()
    for step in range(first, steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16):
            value = loss()
        if not torch.isfinite(value):
            sys.exit(f"build_mini: the loss became {value.item()} at step {step} of {state.stem}")
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if average is not None:
            decay = min(ema_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 1 - decay)
        running += value.item()
        if (step + 1) % 100 == 0:
            log(f"{state.stem} {step + 1}/{steps} loss {running / 100:.4f} {100 / (time.monotonic() - since):.2f} it/s")
            running, since = 0.0, time.monotonic()
        if (step + 1) % 500 == 0 or step + 1 == steps:
            aside = state.with_suffix(".tmp")
            torch.save({name: part.state_dict() for name, part in parts.items()} | {"step": step + 1}, aside)
            os.replace(aside, state)
    if average is not None:
        model.load_state_dict(average.state_dict())
    model.eval()


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
