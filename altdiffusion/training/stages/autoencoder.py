"""An image autoencoder for latent diffusion, trained on images alone.

    altdiffusion train autoencoder --model vae --train-data images --output-dir vae-trained

AltDiffusion uses Stable Diffusion's; this stage exists for models of another size, such as mini.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from altdiffusion.checkpoints import hub, tensor_files
from altdiffusion.training.inputs.captioned_images import CaptionedImages
from altdiffusion.training.inputs.image_tensors import ImageCache, fit_to, to_tensor, to_unit
from altdiffusion.training.inputs.sampling import Shuffled, micro_batch, normal_noise
from altdiffusion.training.loop import Batch, export, fit, start
from altdiffusion.training.stage_settings import AutoencoderSettings


def train_autoencoder(settings: AutoencoderSettings) -> None:
    """Train a VAE and save it in output_dir/model, with the scaling factor that gives its latents unit variance.

    Images are scaled to its `sample_size`. Raises InputError and TrainingStopped.
    """
    accelerator = start(settings)
    torch.manual_seed(settings.seed)
    root = hub.resolve(settings.model)
    in_pipeline = hub.vae_folder(root)
    vae = tensor_files.load_strict(AutoencoderKL, in_pipeline if in_pipeline.is_dir() else root)
    if settings.gradient_checkpointing:
        vae.enable_gradient_checkpointing()
    size = vae.config.sample_size
    read = ImageCache(lambda image: to_tensor(fit_to(image, size, size)))
    data = CaptionedImages(settings.train_data, None, settings.max_skipped)
    order = Shuffled(len(data), settings.seed)
    latent_side = size // 2 ** (len(vae.config.block_out_channels) - 1)
    latent_shape = (vae.config.latent_channels, latent_side, latent_side)

    def batches(step: int, index: int, count: int) -> Batch:
        samples = micro_batch(range(step * settings.batch_size, (step + 1) * settings.batch_size), index, count)
        pixels = [data.image(order[sample], read)[1] for sample in samples]
        noise = [torch.from_numpy(normal_noise(latent_shape, settings.seed, 3, sample)) for sample in samples]
        return {"pixels": torch.stack(pixels), "noise": torch.stack(noise)}

    validate = None
    if settings.validation_data:
        held_out = CaptionedImages(settings.validation_data, None, settings.max_skipped)
        pixels = torch.stack([held_out.image(record, read)[1] for record in range(min(1000, len(held_out)))])

        def validate(step: int) -> dict[str, float]:
            return {"PSNR dB": psnr(vae, pixels)}

    vae.to(memory_format=torch.channels_last)
    task = Reconstruction(vae, settings.loss, settings.kl_weight)
    fit(task, batches, settings, accelerator, records=len(data), validate=validate)
    some = torch.stack([data.image(order[sample], read)[1] for sample in range(min(256, len(data)))])
    vae.register_to_config(scaling_factor=1 / latent_deviation(vae, some))
    with export(settings, accelerator) as folder:
        if folder is not None:
            vae.to(memory_format=torch.contiguous_format).save_pretrained(folder)


class Reconstruction(nn.Module):
    """The VAE's error on pixels, uint8 (batch, 3, height, width), with normal noise in the shape of their latents."""

    def __init__(self, vae: AutoencoderKL, loss: str, kl_weight: float) -> None:
        super().__init__()
        self.vae = vae
        self._error: Callable[[Tensor, Tensor], Tensor] = {
            "l1": F.l1_loss,
            "mse": F.mse_loss,
            "l1+mse": lambda given, wanted: 0.1 * F.l1_loss(given, wanted) + F.mse_loss(given, wanted),
        }[loss]
        self._kl_weight = kl_weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images = to_unit(batch["pixels"]).to(memory_format=torch.channels_last)
        posterior = self.vae.encode(images).latent_dist
        latents = posterior.mean + posterior.std * batch["noise"]
        error = self._error(self.vae.decode(latents).sample.float(), images)
        divergence = posterior.kl().mean() / posterior.mean[0].numel()  # per element of the latents
        return {"loss": error + self._kl_weight * divergence, "error": error, "divergence": divergence}


@torch.no_grad()
def latent_deviation(vae: AutoencoderKL, pixels: Tensor) -> float:
    """The standard deviation of the latents of uint8 (n, 3, height, width)."""
    images = (to_unit(some).to(vae.device) for some in torch.split(pixels, 16))
    return torch.cat([vae.encode(some).latent_dist.mean for some in images]).std().item()


@torch.no_grad()
def psnr(vae: Any, pixels: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of uint8 (n, 3, height, width) through the VAE: over 30 is hard to tell apart."""
    errors = []
    for some in torch.split(pixels, 16):
        images = to_unit(some).to(vae.device)
        decoded = vae.decode(vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)
        errors.append((((decoded - images) / 2) ** 2).mean((1, 2, 3)))
    return -10 * math.log10(torch.cat(errors).mean().item())
