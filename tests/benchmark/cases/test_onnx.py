"""onnxruntime beside our text encoder: both compute the same states."""

import pytest
import torch

pytest.importorskip("onnxscript", reason="exports need altdiffusion[onnx]")

from altdiffusion.benchmark import models
from altdiffusion.benchmark.cases import onnx, text
from altdiffusion.benchmark.models import SMALL

CPU = torch.device("cpu")
pytestmark = pytest.mark.long


def test_both_ways_give_the_same_states(tmp_path):
    stock = models.text_tower(SMALL, CPU)
    session, error = onnx.exported(stock, tmp_path)
    assert error < 1e-4
    for count in (1, 3):
        batch = next(text.prompts(count, stock.config.vocab_size, CPU))
        ours = onnx.make_encode(models.our_text_encoder(stock), iter([batch]))()
        (theirs,) = onnx.make_run(session, iter([batch]))()
        assert theirs.shape == (count, text.REAL, 768)
        assert ours[:, : text.REAL].numpy() == pytest.approx(theirs, abs=1e-4)
