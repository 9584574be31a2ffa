"""UNet and VAE decoder computed by OpenVINO on a CPU: its convolutions need fewer products than PyTorch's in float32.

The weights stay PyTorch's and what is saved stays stock; OpenVINO holds a copy in a layout of its own. It compiles for
one shape at a time, which is fastest, and anew where the shape changes.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

logger = logging.getLogger(__name__)


def use_openvino(unet: Any, vae: Any, dtype: torch.dtype) -> None:
    """Let OpenVINO compute these two, in place. dtype: that it computes in, float32 or bfloat16; weights are float32."""
    unet.forward = UnetForward(unet, dtype)
    vae.decoder.forward = DecoderForward(vae.decoder, dtype)


def use_pytorch(unet: Any, vae: Any) -> None:
    """Take `use_openvino` back."""
    for model in (unet, vae.decoder):
        vars(model).pop("forward", None)


class UnetForward:
    """A UNet's `forward`. PyTorch computes what OpenVINO was not told of: ControlNet's residuals, XL's conditions, gradients."""

    def __init__(self, unet: Any, dtype: torch.dtype) -> None:
        self.unet = unet
        self.network = Network(_Unet(unet), dtype)
        self._told = False

    def __call__(
        self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, return_dict: bool = True, **others: Any
    ) -> Any:
        given = {name: value for name, value in others.items() if value is not None}
        if given and not self._told:
            logger.warning("OpenVINO was not told of %s: PyTorch computes the UNet, exact and slower", min(given))
            self._told = True
        if given or torch.is_grad_enabled():
            arguments = (sample, timestep, encoder_hidden_states)
            return type(self.unet).forward(self.unet, *arguments, return_dict=return_dict, **given)
        found = self.network(sample, torch.as_tensor(timestep), encoder_hidden_states)
        return UNet2DConditionOutput(found) if return_dict else (found,)


class DecoderForward:
    """The `forward` of a VAE's decoder."""

    def __init__(self, decoder: Any, dtype: torch.dtype) -> None:
        self.decoder = decoder
        self.network = Network(_Decoder(decoder), dtype)

    def __call__(self, sample: Tensor, latent_embeds: Tensor | None = None) -> Tensor:
        if latent_embeds is not None or torch.is_grad_enabled():
            return type(self.decoder).forward(self.decoder, sample, latent_embeds)
        return self.network(sample)


class Network:
    """A module of tensors, compiled for the shapes that it was called with last, and anew where its weights have changed."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self.module, self.dtype = module, dtype
        self._facts: list[Any] = []
        self._run: Any = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        weights = [(id(each), each.data_ptr(), each._version) for each in self.module.parameters()]
        facts = [*(each.shape for each in inputs), *weights]
        if facts != self._facts:
            self._run, self._facts = None, []  # its copy of the weights goes before the next one comes
            self._run, self._facts = self._compiled(inputs), facts
        return torch.from_numpy(self._run([each.numpy() for each in inputs])[0].copy())

    def _compiled(self, inputs: tuple[Tensor, ...]) -> Any:
        import openvino

        shapes = [list(each.shape) for each in inputs]
        graph = openvino.convert_model(self.module, example_input=inputs, input=shapes)
        precision = "bf16" if self.dtype == torch.bfloat16 else "f32"
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        return openvino.Core().compile_model(graph, "CPU", settings)

    def __reduce__(self) -> Any:
        return type(self), (self.module, self.dtype)


class _Unet(nn.Module):
    """Tensors in, a tensor out, by the class's own forward."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        found: Tensor = type(self.unet).forward(self.unet, sample, timestep, states, return_dict=False)[0]
        return found


class _Decoder(nn.Module):
    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, sample: Tensor) -> Tensor:
        found: Tensor = type(self.decoder).forward(self.decoder, sample)
        return found
