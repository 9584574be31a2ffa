"""What an error in the text states does in a frozen UNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from helpers import layouts

from altdiffusion.errors import InputError
from altdiffusion.training.losses.unet_errors import NOISIEST, PredictionError, cross_attention_metric, load_unet

CPU = torch.device("cpu")


def saved(folder: Path, unet: Any, prediction_type: str = "epsilon") -> Path:
    unet.save_pretrained(folder / "unet")
    diffusers.DDIMScheduler(prediction_type=prediction_type, clip_sample=False).save_pretrained(folder / "scheduler")
    return folder


def states(seed: int, width: int = 16, batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 77, width, generator=torch.Generator().manual_seed(seed))


def test_the_metric_is_the_error_of_all_keys_and_values():
    unet = layouts.small_unet(16)
    metric = cross_attention_metric(unet)
    error = torch.randn(16, generator=torch.Generator().manual_seed(0))
    maps = [p for name, p in unet.named_parameters() if "attn2.to_k" in name or "attn2.to_v" in name]
    moved = sum((weight @ error).square().sum() for weight in maps)
    scale = sum(weight.square().sum() for weight in maps)
    torch.testing.assert_close(error @ metric @ error, moved / scale)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_prediction_error_is_that_of_the_clean_latents(tmp_path, prediction_type):
    model = saved(tmp_path, layouts.small_unet(16), prediction_type)
    error = PredictionError(model, load_unet(model, torch.float32), CPU)
    batch, given, wanted = error.noise(range(3), 0), states(1), states(2)

    unet, scheduler = layouts.small_unet(16), diffusers.DDPMScheduler.from_pretrained(tmp_path / "scheduler")
    squares = []
    for row, timestep in enumerate(batch["timesteps"]):
        noisy = batch["noise"][row : row + 1]
        clean = []
        for text in (given, wanted):
            with torch.no_grad():
                predicted = unet(noisy, timestep, text[row : row + 1]).sample
            clean.append(scheduler.step(predicted, timestep, noisy).pred_original_sample)
        squares.append((clean[0] - clean[1]).square().mean())
    torch.testing.assert_close(
        error(batch, (given, None), (wanted, None)), torch.stack(squares).mean(), rtol=1e-4, atol=0
    )
    assert error(batch, (wanted, None), (wanted, None)) == 0


def test_predictions_of_several_texts_are_from_the_same_noise(tmp_path):
    model = saved(tmp_path, layouts.small_unet(16))
    error = PredictionError(model, load_unet(model, torch.float32), CPU)
    texts = [(states(1), None), (states(2), None), (states(1), None)]
    first, second, again = error.predictions(texts, range(4, 7), 0)
    noise = error.noise(range(4, 7), 0)
    expected = layouts.small_unet(16)(noise["noise"], noise["timesteps"], states(2)).sample
    torch.testing.assert_close(second, expected.detach())
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not first.requires_grad


def test_gradients_reach_the_given_states_alone(tmp_path):
    model = saved(tmp_path, layouts.small_unet(16))
    unet = load_unet(model, torch.float32)
    error = PredictionError(model, unet, CPU)
    given, wanted = states(1).requires_grad_(), states(2).requires_grad_()
    error(error.noise(range(3), 0), (given, None), (wanted, None)).backward()
    assert given.grad is not None
    assert given.grad.abs().sum() > 0
    assert wanted.grad is None
    assert all(parameter.grad is None for parameter in unet.parameters())


def test_a_samples_noise_is_the_same_in_whichever_process_it_is_drawn(tmp_path):
    model = saved(tmp_path, layouts.small_unet(16))
    error = PredictionError(model, load_unet(model, torch.float32), CPU)
    whole, halves = error.noise(range(8), 3), [error.noise(range(0, 4), 3), error.noise(range(4, 8), 3)]
    for name, value in whole.items():
        assert torch.equal(value, torch.cat([half[name] for half in halves]))
    assert whole["noise"].shape == (8, 4, 8, 8)
    assert whole["timesteps"].min() >= NOISIEST * 1000
    assert not torch.equal(whole["noise"], error.noise(range(8), 4)["noise"])


def test_the_pooled_vector_of_xl_counts(tmp_path):
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16, attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=12 + 6 * 8,
    )  # fmt: skip
    model = saved(tmp_path, unet)
    error = PredictionError(model, load_unet(model, torch.float32), CPU)
    batch, text, pooled = error.noise(range(3), 0), states(1), torch.ones(3, 12)
    assert error(batch, (text, pooled), (text, pooled)) == 0
    assert error(batch, (text, -pooled), (text, pooled)) > 0


def test_a_unet_that_takes_more_than_a_text_is_refused(tmp_path):
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=9, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )  # fmt: skip
    model = saved(tmp_path, unet)
    with pytest.raises(InputError, match="takes 9 channels and gives 4"):
        PredictionError(model, load_unet(model, torch.float32), CPU)


def test_a_scheduler_that_predicts_the_picture_is_refused(tmp_path):
    model = saved(tmp_path, layouts.small_unet(16), "sample")
    with pytest.raises(InputError, match="predicts 'sample': expected epsilon or v_prediction"):
        PredictionError(model, load_unet(model, torch.float32), CPU)


def test_a_model_without_a_scheduler_is_refused(tmp_path):
    layouts.small_unet(16).save_pretrained(tmp_path / "unet")
    with pytest.raises(InputError, match=r"scheduler_config\.json can't be read"):
        PredictionError(tmp_path, load_unet(tmp_path, torch.float32), CPU)
