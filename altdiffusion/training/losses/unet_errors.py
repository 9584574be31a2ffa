"""What an error in the text's hidden states does in a frozen UNet: two losses of the bridge, beside the states' own error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor

from altdiffusion.checkpoints import tensor_files
from altdiffusion.errors import InputError
from altdiffusion.training.inputs.sampling import normal_noise
from altdiffusion.training.loop import Batch
from altdiffusion.training.models.unet import CROSS_ATTENTION_KV

# From this fraction of the timesteps on, what a UNet sees is nearly noise, whatever the image.
NOISIEST = 0.7


def load_unet(root: Path, dtype: torch.dtype) -> Any:
    """The frozen UNet of a Stable Diffusion in diffusers' layout. Raises InputError."""
    unet = tensor_files.load_strict(UNet2DConditionModel, root / "unet", dtype=dtype)
    return unet.requires_grad_(False)


def cross_attention_metric(unet: Any) -> Tensor:
    """(width, width): how much an error in the states moves the keys and values of the UNet's cross-attention.

    error @ metric @ error is the squared error of all `to_k` and `to_v` of attn2 together, scaled so that an error
    that is alike in all directions counts as its mean square.
    """
    maps = [
        parameter.detach().float() for name, parameter in unet.named_parameters() if name.endswith(CROSS_ATTENTION_KV)
    ]
    metric = sum((weight.T @ weight for weight in maps), torch.zeros(maps[0].shape[1], maps[0].shape[1]))
    return metric / metric.trace()


class PredictionError:
    """How far the UNet's predictions with a bridge's states are from those with CLIP's.

    Both are made from the same pure noise, so that no image is needed: at the noisiest timesteps a noised image is
    hardly anything else, and there a UNet decides what it will show. The error is in the clean latents that are predicted,
    whether the UNet predicts noise or velocity.

    Raises InputError for UNets that take more than an image and a text, or predict something else, and without a scheduler.
    """

    def __init__(self, root: Path, unet: Any, device: torch.device) -> None:
        takes, gives = unet.config.in_channels, unet.config.out_channels
        if takes != gives:
            raise InputError(
                f"--prediction-weight: the UNet of {root} takes {takes} channels and gives {gives}, as inpainting's does: "
                "expected one that generates from text alone"
            )
        scheduler = DDPMScheduler.from_config(tensor_files.read_json(root / "scheduler" / "scheduler_config.json"))
        kind = scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise InputError(f"the scheduler of {root} predicts {kind!r}: expected epsilon or v_prediction")
        self._unet = unet.to(device, memory_format=torch.channels_last)
        # clean latents = (noisy - sigma noise) / alpha = alpha noisy - sigma velocity
        kept = scheduler.alphas_cumprod.to(device)
        self._scale = (1 - kept) / kept if kind == "epsilon" else 1 - kept
        self._steps = int(scheduler.config.num_train_timesteps)

    def noise(self, samples: Sequence[int], seed: int) -> Batch:
        """What is random for some samples: of the seed and each sample's own index."""
        side, channels = self._unet.config.sample_size, self._unet.config.in_channels
        noises = [normal_noise((channels, side, side), seed, 6, sample) for sample in samples]
        first = round(NOISIEST * self._steps)
        timesteps = [int(np.random.default_rng([seed, 7, sample]).integers(first, self._steps)) for sample in samples]
        return {"noise": torch.from_numpy(np.stack(noises)), "timesteps": torch.tensor(timesteps)}

    def __call__(
        self, batch: Batch, given: tuple[Tensor, Tensor | None], wanted: tuple[Tensor, Tensor | None]
    ) -> Tensor:
        """The mean squared error. given, wanted: states (batch, 77, width) and, for XL, pooled vectors (batch, width)."""
        with torch.no_grad():
            reference = self._predict(batch, *wanted)
        error = (self._predict(batch, *given) - reference).square().mean((1, 2, 3))
        return (self._scale[batch["timesteps"]] * error).mean()

    @torch.no_grad()
    def predictions(
        self, texts: Sequence[tuple[Tensor, Tensor | None]], samples: Sequence[int], seed: int
    ) -> list[Tensor]:
        """What the UNet predicts, float32 (batch, ...), from the samples' noise with each of several states.

        texts: states (batch, 77, width) and, for XL, pooled vectors (batch, width), each of as many rows as samples.
        """
        device = texts[0][0].device
        noise = {name: value.to(device) for name, value in self.noise(samples, seed).items()}
        return [self._predict(noise, *text) for text in texts]

    def _predict(self, batch: Batch, states: Tensor, pooled: Tensor | None) -> Tensor:
        dtype = self._unet.dtype
        added = None
        if pooled is not None:
            side = self._unet.config.sample_size * 8  # of the image, in pixels: its own size, not cropped
            sizes = torch.tensor([[side, side, 0, 0, side, side]], device=pooled.device).expand(len(pooled), -1)
            added = {"text_embeds": pooled.to(dtype), "time_ids": sizes}
        noisy = batch["noise"].to(dtype, memory_format=torch.channels_last)
        predicted = self._unet(noisy, batch["timesteps"], states.to(dtype), added_cond_kwargs=added).sample
        return predicted.float()
