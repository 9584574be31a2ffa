"""AltDiffusion's own training: an SD UNet learns a new text encoder, which stays frozen (arXiv 2308.09991).

    altdiffusion train align --model stable-diffusion-v1-5/stable-diffusion-v1-5 --text-encoder BAAI/AltCLIP-m9 --trainable kv \
        --train-data "pairs/{000..099}.tar" --resolution 256 --output-dir concept-alignment
    altdiffusion train align --model concept-alignment/model --trainable unet ...

First only the cross-attention's K and V (concept alignment), then the whole UNet, with captions dropped for guidance.
"""

from __future__ import annotations

import random

import torch

from altdiffusion.pipelines.load import load_diffusion
from altdiffusion.training.inputs.aspect_buckets import Buckets
from altdiffusion.training.inputs.captioned_images import CaptionedImages
from altdiffusion.training.inputs.latents import Latents
from altdiffusion.training.inputs.text_states import TextStates
from altdiffusion.training.loop import Batch, fit, frozen_dtype, start
from altdiffusion.training.losses.denoising import Denoising, noise_and_timesteps
from altdiffusion.training.models.lora import lora_config
from altdiffusion.training.models.unet import (
    check_resolution,
    export_unet,
    freeze,
    pixel_multiple,
    prepare_unet,
    sample_prompts,
    training_scheduler,
)
from altdiffusion.training.stage_settings import AlignSettings


def train_align(settings: AlignSettings) -> None:
    """Train the UNet and save the whole pipeline in output_dir/model, or its LoRA alone.

    Raises InputError and TrainingStopped.
    """
    accelerator = start(settings)
    lora = lora_config(settings.lora_rank, settings.lora_layers) if settings.trainable == "lora" else None
    pipe = load_diffusion(settings.model, settings.text_encoder)
    check_resolution(pipe, settings.resolution)
    originals = freeze(pipe, accelerator.device, frozen_dtype(settings))
    prepare_unet(pipe, settings, lora, settings.trainable)

    data = CaptionedImages(settings.train_data, settings.languages, settings.max_skipped)
    max_aspect, multiple = settings.max_aspect if settings.aspect_buckets else 1.0, pixel_multiple(pipe)
    shapes = Buckets(data, settings.resolution, max_aspect, multiple, settings.batch_size, settings.seed)
    latents = Latents(pipe.vae, data, shapes.size_of, settings.latent_cache, accelerator)
    states = TextStates(pipe.text_encoder, pipe.tokenizer, data, settings.text_cache, accelerator)
    scheduler = training_scheduler(pipe)

    def batches(step: int, index: int, count: int) -> Batch:
        _, samples = shapes.batch(step, index, count)
        images, captions = [], []
        for number, sample in samples:
            chance = random.Random(f"{settings.seed} {number}")
            record, image = latents.read(sample.record, flip=settings.random_flip and chance.random() < 0.5)
            images.append(image)
            captions.append(None if chance.random() < settings.caption_dropout else (record, sample.language))
        numbers, shape = [number for number, _ in samples], latents.shape(samples[0][1].record)
        noise = noise_and_timesteps(scheduler, shape, numbers, settings.seed)
        return {"images": torch.stack(images), **noise, **states.collate(captions)}

    task = Denoising(pipe.unet, scheduler, settings.snr_gamma, latents, states)
    fit(task, batches, settings, accelerator, records=len(data), validate=sample_prompts(pipe, settings, accelerator))
    export_unet(pipe, settings, accelerator, lora, originals)
