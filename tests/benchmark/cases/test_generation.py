"""Fair peers: stock diffusers, by OpenVINO and by a GPU's kernels, generates what ours does."""

import numpy as np
import pytest
import torch

from altdiffusion.benchmark import models
from altdiffusion.benchmark.cases import generation
from altdiffusion.benchmark.models import SMALL
from altdiffusion.forward_override import find
from altdiffusion.speed.openvino_models import UnetForward

CPU = torch.device("cpu")
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def stock():
    return models.diffusion(SMALL, models.text_tower(SMALL, CPU), CPU, torch.float32)


def test_the_stock_peer_gets_the_mask_as_published_models_do(stock):
    """Without, diffusers passes none, and the peer would attend to padding: another work."""
    with torch.no_grad():
        theirs, _ = stock.encode_prompt("一只猫", "cpu", 1, False)
        ours, _ = generation.copy_with_our_encoder(stock).encode_prompt("一只猫", "cpu", 1, False)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_ours_and_stock_by_openvino_draw_the_same_and_leave_stock_as_it_is(stock):
    pytest.importorskip("openvino")
    expected = generation.make_generate(stock, SMALL, 1)()
    ours, peers, absent = generation.cpu_contenders(stock)
    assert absent == []
    for pipe in (*ours.values(), *peers.values()):
        assert find(pipe.unet, UnetForward) is not None
        np.testing.assert_allclose(generation.make_generate(pipe, SMALL, 1)(), expected, atol=1e-4)
    assert "forward" not in vars(stock.unet)
    np.testing.assert_allclose(generation.make_generate(stock, SMALL, 1)(), expected)


def test_a_gpus_peers_draw_the_same_pictures(stock, monkeypatch):
    """On a CPU, where xformers can't run, and with PyTorch's "eager" backend, which traces as the compiler does."""
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiler(model, backend="eager"))
    expected = generation.make_generate(stock, SMALL, 1)()
    peers, _ = generation.gpu_peers(stock)
    peers.pop("stock with xformers", None)
    assert len(peers) == 4
    for peer in peers.values():
        np.testing.assert_allclose(generation.make_generate(peer, SMALL, 1)(), expected, atol=1e-4)
