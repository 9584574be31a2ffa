"""One of two processes that add up AltCLIPScore together. In a module of its own, as spawned processes import it by name."""

from __future__ import annotations

import torch
import torch.distributed as dist

from altdiffusion.altclip.torchmetric import AltCLIPScore


def one_process(rank: int, folder: str, results: str) -> None:
    """Scores every second pair of results/pairs.pt, and writes what all have together to results/RANK.pt."""
    dist.init_process_group("gloo", init_method=f"file://{results}/meeting", rank=rank, world_size=2)
    images, texts = torch.load(f"{results}/pairs.pt")
    metric = AltCLIPScore(folder)
    metric.update(images[rank::2], texts[rank::2])
    torch.save(metric.compute(), f"{results}/{rank}.pt")
    dist.destroy_process_group()
