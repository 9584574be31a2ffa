"""The peers compute with our tensors."""

import torch

from altdiffusion.benchmark import models
from altdiffusion.benchmark.models import SMALL

CPU = torch.device("cpu")


def test_peers_share_our_tensors():
    stock = models.text_tower(SMALL, CPU)
    home = stock.transformation.weight.data_ptr()
    for peer in (models.our_text_encoder(stock), models.deprecated_text_encoder(stock)):
        assert peer.transformation.weight.data_ptr() == home
