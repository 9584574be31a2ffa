"""Hidden states of captions: from a cache as computed."""

import torch
from accelerate import Accelerator
from helpers.bridges import bridged
from helpers.small_diffusion import add_captions, save_pictures

from altdiffusion.training.inputs.captioned_images import CaptionedImages
from altdiffusion.training.inputs.text_states import TextStates


def test_states_behind_a_bridge_are_cached_whole(published, tmp_path):
    pictures = add_captions(save_pictures(tmp_path / "pictures", [(8, 8)] * 2))
    pipe = bridged(published)
    data = CaptionedImages([str(pictures)], ["en"], 0.0)
    captions = [(0, "en"), None]
    accelerator = Accelerator(cpu=True)
    plain, cached = (
        TextStates(pipe.text_encoder, pipe.tokenizer, data, cache, accelerator) for cache in (None, tmp_path / "states")
    )
    torch.testing.assert_close(cached(cached.collate(captions)), plain(plain.collate(captions)), rtol=2e-3, atol=2e-3)
