"""A stock pipeline whose UNet and VAE decoder are computed by OpenVINO: the fastest that installs on a CPU without us.

OpenVINO itself, with static shapes, which suit it best: optimum-intel 2.2 wants transformers before 5.6 and torchvision.
"""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from altdiffusion.benchmark.models import PROJECTED, Sizes

STATES = 77  # tokens that the UNet attends to


def is_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def compiled(stock: Any, sizes: Sizes, precision: str | None) -> Any:
    """The same pipeline, by OpenVINO for pictures of `sizes.side`, one at a time with guidance.

    precision: "f32", "bf16", or None, where OpenVINO chooses by the processor.
    """
    latent = sizes.side // 8
    unet = _Unet(stock.unet)
    inputs = (torch.randn(2, 4, latent, latent), torch.tensor(1), torch.randn(2, STATES, PROJECTED))
    twin = type(stock)(**stock.components, requires_safety_checker=False)
    twin.register_modules(unet=_shell(stock.unet), vae=_shell(stock.vae))
    run_unet = _compile(unet, inputs, precision)
    twin.unet.forward = lambda sample, timestep, encoder_hidden_states, **_: (
        run_unet(sample, timestep, encoder_hidden_states),
    )
    run_decoder = _compile(stock.vae.decoder, (torch.randn(1, 4, latent, latent),), precision)
    twin.vae.decoder.forward = lambda latents, *_: run_decoder(latents)
    return twin


class _Unet(nn.Module):
    """Tensors in, a tensor out."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        found: Tensor = self.unet(sample, timestep, states, return_dict=False)[0]
        return found


def _shell(model: Any) -> Any:
    """A copy that shares the weights, and may be given another `forward`."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def _compile(model: nn.Module, inputs: tuple[Tensor, ...], precision: str | None) -> Any:
    import openvino

    with torch.no_grad():
        graph = openvino.convert_model(model, example_input=inputs, input=[list(each.shape) for each in inputs])
    settings = {"PERFORMANCE_HINT": "LATENCY"} | ({} if precision is None else {"INFERENCE_PRECISION_HINT": precision})
    network = openvino.Core().compile_model(graph, "CPU", settings)

    def run(*tensors: Tensor) -> Tensor:
        found = network([each.numpy() for each in tensors])[0]
        return torch.from_numpy(found.copy())

    return run
