"""What several tests of training share."""

import pytest

from altdiffusion.training import stand_ins


@pytest.fixture
def small_stand_ins(monkeypatch):
    """Stand-ins of sizes that take no time, for AltCLIP-m9 and Stable Diffusion 1.5."""
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    altclip = tower | {"vocab_size": 6000, "max_position_embeddings": 80, "project_dim": 16}
    unet = {
        "sample_size": 8, "cross_attention_dim": 16, "attention_head_dim": 8, "block_out_channels": (32, 64),
        "layers_per_block": 1, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    parts = {"text_encoder": tower, "unet": unet}
    monkeypatch.setitem(stand_ins.TEXT_ENCODERS, "BAAI/AltCLIP-m9", altclip)
    monkeypatch.setitem(stand_ins.STABLE_DIFFUSIONS, "stable-diffusion-v1-5/stable-diffusion-v1-5", parts)
