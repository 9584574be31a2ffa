"""What is saved while a LoRA is loaded loads again: without the LoRA, or with it where it was fused."""

import pytest
import torch
from peft import LoraConfig

from altdiffusion import AltDiffusionPipeline


def load(part, targets):
    pipe = AltDiffusionPipeline.from_pretrained()
    before = {name: value.clone() for name, value in getattr(pipe, part).state_dict().items()}
    getattr(pipe, part).add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    return pipe, before


@pytest.mark.parametrize(
    ("part", "targets"), [("unet", ["to_q", "to_v"]), ("text_encoder", ["query", "transformation"])]
)
@pytest.mark.parametrize("fused", [False, True])
def test_saved_with_a_lora(part, targets, fused, tmp_path, caplog):
    pipe, before = load(part, targets)
    if fused:
        pipe.fuse_lora(components=[part])
    names = list(getattr(pipe, part).state_dict())
    pipe.save_pretrained(tmp_path)
    assert ("not saved" in caplog.text) is not fused
    assert list(getattr(pipe, part).state_dict()) == names  # the LoRA is still loaded
    saved = getattr(AltDiffusionPipeline.from_pretrained(tmp_path), part).state_dict()
    same = [torch.equal(saved[name], before[name]) for name in before]
    assert all(same) is not fused
    if fused:
        pipe.unload_lora_weights()
        assert all(torch.equal(saved[name], value) for name, value in getattr(pipe, part).state_dict().items())
