"""What is saved while a LoRA is loaded loads again: without it, or with it where it was fused. An IP-Adapter is refused."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig

from altdiffusion import AltDiffusionPipeline, InputError


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


def test_an_ip_adapter_is_refused_until_it_is_unloaded(tmp_path):
    pipe = AltDiffusionPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 1, "output_type": "np"}
    before = pipe("a cat", generator=torch.manual_seed(0), **options).images
    width, image_width, tokens = pipe.unet.config.cross_attention_dim, 8, 4
    layers = {}
    for number, name in enumerate(pipe.unet.attn_processors):
        if "attn2" in name:
            rows = pipe.unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
            layers |= {f"{number}.{part}_ip.weight": torch.randn(rows, width) for part in ("to_k", "to_v")}
    projection = {"proj.weight": torch.randn(tokens * width, image_width), "proj.bias": torch.zeros(tokens * width)}
    projection |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    adapter = {"image_proj": projection, "ip_adapter": layers}
    pipe.load_ip_adapter(adapter, subfolder="", weight_name="", image_encoder_folder=None)
    with pytest.raises(InputError, match=r"an IP-Adapter is loaded.*unload_ip_adapter"):
        pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    pipe.unload_ip_adapter()
    pipe.save_pretrained(tmp_path)
    stock = StableDiffusionPipeline.from_pretrained(tmp_path)
    np.testing.assert_allclose(stock("a cat", generator=torch.manual_seed(0), **options).images, before, atol=1e-4)
