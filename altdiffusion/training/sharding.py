"""FSDP: weights, gradients and AdamW's states divided among the processes, as `accelerate launch` with `fsdp_version: 2` asks.

What is trained is a copy. The model itself stays whole: it gets the weights where they are looked at, for validation and in the
end. Checkpoints hold whole tensors, so they are the same with FSDP and without, for any number of processes.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from altdiffusion.errors import InputError


def set_up_fsdp(accelerator: Accelerator) -> None:
    """Let FSDP be used on CPUs, too, which accelerate leaves out without a word. Raises InputError for FSDP 1."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true" or accelerator.num_processes == 1:
        return
    if accelerator.distributed_type == DistributedType.MULTI_CPU:
        accelerator.state.fsdp_plugin = plugin = FullyShardedDataParallelPlugin()
        if accelerator.mixed_precision != "no":
            plugin.set_mixed_precision(accelerator.mixed_precision)
        for state in (accelerator.state, PartialState()):
            state.distributed_type = DistributedType.FSDP
    if not accelerator.is_fsdp2:
        raise InputError("accelerate's config asks for FSDP 1: expected fsdp_version: 2")


def copy_to_shard(model: nn.Module) -> nn.Module:
    """A copy of what is trained; the frozen parts that a stage's task holds beside it, in plain attributes, are shared.

    Raises InputError for a model that FSDP can't divide.
    """
    scalars = [name for name, parameter in model.named_parameters() if not parameter.ndim]
    if scalars:
        raise InputError(f"FSDP can't divide {scalars[0]}, which is a single number: train this stage without FSDP")
    of_every_module = vars(nn.Module())
    # of the task alone: what replaces a layer's forward, inside the model, must point to the copy
    beside = {id(value): value for name, value in vars(model).items() if name not in of_every_module}
    copied = copy.deepcopy(model, beside)
    kinds = {type(module).__name__ for module in copied.modules()}
    declared = {name for module in copied.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    copied._no_split_modules = sorted(declared & kinds)  # type: ignore[assignment]  # what TRANSFORMER_BASED_WRAP takes
    for parameter in copied.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP knows no channels_last
    return copied


def whole(state: Any) -> Any:
    """A state in which tensors that are divided are whole, on the CPU; all processes must call it."""
    if isinstance(state, DTensor):
        return undivided(state).cpu()
    if isinstance(state, dict):
        return {name: whole(value) for name, value in state.items()}
    if isinstance(state, list):
        return [whole(value) for value in state]
    return state


def undivided(tensor: Tensor) -> Tensor:
    """A tensor whole, on its device; all processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, which every process has, divided as the parameter is; itself where that isn't, or has another shape."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    tensor = tensor.to(parameter.device)
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


@torch.no_grad()
def gather_into(model: nn.Module, sharded: nn.Module) -> None:
    """Give the whole model the weights and buffers of its divided copy; all processes must call it."""
    own = dict(model.state_dict(keep_vars=True))
    for name, value in sharded.state_dict().items():
        own[name].copy_(whole(value))
