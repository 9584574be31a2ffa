"""The loss of Stable Diffusion's UNet: the noise that it predicts."""

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
        """min-SNR-gamma (arXiv 2303.09556): no timestep's error in the image counts more than `gamma` times its noise's."""
        snr = compute_snr(self._scheduler, timesteps)
        capped = snr.clamp(max=self._gamma)
        return capped / (snr + 1) if self._scheduler.config.prediction_type == "v_prediction" else capped / snr

    @staticmethod
    def _noise(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise


def noise_and_timesteps(scheduler: Any, shape: tuple[int, int, int], numbers: Sequence[int], seed: int) -> Batch:
    """What is random in the diffusion loss of some samples, each one's drawn from the seed and its own number."""
    noises = torch.from_numpy(np.stack([normal_noise((2, *shape), seed, 5, number) for number in numbers]))
    steps = scheduler.config.num_train_timesteps
    timesteps = [int(np.random.default_rng([seed, 4, number]).integers(steps)) for number in numbers]
    return {"noise": noises[:, 0], "latent_noise": noises[:, 1], "timesteps": torch.tensor(timesteps)}
