"""Full-size models with random weights, built on the device and saved once: speed and memory don't depend on the values."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import AltCLIPConfig, AltCLIPModel, AltCLIPTextConfig, AltCLIPTextModel, CLIPImageProcessor

from altdiffusion import load_text_encoder


@dataclass(frozen=True)
class Setup:
    """device, dtype: of all models. folder: where they are saved, once for all parts.

    layers, width: of XLM-R and of the vision tower. vocabulary: None for mini's. states: width of the UNet's text states.
    channels: of the UNet's first level. side: of an image, in pixels. rounds: timed, after one of warm-up.
    batches: images at once. prompts: encoded at once. images: scored. batch, train_steps: of training.
    """

    folder: Path
    device: torch.device
    dtype: torch.dtype = torch.float16
    layers: int = 24
    width: int = 1024
    clip_layers: int = 12
    vocabulary: int | None = 250002
    states: int = 768
    channels: int = 320
    side: int = 512
    steps: int = 25
    rounds: int = 5
    batches: tuple[int, ...] = (1, 8)
    prompts: tuple[int, ...] = (1, 32, 256)
    images: int = 256
    train_steps: int = 6
    batch: int | None = None

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def warm_up(self) -> int:
        """Steps of training that don't count."""
        return 2 if self.on_gpu else 1

    @property
    def precision(self) -> str:
        """Of training, as `--mixed-precision` takes it."""
        return "bf16" if self.on_gpu else "no"


SMALL = {"layers": 2, "width": 64, "clip_layers": 1, "vocabulary": None, "states": 64, "channels": 32, "side": 64}
SMALL |= {"steps": 2, "rounds": 1, "batches": (1, 2), "prompts": (1, 4), "images": 4, "train_steps": 1, "batch": 2}


def random_model(build: Callable[[], Any], setup: Setup) -> Any:
    """Built where it is used: initializing two billion numbers on a CPU would take longer than the measurement."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(setup.dtype)
    try:
        with torch.device(setup.device):
            model = build()
    finally:
        torch.set_default_dtype(default)
    return model.to(setup.dtype).eval().requires_grad_(False)


def tokenizer() -> Any:
    """mini's, which is at hand: which words get which number costs nothing."""
    return load_text_encoder()[1]


def tower_config(setup: Setup) -> AltCLIPTextConfig:
    """XLM-R large's, with AltDiffusion's projection."""
    words = tokenizer()
    config = AltCLIPTextConfig(
        vocab_size=setup.vocabulary or len(words),
        hidden_size=setup.width,
        intermediate_size=4 * setup.width,
        num_hidden_layers=setup.layers,
        num_attention_heads=setup.width // 64,
        max_position_embeddings=514,
        project_dim=setup.states,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    config.use_attention_mask = True  # as published; without it stock diffusers lets the tower attend to padding
    return config


def saved(setup: Setup, name: str, save: Callable[[Setup, Path], None]) -> Path:
    """The folder of a model, made by the first part that needs it; whole or not there."""
    final = setup.folder / name
    if not final.exists():
        partial = setup.folder / f".{name}.{os.getpid()}"
        save(setup, partial)
        partial.rename(final)
        release()
    return final


def save_pipeline(setup: Setup, folder: Path) -> None:
    """Stable Diffusion 1.5's UNet and VAE with AltCLIP's text tower, in the layout of `AltDiffusion`."""
    torch.manual_seed(0)
    first, decoder = setup.channels, max(32, setup.channels * 2 // 5 // 32 * 32)
    unet = random_model(
        lambda: UNet2DConditionModel(
            sample_size=setup.side // 8,
            block_out_channels=(first, 2 * first, 4 * first, 4 * first),
            cross_attention_dim=setup.states,
            attention_head_dim=8,
        ),
        setup,
    )
    vae = random_model(
        lambda: AutoencoderKL(
            block_out_channels=(decoder, 2 * decoder, 4 * decoder, 4 * decoder),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=setup.side,
        ),
        setup,
    )
    # As trained: a prediction of unit variance, so that the images depend on what the UNet computes.
    unet.conv_out.weight.div_(forward(unet, setup, 1)().float().std())
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=random_model(lambda: AltCLIPTextModel(tower_config(setup)), setup),
        tokenizer=tokenizer(),
        unet=unet,
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def save_altclip(setup: Setup, folder: Path) -> None:
    """A full AltCLIP: XLM-R large and ViT-L/14."""
    text = tower_config(setup).to_dict()
    vision = {name: text[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    vision |= {"num_attention_heads": setup.width // 64, "patch_size": 14}
    config = AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=setup.states)
    random_model(lambda: AltCLIPModel(config), setup).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)


def load(pipeline_class: Any, setup: Setup, **options: Any) -> Any:
    """A pipeline of the saved weights, where they were read: on the CPU."""
    folder = saved(setup, "pipeline", save_pipeline)
    pipe = pipeline_class.from_pretrained(folder, **({"dtype": setup.dtype} | options))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def forward(unet: Any, setup: Setup, batch: int) -> Callable[[], torch.Tensor]:
    """The UNet alone, with guidance: 2 * batch rows of random latents and text states."""
    side, like = setup.side // 8, {"device": setup.device, "dtype": unet.dtype}
    latents = torch.randn(2 * batch, 4, side, side, **like)
    states = torch.randn(2 * batch, 77, setup.states, **like)
    timestep = torch.tensor(500, device=setup.device)

    @torch.no_grad()
    def run() -> torch.Tensor:
        return unet(latents, timestep, encoder_hidden_states=states).sample

    return run


def release() -> None:
    """Give back what nobody holds any more, so that the next peak is its own."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


TOKENS = 14  # of a prompt, as captions have


_SEEDS = itertools.count()  # no prompt comes twice: ours would remember it


def prompt_ids(setup: Setup, count: int, config: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Prompts padded to 77, as diffusers passes them; each batch another one."""
    random = torch.Generator().manual_seed(next(_SEEDS))
    while True:
        ids = torch.full((count, 77), config.pad_token_id)
        ids[:, :TOKENS] = torch.randint(5, config.vocab_size, (count, TOKENS), generator=random)
        ids[:, 0], ids[:, TOKENS - 1] = config.bos_token_id, config.eos_token_id
        ids = ids.to(setup.device)
        yield {"input_ids": ids, "attention_mask": ids.ne(config.pad_token_id).long()}
