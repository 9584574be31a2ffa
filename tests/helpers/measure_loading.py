"""Peak memory of loading a full-size encoder (560M parameters, random weights), as a multiple of its size.

    PYTHONPATH=tests python -m helpers.measure_loading

Not a test: it writes 2.2 GB at a time to the temporary folder and takes a few minutes. `test_weights.py` has the same
check on a smaller encoder. The bound is 1.2.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from diffusers.pipelines.deprecated.alt_diffusion.modeling_roberta_series import (
    RobertaSeriesConfig,
    RobertaSeriesModelWithTransformation,
)
from safetensors.torch import save_file

from helpers import layouts
from helpers.memory_of_loading import MEASURE


def main() -> None:
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = RobertaSeriesConfig(
            vocab_size=250002, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
            max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, project_dim=768,
        )  # fmt: skip
        state = layouts.published_state(RobertaSeriesModelWithTransformation(config))
        layouts.save_tokenizer(folder / "tokenizer")
        (folder / "text_encoder").mkdir()
        (folder / "text_encoder" / "config.json").write_text(config.to_json_string())
        for file in ("model.safetensors", "pytorch_model.bin"):
            path = folder / "text_encoder" / file
            (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
            for dtype in ("float32", "float16", "bfloat16"):
                command = [sys.executable, "-c", MEASURE, name, dtype]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                ratio = float(done.stdout.split()[-1])
                worst = max(worst, ratio)
                print(f"{file} (float32) -> {dtype}: {ratio:.2f} times the weights' size", flush=True)
            path.unlink()
    if not 0.9 < worst <= 1.2:
        sys.exit(f"expected at most 1.2 times, got {worst:.2f}")


if __name__ == "__main__":
    main()
