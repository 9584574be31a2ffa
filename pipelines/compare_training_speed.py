"""Training steps at full size beside a plain PyTorch loop on the same models, data and batch: samples a second and peak memory.

    python pipelines/compare_training_speed.py distill      # XLM-R large, CLIP ViT-L/14's text tower
    python pipelines/compare_training_speed.py contrast     # XLM-R large, ViT-L/14
    python pipelines/compare_training_speed.py align        # Stable Diffusion 1.x's UNet and VAE, XLM-R large; K and V at 256²

Random weights; on a GPU if there is one. The plain loop is what most scripts do: texts padded to 77,
the frozen models run at every step. Each contender runs in a process of its own.
Distill wants 16 GB of memory, contrast and align 12.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    AltCLIPTextConfig,
    AltCLIPTextModel,
    AltCLIPVisionConfig,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
)

from altdiffusion import load_text_encoder
from altdiffusion.text_encoder.tokenizer import load_any_tokenizer, load_tokenizer
from altdiffusion.training.inputs.image_tensors import fit_to, to_tensor, to_unit
from altdiffusion.training.stage_settings import STAGES, run_stage

TOWER = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, vocab_size=250002)
TOWER |= dict(max_position_embeddings=514, project_dim=768, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
VISION = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14)
TEXT = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
CONTENDERS = ("plain PyTorch", "altdiffusion", "altdiffusion, cached")


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed beside a plain loop.")
    parser.add_argument("stage", choices=list(PLAIN))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="timed steps, after two of warm-up")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        run(given.stage, given.contender, given.folder, given.batch_size, given.steps)
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(given.stage, Path(folder))
        results = {}
        for contender in CONTENDERS:
            arguments = [sys.executable, __file__, *sys.argv[1:], "--contender", contender, "--folder", folder]
            result = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
            results[contender] = json.loads(result.stdout.splitlines()[-1])
    plain = results[CONTENDERS[0]]["samples_per_second"]
    print(f"{given.stage}, batch {given.batch_size}, {'GPU' if torch.cuda.is_available() else 'CPU'}")
    for contender, result in results.items():
        rate = result["samples_per_second"]
        print(f"{contender:22} {rate:8.2f} samples/s  {rate / plain:5.2f} x  peak {result['peak_gb']:.1f} GB")


def prepare(stage: str, folder: Path) -> None:
    """Full-size models with random weights, and captions of the length that captions have."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer("mini")
    ids = dict(
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id
    )
    tower = AltCLIPTextConfig(**TOWER, **ids)
    tower.use_attention_mask = True
    words = ["a", "photo", "of", "small", "red", "cat", "on", "the", "green", "grass", "under", "blue", "sky", "and"]
    rng, lines = random.Random(0), []
    (folder / "pictures").mkdir()
    for number in range(64):
        image = Image.effect_noise((256, 256), 60).convert("RGB")
        image.save(folder / f"pictures/{number}.jpg")
        caption = " ".join(rng.choices(words, k=rng.randint(4, 12)))
        lines.append(json.dumps({"image": f"pictures/{number}.jpg", "en": caption, "zh": caption}))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if stage == "distill":
        AltCLIPTextModel(tower).save_pretrained(folder / "student")
        tokenizer.save_pretrained(folder / "student")
        clip_tokenizer = CLIPTokenizer().train_new_from_iterator([words], vocab_size=400)
        clip_ids = dict(eos_token_id=clip_tokenizer.eos_token_id, bos_token_id=clip_tokenizer.bos_token_id)
        clip_ids |= dict(pad_token_id=clip_tokenizer.pad_token_id)
        tiny = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
        CLIPModel(CLIPConfig(text_config=TEXT | clip_ids, vision_config=tiny)).save_pretrained(folder / "teacher")
        clip_tokenizer.save_pretrained(folder / "teacher")
        CLIPImageProcessor().save_pretrained(folder / "teacher")
    if stage == "contrast":
        vision = AltCLIPVisionConfig(**VISION)
        config = AltCLIPConfig(text_config=tower.to_dict(), vision_config=vision.to_dict(), projection_dim=768)
        AltCLIPModel(config).save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        CLIPImageProcessor().save_pretrained(folder / "model")
    if stage == "align":
        pipe = StableDiffusionPipeline(
            vae=AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
            ),
            text_encoder=AltCLIPTextModel(tower),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(cross_attention_dim=768),
            scheduler=DDPMScheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.save_pretrained(folder / "model")


def run(stage: str, contender: str, folder: Path, batch: int, steps: int) -> None:
    """One contender: prints {"samples_per_second", "peak_gb"}, the median step's rate."""
    if contender == CONTENDERS[0]:
        step = PLAIN[stage](folder, batch)
        times = []
        for _ in range(steps + 2):
            begun = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
        rates = [batch / seconds for seconds in times[2:]]
    else:
        out = folder / contender
        settings: dict[str, Any] = dict(train_data=[str(folder / "data.jsonl")], output_dir=out, batch_size=batch)
        settings |= dict(max_train_steps=steps + 2, logging_steps=1, checkpointing_steps=10**6, languages=["zh"])
        if stage == "distill":
            settings |= dict(teacher=str(folder / "teacher"), student=str(folder / "student"))
        elif stage == "contrast":
            settings |= dict(model=str(folder / "model"))
        else:
            settings |= dict(model=str(folder / "model"), trainable="kv", resolution=256)
        if contender == CONTENDERS[2]:
            caches = {
                "distill": ["teacher_cache"],
                "contrast": ["image_cache"],
                "align": ["latent_cache", "text_cache"],
            }
            settings |= {name: folder / name for name in caches[stage]}
        run_stage(stage, STAGES[stage][0](**settings))
        lines = map(json.loads, (out / "log.jsonl").read_text(encoding="utf-8").splitlines())
        rates = [line["samples_per_second"] for line in lines if "loss" in line][2:]
    print(json.dumps({"samples_per_second": statistics.median(rates), "peak_gb": peak_memory()}))


def plain_distill(folder: Path, batch: int) -> Callable[[], None]:
    """Both towers at 77 tokens, the teacher at every step."""
    student, tokenizer = load_text_encoder(folder / "student", dtype=torch.float32)
    teacher = CLIPModel.from_pretrained(folder / "teacher").text_model.to(DEVICE)
    teacher_tokenizer = load_any_tokenizer(folder / "teacher")
    student.train().to(DEVICE)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    records = read(folder)

    def step() -> None:
        some = next_records(records, batch)
        given = at_77_tokens(tokenizer, some, "zh")
        with torch.no_grad():
            target = teacher(**at_77_tokens(teacher_tokenizer, some, "en")).pooler_output
        loss = F.mse_loss(student(**given).pooler_output, target)
        optimize(loss, student, optimizer)

    return step


def plain_contrast(folder: Path, batch: int) -> Callable[[], None]:
    """Texts at 77 tokens, the frozen image tower at every step."""
    model = AltCLIPModel.from_pretrained(folder / "model").to(DEVICE).train()
    model.vision_model.requires_grad_(False)
    model.visual_projection.requires_grad_(False)
    tokenizer, processor = load_any_tokenizer(folder / "model"), CLIPImageProcessor.from_pretrained(folder / "model")
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)
    records = read(folder)

    def step() -> None:
        some = next_records(records, batch)
        texts = at_77_tokens(tokenizer, some, "zh")
        pixels = processor([Image.open(folder / record["image"]) for record in some], return_tensors="pt")[
            "pixel_values"
        ]
        logits = model(**texts, pixel_values=pixels.to(DEVICE)).logits_per_text
        target = torch.arange(batch, device=DEVICE)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimize(loss, model, optimizer)

    return step


def plain_align(folder: Path, batch: int) -> Callable[[], None]:
    """Texts at 77 tokens, VAE and text tower at every step."""
    pipe = StableDiffusionPipeline.from_pretrained(folder / "model", safety_checker=None).to(DEVICE)
    encoder = AltCLIPTextModel.from_pretrained(folder / "model/text_encoder").to(DEVICE).eval()  # without our trimming
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    for part in (pipe.vae, encoder):
        part.requires_grad_(False)
    for name, parameter in pipe.unet.named_parameters():
        parameter.requires_grad_("attn2.to_k" in name or "attn2.to_v" in name)
    trained = [weight for weight in pipe.unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    pipe.unet.train()
    records = read(folder)

    def step() -> None:
        some = next_records(records, batch)
        pixels = torch.stack([to_tensor(fit_to(Image.open(folder / record["image"]), 256, 256)) for record in some])
        with torch.no_grad():
            states = encoder(**at_77_tokens(pipe.tokenizer, some, "zh"))[0]
            latents = pipe.vae.encode(to_unit(pixels).to(DEVICE)).latent_dist.sample() * pipe.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (batch,), device=DEVICE)
        predicted = pipe.unet(scheduler.add_noise(latents, noise, timesteps), timesteps, states).sample
        optimize(F.mse_loss(predicted, noise), pipe.unet, optimizer)

    return step


PLAIN = {"distill": plain_distill, "contrast": plain_contrast, "align": plain_align}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def optimize(loss: torch.Tensor, model: Any, optimizer: torch.optim.Optimizer) -> None:
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_([weight for weight in model.parameters() if weight.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad()


def at_77_tokens(tokenizer: Any, records: list[dict[str, str]], language: str) -> Any:
    """The texts of a language as most scripts read them: all padded to 77 tokens."""
    texts = [record[language] for record in records]
    return tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").to(DEVICE)


def read(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "data.jsonl").read_text(encoding="utf-8").splitlines()]


def next_records(records: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    return random.choices(records, k=count)


def peak_memory() -> float:
    """In GB: of the GPU, or what this process took of the machine's memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1e6


if __name__ == "__main__":
    main()
