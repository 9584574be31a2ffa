"""Losses between two sets of features: pure functions of tensors, each the mean over its batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def gathered(tensor: Tensor) -> Tensor:
    """The rows of all processes, in their order. Under DDP, gradients are as if one process had all the rows."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    count, mine = dist.get_world_size(), dist.get_rank()
    rows = [torch.empty_like(tensor) for _ in range(count)]
    dist.all_gather(rows, tensor.detach().contiguous())
    # every process has the whole loss, but the gradient of its own rows alone; DDP takes the mean of these parts, not the sum
    rows[mine] = tensor + (count - 1) * (tensor - tensor.detach())
    return torch.cat(rows)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine between the rows of (batch, width) tensors: 0 for the same direction, 2 for the opposite one."""
    return (1 - F.cosine_similarity(student, teacher, dim=-1)).mean()


def contrastive(left: Tensor, right: Tensor, scale: Tensor | float, same: Tensor | None = None) -> Tensor:
    """CLIP's symmetric cross-entropy over the cosines of (batch, width) features, where row i belongs to row i.

    scale: the factor on the cosines (CLIP learns it, up to 100). same: bool (batch, batch), true where rows i and j show
    the same thing, as two captions of one image do: they are no negatives of each other.
    """
    with torch.autocast(left.device.type, enabled=False):  # three digits of a cosine are too few, times 100
        logits = scale * F.normalize(left.float(), dim=-1) @ F.normalize(right.float(), dim=-1).T
    target = torch.arange(len(logits), device=logits.device)
    if same is not None:
        off_diagonal = same & (target[:, None] != target)
        logits = logits.masked_fill(off_diagonal, float("-inf"))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
