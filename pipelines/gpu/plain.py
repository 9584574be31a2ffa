"""The plain training loops that `training.py` measures ours beside: what tutorials show."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from gpu.models import Setup, tokenizer
from gpu.timing import timed
from PIL import Image
from transformers import AltCLIPModel, AltCLIPTextModel, AutoTokenizer, CLIPImageProcessor, CLIPTextModel

from altdiffusion.text_encoder.bridge import Bridge
from altdiffusion.text_encoder.soft_tokens import install_soft_tokens, token_table


def steps(setup: Setup, stage: str, batch: int) -> list[float]:
    """Seconds of each step."""
    lines = (setup.folder / "data.jsonl").read_text(encoding="utf-8").splitlines()
    records, picks = [json.loads(line) for line in lines], random.Random(1)
    model, loss_of = {
        "bridge": plain_bridge,
        "align": plain_align,
        "distill": plain_distill,
        "contrast": plain_contrast,
    }[stage](setup)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step() -> None:
        some = picks.choices(records, k=batch)
        with torch.autocast(setup.device.type, torch.bfloat16, enabled=setup.precision == "bf16"):
            loss = loss_of(some)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if not torch.isfinite(loss):
            raise ValueError(f"the loss of the plain loop became {loss.item()}")

    return [timed(step, setup.device) for _ in range(setup.warm_up + setup.train_steps)][setup.warm_up :]


Records = list[dict[str, str]]
Plain = tuple[Any, Callable[[Records], torch.Tensor]]


def padded(words: Any, texts: list[str], device: torch.device) -> Any:
    return words(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").to(device)


def frozen(model: Any, setup: Setup) -> Any:
    return model.to(setup.device, torch.bfloat16 if setup.on_gpu else torch.float32).eval().requires_grad_(False)


def trainable(model: Any, setup: Setup) -> Any:
    return model.to(setup.device, torch.float32).train()


def plain_bridge(setup: Setup) -> Plain:
    """The error of all 77 states and of the words; ours, by the settings, adds what it is asked for, and has literal parts."""
    tower = frozen(AltCLIPTextModel.from_pretrained(setup.folder / "student"), setup)
    clip = frozen(CLIPTextModel.from_pretrained(setup.folder / "clip"), setup)
    words, clip_words = tokenizer(), AutoTokenizer.from_pretrained(setup.folder / "clip")
    table = token_table(clip, len(clip_words))
    config = Bridge.config_class(setup.states, [table.shape[1]], len(table))
    if setup.states != 768:
        config.hidden_size, config.num_attention_heads, config.intermediate_size, config.num_layers = 64, 2, 64, 1
    model = Bridge(config)
    model.set_token_embeddings([table])
    model, vectors = trainable(model, setup), torch.empty(0)
    install_soft_tokens(clip, lambda ids: vectors[-1 - ids])

    def loss(some: Records) -> torch.Tensor:
        nonlocal vectors
        given = padded(words, [each["zh"] for each in some], setup.device)
        english = padded(clip_words, [each["en"] for each in some], setup.device)
        lengths = english.attention_mask.sum(1) - 2
        with torch.no_grad():
            target = clip(english.input_ids)[0]
            states = tower(**given)[0]
        soft = model(states, given.attention_mask, lengths)
        places = torch.arange(77, device=setup.device)
        inside = (places > 0) & (places <= lengths[:, None])
        vectors = soft.embeddings[0][torch.arange(int(lengths.max()), device=setup.device) < lengths[:, None]]
        ids = english.input_ids.clone()
        ids[inside] = -1 - torch.arange(len(vectors), device=setup.device)
        wrong = F.cross_entropy(
            soft.word_logits.flatten(0, 1), english.input_ids[:, 1 : 1 + soft.word_logits.shape[1]].flatten()
        )
        return F.mse_loss(clip(ids)[0].float(), target.float()) + 0.3 * wrong

    return model, loss


def plain_align(setup: Setup) -> Plain:
    """Keys and values of the cross-attention learn; VAE and text tower run at every step."""
    folder = setup.folder / "pipeline"
    unet = trainable(UNet2DConditionModel.from_pretrained(folder / "unet"), setup)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("attn2.to_k" in name or "attn2.to_v" in name)
    vae = frozen(AutoencoderKL.from_pretrained(folder / "vae"), setup)
    tower, words = frozen(AltCLIPTextModel.from_pretrained(folder / "text_encoder"), setup), tokenizer()
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    processor = image_processor(setup.side)

    def loss(some: Records) -> torch.Tensor:
        given = padded(words, [each["zh"] for each in some], setup.device)
        pixels = pixels_of(setup, processor, some)
        with torch.no_grad():
            states = tower(**given)[0]
            latents = vae.encode(pixels.to(vae.dtype)).latent_dist.sample() * vae.config.scaling_factor
        noise, timesteps = torch.randn_like(latents), torch.randint(0, 1000, (len(some),), device=setup.device)
        predicted = unet(scheduler.add_noise(latents, noise, timesteps), timesteps, states).sample
        return F.mse_loss(predicted.float(), noise.float())

    return unet, loss


def plain_distill(setup: Setup) -> Plain:
    """The student's first state learns the teacher's pooled one."""
    student, words = trainable(AltCLIPTextModel.from_pretrained(setup.folder / "student"), setup), tokenizer()
    teacher = frozen(CLIPTextModel.from_pretrained(setup.folder / "clip"), setup)
    teacher_words = AutoTokenizer.from_pretrained(setup.folder / "clip")

    def loss(some: Records) -> torch.Tensor:
        given = padded(words, [each["zh"] for each in some], setup.device)
        with torch.no_grad():
            target = teacher(**padded(teacher_words, [each["en"] for each in some], setup.device)).pooler_output
        return F.mse_loss(student(**given).pooler_output.float(), target.float())

    return student, loss


def plain_contrast(setup: Setup) -> Plain:
    """The text tower learns; the image tower, which is frozen, runs at every step."""
    model, words = trainable(AltCLIPModel.from_pretrained(setup.folder / "altclip"), setup), tokenizer()
    model.vision_model.requires_grad_(False)
    model.visual_projection.requires_grad_(False)
    processor = CLIPImageProcessor.from_pretrained(setup.folder / "altclip")

    def loss(some: Records) -> torch.Tensor:
        given = padded(words, [each["zh"] for each in some], setup.device)
        logits = model(**given, pixel_values=pixels_of(setup, processor, some)).logits_per_text.float()
        target = torch.arange(len(some), device=setup.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    return model, loss


def image_processor(side: int) -> CLIPImageProcessor:
    """To squares of values in -1 to 1, as the VAE takes them."""
    return CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def pixels_of(setup: Setup, processor: CLIPImageProcessor, some: Records) -> torch.Tensor:
    images = [Image.open(setup.folder / each["image"]).convert("RGB") for each in some]
    return processor(images, return_tensors="pt")["pixel_values"].to(setup.device)
