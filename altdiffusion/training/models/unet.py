"""The diffusion loss, and what the stages that train a UNet share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModel

from altdiffusion.checkpoints import hub, tensor_files
from altdiffusion.errors import InputError
from altdiffusion.pipelines.alt_diffusion import AltDiffusionPipeline, swap_text_encoder
from altdiffusion.text_encoder.encoder import remember_nothing
from altdiffusion.training.inputs.sampling import normal_noise
from altdiffusion.training.loop import Batch
from altdiffusion.training.stage_settings import DiffusionSettings

# What AltDiffusion's concept alignment trains, by the end of the parameters' names.
CROSS_ATTENTION_KV = (".attn2.to_k.weight", ".attn2.to_v.weight")


class Denoising(nn.Module):
    """The error of a UNet's prediction on noised latents.

    A batch holds noise (batch, channels, h, w), timesteps (batch,), what `latents` and `states` make the latents and the
    text states of, and maybe `weight` (batch,) of each sample in the loss and `of_class` (batch,): 1 for the samples
    whose error is logged apart, as class_error, and 0 for the others.
    """

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        snr_gamma: float | None,
        latents: Callable[[Batch], Tensor],
        states: Callable[[Batch], Tensor],
    ) -> None:
        super().__init__()
        self.unet = unet
        self._scheduler, self._gamma = scheduler, snr_gamma
        self._latents, self._states = latents, states
        kinds = {"epsilon": self._noise, "v_prediction": scheduler.get_velocity}
        kind = scheduler.config.prediction_type
        if kind not in kinds:
            raise InputError(f"the scheduler predicts {kind!r}: expected {' or '.join(kinds)}")
        self._target = kinds[kind]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        latents, noise, timesteps = self._latents(batch), batch["noise"], batch["timesteps"]
        noisy = self._scheduler.add_noise(latents, noise, timesteps).to(memory_format=torch.channels_last)
        predicted = self.unet(noisy, timesteps, self._states(batch)).sample
        error = (predicted.float() - self._target(latents, noise, timesteps)).square().mean((1, 2, 3))
        loss = error if self._gamma is None else error * self._min_snr(timesteps)
        if "weight" in batch:
            loss = loss * batch["weight"]
        figures = {"loss": loss.mean(), "error": error.mean()}
        if "of_class" in batch:
            figures["class_error"] = (error * batch["of_class"]).sum() / batch["of_class"].sum()
        return figures

    def _min_snr(self, timesteps: Tensor) -> Tensor:
        """min-SNR-gamma (arXiv 2303.09556): no timestep's error in the picture counts more than `gamma` times its noise's."""
        snr = compute_snr(self._scheduler, timesteps)
        capped = snr.clamp(max=self._gamma)
        return capped / (snr + 1) if self._scheduler.config.prediction_type == "v_prediction" else capped / snr

    @staticmethod
    def _noise(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise


def load_diffusion(model: str, text_encoder: str | None = None) -> Any:
    """A Stable Diffusion to train, in float32: AltDiffusion in any layout, or plain with CLIP.

    text_encoder: an AltCLIP to swap in. Raises InputError for what can't be found, or where the widths differ, and for
    UNets that take more than a picture and a text.
    """
    root = hub.locate(model, ["model_index.json"])
    index = tensor_files.read_json(root / "model_index.json") if (root / "model_index.json").is_file() else {}
    plain = (index.get("text_encoder") or [None])[-1] == "CLIPTextModel" and "text_encoder_2" not in index
    if plain and model != hub.SD_MINI:
        if not hub.local_path(model).exists():
            download: Any = StableDiffusionPipeline.download  # of the files that are loaded alone
            root = Path(hub.on_hub(model, lambda name: download(name, use_safetensors=True)))
        checked = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
        parts = {name: tensor_files.load_strict(kind, root / name) for name, kind in checked.items()}
        pipe: Any = StableDiffusionPipeline.from_pretrained(str(root), dtype=torch.float32, **parts)
    else:
        pipe = AltDiffusionPipeline.from_pretrained(model)
    takes, gives = pipe.unet.config.in_channels, pipe.vae.config.latent_channels
    if takes != gives:
        raise InputError(
            f"the UNet of {model} takes {takes} channels where the VAE gives {gives}, as inpainting's does: "
            "expected one that draws from text alone"
        )
    pipe = swap_text_encoder(pipe, text_encoder) if text_encoder is not None else pipe
    remember_nothing(pipe.text_encoder)
    return pipe


def freeze(pipe: Any, device: torch.device, dtype: torch.dtype) -> dict[str, dict[str, Tensor]]:
    """Move a pipeline to a device, its text encoder and VAE in `dtype` and without gradients.

    Returns these two's weights as they were, for `save_pipeline`; {} for float32, in which they stay as they are.
    """
    frozen = {"text_encoder": pipe.text_encoder, "vae": pipe.vae}
    originals = {}
    for name, part in frozen.items():
        part.requires_grad_(False).eval()
        if dtype != torch.float32:
            originals[name] = part.state_dict()
            part.to(dtype)
    pipe.to(device)
    return originals


def pixel_multiple(pipe: Any) -> int:
    """What the sides of pictures must be multiples of, so that the UNet's halvings come out even."""
    return int(pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1))


def check_resolution(pipe: Any, resolution: int) -> None:
    """Raise InputError where the resolution is no multiple of what the model needs."""
    if resolution % (multiple := pixel_multiple(pipe)):
        raise InputError(f"--resolution {resolution}: this model needs a multiple of {multiple}")


def training_scheduler(pipe: Any) -> Any:
    """The noise of the pipeline's scheduler, as training adds it."""
    return DDPMScheduler.from_config(pipe.scheduler.config)


def noise_and_timesteps(scheduler: Any, shape: tuple[int, int, int], numbers: Sequence[int], seed: int) -> Batch:
    """What is random in the diffusion loss of some samples, each one's drawn from the seed and its own number."""
    noises = torch.from_numpy(np.stack([normal_noise((2, *shape), seed, 5, number) for number in numbers]))
    steps = scheduler.config.num_train_timesteps
    timesteps = [int(np.random.default_rng([seed, 4, number]).integers(steps)) for number in numbers]
    return {"noise": noises[:, 0], "latent_noise": noises[:, 1], "timesteps": torch.tensor(timesteps)}


def select_trainable(unet: Any, trainable: str) -> None:
    """Let gradients into exactly the chosen parameters: "kv", "attn2" or "unet".

    kv is the concept alignment of AltDiffusion: `attn2.to_k` and `attn2.to_v`, nothing else. (Both public codes test
    `'to_k' or 'to_v' in name`, which is always true, and train all of attn2.)
    """
    chosen: Callable[[str], bool] = {
        "kv": lambda name: name.endswith(CROSS_ATTENTION_KV),
        "attn2": lambda name: ".attn2." in name,
        "unet": lambda name: True,
    }[trainable]
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(chosen(name))


def sampler(
    pipe: Any, settings: DiffusionSettings, accelerator: Accelerator
) -> Callable[[int], dict[str, float]] | None:
    """A validation that draws `validation_prompts` into output_dir/samples, one row of pictures; always the same noise."""
    prompts = settings.validation_prompts
    if not prompts:
        return None

    def validate(step: int) -> dict[str, float]:
        pipe.set_progress_bar_config(disable=True)
        with accelerator.autocast():  # the UNet is in float32, the others may not be
            pictures = pipe(
                list(prompts),
                num_inference_steps=settings.validation_inference_steps,
                guidance_scale=settings.validation_guidance_scale,
                height=settings.resolution,
                width=settings.resolution,
                generator=[torch.Generator().manual_seed(settings.seed + i) for i in range(len(prompts))],
            ).images
        folder = settings.output_dir / "samples"
        folder.mkdir(exist_ok=True)
        grid(pictures).save(folder / f"step-{step:08d}.png")
        return {}

    return validate


def grid(pictures: list[Image.Image], columns: int = 8) -> Image.Image:
    """Pictures of one size in rows."""
    columns = min(columns, len(pictures))
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    return sheet


def save_pipeline(pipe: Any, folder: Path, originals: dict[str, dict[str, Tensor]]) -> None:
    """The whole pipeline, in the stock layout; the frozen parts exactly as they came, see `freeze`."""
    for name, state in originals.items():
        part = getattr(pipe, name).to("cpu", torch.float32)
        part.load_state_dict(state)
    pipe.unet.to(memory_format=torch.contiguous_format)
    pipe.to("cpu").save_pretrained(folder)
