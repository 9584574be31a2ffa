"""UNet and VAE decoder computed by OpenVINO on a CPU: its convolutions need fewer products than PyTorch's in float32.

The weights stay PyTorch's and what is saved stays stock; OpenVINO holds a copy in a layout of its own. It compiles for
one shape at a time, which is fastest, and again when the shape changes; then from the graph that it has.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

from altdiffusion.forward_override import ForwardOverride, fingerprint, install, remove

logger = logging.getLogger(__name__)


def use_openvino(unet: Any, vae: Any, dtype: torch.dtype) -> None:
    """Let OpenVINO compute these two, in place. dtype: that it computes in, float32 or bfloat16. Weights stay float32."""
    install(UnetForward(unet, dtype))
    install(DecoderForward(vae.decoder, dtype))


def use_pytorch(unet: Any, vae: Any) -> None:
    """Undo `use_openvino`."""
    for model in (unet, vae.decoder):
        remove(model)


class _OpenVinoForward(ForwardOverride):
    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        super().__init__(model)
        self.network = CompiledNetwork(self.as_module(), dtype)

    def as_module(self) -> nn.Module:
        """The class's own forward, of tensors alone."""
        raise NotImplementedError

    def arguments(self) -> tuple[torch.dtype]:
        return (self.network.dtype,)


class UnetForward(_OpenVinoForward):
    """A UNet's `forward`. With arguments that OpenVINO's doesn't know (ControlNet's residuals, XL's conditions), and for
    gradients, PyTorch computes."""

    _warned = False

    def __call__(
        self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, return_dict: bool = True, **others: Any
    ) -> Any:
        """As in diffusers."""
        given = {name: value for name, value in others.items() if value is not None}
        if given and not self._warned:
            logger.warning("OpenVINO was not told of %s: PyTorch computes the UNet, exact and slower", min(given))
            self._warned = True
        if given or torch.is_grad_enabled():
            return self.original(sample, timestep, encoder_hidden_states, return_dict=return_dict, **given)
        noise = self.network(sample, torch.as_tensor(timestep), encoder_hidden_states)
        return UNet2DConditionOutput(noise) if return_dict else (noise,)

    def as_module(self) -> nn.Module:
        return _Unet(self.model)


class DecoderForward(_OpenVinoForward):
    """The `forward` of a VAE's decoder."""

    def __call__(self, sample: Tensor, latent_embeds: Tensor | None = None) -> Tensor:
        """As in diffusers."""
        if latent_embeds is not None or torch.is_grad_enabled():
            return self.original(sample, latent_embeds)
        return self.network(sample)

    def as_module(self) -> nn.Module:
        return _Decoder(self.model)


class CompiledNetwork:
    """A module of tensors, compiled for the shapes that it was called with last, and anew where its weights have changed.

    What takes longest, the conversion to OpenVINO's graph, is done once for all shapes, as long as the weights stay.
    dtype: that OpenVINO computes in.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self.module, self.dtype = module, dtype
        self._graph: Any = None
        self._graph_of: tuple[Any, ...] = ()  # weights
        self._compiled: Any = None
        self._compiled_for: tuple[Any, ...] = ()  # shapes and weights

    def __call__(self, *inputs: Tensor) -> Tensor:
        weights = (*fingerprint(self.module.parameters()), *_loras(self.module))
        if weights != self._graph_of:
            self._graph, self._graph_of = None, weights
        current = (*(tensor.shape for tensor in inputs), *weights)
        if current != self._compiled_for:
            self._compiled, self._compiled_for = None, ()  # its copy of the weights goes before the next one comes
            self._compiled, self._compiled_for = self.compile(inputs), current
        return torch.from_numpy(self._compiled([tensor.numpy() for tensor in inputs])[0].copy())

    def compile(self, inputs: tuple[Tensor, ...]) -> Any:
        """OpenVINO's compiled model for inputs of these shapes."""
        import openvino

        if self._graph is None:
            self._graph = _convert(self.module, inputs)
        self._graph.reshape({index: list(tensor.shape) for index, tensor in enumerate(inputs)})
        precision = "bf16" if self.dtype == torch.bfloat16 else "f32"
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        settings["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
        return openvino.Core().compile_model(self._graph, "CPU", settings)


def _convert(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """OpenVINO's graph of a module for inputs of any shape, on the module's own tensors."""
    import openvino
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # PyTorch would trace a second time to compare, which takes half as long again
    traced = TorchScriptPythonDecoder(module, example_input=inputs, trace_kwargs={"check_trace": False})
    return openvino.convert_model(traced)


def _loras(module: nn.Module) -> list[Any]:
    """Which LoRAs act and how much, which no tensor tells."""
    layers: list[Any] = [layer for layer in module.modules() if hasattr(layer, "base_layer")]
    return [(layer.disable_adapters, *layer.active_adapters, *layer.scaling.items()) for layer in layers]


class _Unet(nn.Module):
    """Tensors in, a tensor out, by the class's own forward."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        noise: Tensor = type(self.unet).forward(self.unet, sample, timestep, states, return_dict=False)[0]
        return noise


class _Decoder(nn.Module):
    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, sample: Tensor) -> Tensor:
        image: Tensor = type(self.decoder).forward(self.decoder, sample)
        return image
