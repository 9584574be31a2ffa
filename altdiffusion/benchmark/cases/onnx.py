"""Hidden states of prompts by onnxruntime, from what `altdiffusion export onnx` writes, beside our text encoder."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from altdiffusion.altclip.onnx_checks import PACKAGES
from altdiffusion.benchmark import models
from altdiffusion.benchmark.cases.text import REAL, encode, prompts
from altdiffusion.benchmark.models import Sizes
from altdiffusion.benchmark.timing import Comparison, Contender, in_turns
from altdiffusion.speed.packed_linear import pack

COUNTS = (1, 32, 256)
MANY = 256  # prompts that one round tells enough of


def measure(sizes: Sizes, device: torch.device) -> Iterator[Comparison]:
    """On the CPU, whatever the device is, with as many threads for each."""
    device = torch.device("cpu")
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        note = f"not measured: {' '.join(missing)} missing"
        yield Comparison("text states by onnxruntime", [Contender("onnxruntime", note=note)])
        return
    stock = models.text_tower(sizes, device)
    with tempfile.TemporaryDirectory() as folder:
        session, error = exported(stock, Path(folder))
        packed = models.our_text_encoder(stock)
        pack(packed)
        for count in COUNTS:
            batches = prompts(count, stock.config.vocab_size, device)
            ways: dict[str, Callable[[], Any]] = {
                "altdiffusion, optimize()": make_encode(packed, batches),
                "onnxruntime": make_run(session, batches),
            }
            yield Comparison(
                f"text states, float32, {count} x {REAL} tokens",
                in_turns(ways, sizes.rounds if count < MANY else 1, device),
                limits=[f"onnxruntime's states differ from PyTorch's by {error:.1e} at most"],
            )


def exported(stock: Any, folder: Path) -> tuple[Any, float]:
    """onnxruntime's session on this text tower, and how far its outputs are from PyTorch's."""
    import onnxruntime

    from altdiffusion.altclip.onnx_export import export_onnx

    stock.save_pretrained(folder / "tower")
    models.tokenizer().save_pretrained(folder / "tower")
    (written,) = export_onnx(folder / "tower", folder / "onnx", part="text-encoder")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(written.path, options, providers=["CPUExecutionProvider"]), written.error


def make_encode(encoder: Any, batches: Iterator[Any]) -> Callable[[], Any]:
    """A function that encodes the next prompts."""

    @torch.no_grad()
    def run() -> Any:
        return encode(encoder, next(batches)[0])

    return run


def make_run(session: Any, batches: Iterator[Any]) -> Callable[[], Any]:
    """The same by onnxruntime, without padding: all are as long."""

    def run() -> Any:
        ids = next(batches)[0][:, :REAL].int().numpy()
        return session.run(None, {"input_ids": ids, "attention_mask": (ids != 1).astype(ids.dtype)})

    return run
