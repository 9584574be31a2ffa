"""The loss of Stable Diffusion's UNet: how far its prediction is from the noise, or velocity, that was added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import compute_snr
from torch import Tensor, nn

from altdiffusion.errors import InputError
from altdiffusion.training.inputs.sampling import normal_noise
from altdiffusion.training.loop import Batch


class Denoising(nn.Module):
    """The error of a UNet's prediction on noised latents.

    latents, states: make a batch's latents (batch, channels, h, w) and hidden states (batch, 77, width).
    A batch also holds noise in the latents' shape and timesteps (batch,). It may hold weight (batch,), of each sample in the
    loss, and of_class (batch,): 1 for samples whose error is logged on its own, as class_error, 0 for the others.
    Raises InputError for a scheduler that predicts neither noise nor velocity.
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
        targets: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
            "epsilon": lambda latents, noise, timesteps: noise,
            "v_prediction": scheduler.get_velocity,
        }
        kind = scheduler.config.prediction_type
        if kind not in targets:
            raise InputError(f"the scheduler predicts {kind!r}: expected {' or '.join(targets)}")
        self._target = targets[kind]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        latents, noise, timesteps = self._latents(batch), batch["noise"], batch["timesteps"]
        noisy = self._scheduler.add_noise(latents, noise, timesteps).to(memory_format=torch.channels_last)
        predicted = self.unet(noisy, timesteps, self._states(batch)).sample
        error = (predicted.float() - self._target(latents, noise, timesteps)).square().mean((1, 2, 3))
        loss = error if self._gamma is None else error * self._min_snr(timesteps)
        if "weight" in batch:
            loss = loss * batch["weight"]
        losses = {"loss": loss.mean(), "error": error.mean()}
        if "of_class" in batch:
            losses["class_error"] = (error * batch["of_class"]).sum() / batch["of_class"].sum()
        return losses

    def _min_snr(self, timesteps: Tensor) -> Tensor:
        """min-SNR-gamma's weights (arXiv 2303.09556): an error of the clean latents counts min(SNR, gamma)."""
        snr = compute_snr(self._scheduler, timesteps)
        capped = snr.clamp(max=self._gamma)
        return capped / (snr + 1) if self._scheduler.config.prediction_type == "v_prediction" else capped / snr


def noise_and_timesteps(scheduler: Any, shape: tuple[int, int, int], samples: Sequence[int], seed: int) -> Batch:
    """What is random in the diffusion loss of some samples: of the seed and each sample's own index."""
    noises = torch.from_numpy(np.stack([normal_noise((2, *shape), seed, 5, sample) for sample in samples]))
    steps = scheduler.config.num_train_timesteps
    timesteps = [int(np.random.default_rng([seed, 4, sample]).integers(steps)) for sample in samples]
    return {"noise": noises[:, 0], "latent_noise": noises[:, 1], "timesteps": torch.tensor(timesteps)}
