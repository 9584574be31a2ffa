"""The UNet's loss beside the formulas of its papers."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler

from altdiffusion.training.losses.denoising import Denoising


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_the_loss_is_the_papers(kind, gamma):
    """By hand from the noise schedule. With gamma, the loss is min(SNR, gamma) times the error of the clean latents."""
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)
    latents, noise, predicted = torch.randn(3, 5, 4, 4, 4, dtype=torch.float64).unbind()
    timesteps = torch.tensor([0, 50, 300, 700, 999])
    signal, spread = kept[timesteps].sqrt()[:, None, None, None], (1 - kept[timesteps]).sqrt()[:, None, None, None]
    seen = []

    def unet(noisy, steps, states):
        seen.append(noisy)
        return SimpleNamespace(sample=predicted)

    task = Denoising(unet, scheduler, gamma, lambda batch: latents, lambda batch: None)
    losses = task({"noise": noise, "timesteps": timesteps})

    noisy = signal * latents + spread * noise
    torch.testing.assert_close(seen[0], noisy, rtol=1e-5, atol=1e-5)
    if gamma is None:
        target = noise if kind == "epsilon" else signal * noise - spread * latents
        expected = (predicted - target).square().mean()
    else:
        clean = (noisy - spread * predicted) / signal if kind == "epsilon" else signal * noisy - spread * predicted
        snr = kept[timesteps] / (1 - kept[timesteps])
        expected = (snr.clamp(max=gamma) * (clean - latents).square().mean((1, 2, 3))).mean()
    torch.testing.assert_close(losses["loss"].double(), expected, rtol=1e-4, atol=0)
