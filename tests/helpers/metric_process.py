"""A script: one of two processes that add up AltCLIPScore together.

Its words: the AltCLIP's folder, and another, where it reads pairs.pt and writes what all have together to RANK.pt.
"""

from __future__ import annotations

SCORE_TOGETHER = """
import os, sys, torch
import torch.distributed as dist
from altdiffusion.altclip.torchmetric import AltCLIPScore
folder, results = sys.argv[1:]
rank = int(os.environ["RANK"])
dist.init_process_group("gloo", init_method=f"file://{results}/meeting", rank=rank, world_size=2)
images, texts = torch.load(f"{results}/pairs.pt")
metric = AltCLIPScore(folder)
metric.update(images[rank::2], texts[rank::2])
torch.save(metric.compute(), f"{results}/{rank}.pt")
dist.destroy_process_group()
"""
