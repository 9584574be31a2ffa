"""DreamBooth: a subject from a few images of it (arXiv 2208.12242). The UNet learns, the text encoder stays frozen.

    altdiffusion train dreambooth --model BAAI/AltDiffusion-m9 --instance-dir spotty --instance-prompt "一只 <斑斑> 狗" \
        --prior-weight 1 --class-dir dogs --class-prompt 一只狗 --batch-size 4 --learning-rate 5e-6 --output-dir spotty-model
    altdiffusion generate "一只 <斑斑> 狗在海滩上" --model spotty-model/model

With `--lora-rank 8 --learning-rate 1e-4` only a LoRA is trained: a small file for `altdiffusion generate --lora`.

Prior preservation keeps the class what it was: every batch holds as many images of the class as of the subject, and
those missing in `--class-dir` are drawn by the model itself before it is trained. (FlagAI's DreamBooth never batches
them, so there it does nothing.)
"""

from __future__ import annotations

import random
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from altdiffusion.data.image_folder import PictureFolder
from altdiffusion.data.table import SkipLog
from altdiffusion.errors import InputError
from altdiffusion.generation.generate import generate
from altdiffusion.generation.result import GeneratedImage, save_image
from altdiffusion.images import image_files
from altdiffusion.pipelines.load import load_diffusion
from altdiffusion.training.inputs.captioned_images import Pictures
from altdiffusion.training.inputs.latents import Latents
from altdiffusion.training.inputs.sampling import Shuffled, piece_of
from altdiffusion.training.loop import Batch, export, fit, frozen_dtype, start
from altdiffusion.training.losses.denoising import Denoising, noise_and_timesteps
from altdiffusion.training.models.lora import add_lora, lora_config, save_lora
from altdiffusion.training.models.unet import check_resolution, freeze, sampler, save_pipeline, training_scheduler
from altdiffusion.training.stage_settings import DreamBoothSettings


def dreambooth(settings: DreamBoothSettings) -> None:
    """Train the UNet, or a LoRA of it, and save it in output_dir/model: the whole pipeline, or the LoRA alone.

    Raises InputError and TrainingStopped.
    """
    accelerator = start(settings)
    weights = [1.0, settings.prior_weight] if settings.prior_weight else [1.0]  # of the subject, of the class
    pieces = settings.gradient_accumulation_steps * accelerator.num_processes
    if settings.batch_size % (len(weights) * pieces):
        raise InputError(
            f"--batch-size {settings.batch_size} counts pictures of the subject and of the class, as many of each: "
            f"expected a multiple of {len(weights) * pieces}"
        )
    lora = lora_config(settings.lora_rank, settings.lora_layers) if settings.lora_rank else None
    tables = [PictureFolder(settings.instance_dir)]
    prompts = [settings.instance_prompt]
    pipe = load_diffusion(settings.model)
    check_resolution(pipe, settings.resolution)
    originals = freeze(pipe, accelerator.device, frozen_dtype(settings))
    if settings.class_dir is not None and settings.class_prompt is not None and settings.prior_weight:
        draw_class(pipe, settings, settings.class_dir, settings.class_prompt, accelerator)
        tables.append(PictureFolder(settings.class_dir))
        prompts.append(settings.class_prompt)

    if lora is not None:
        add_lora(pipe.unet, lora, settings.seed)
    pipe.unet.to(memory_format=torch.channels_last)
    if settings.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()

    data = Pictures(tables, SkipLog(settings.max_skipped))
    starts = [0, len(tables[0])]
    orders = [Shuffled(len(table), settings.seed, 7, kind) for kind, table in enumerate(tables)]
    size = (settings.resolution, settings.resolution)
    latents = Latents(pipe.vae, data, lambda record: size, None, accelerator)
    states = prompt_states(pipe, prompts)
    scheduler = training_scheduler(pipe)
    groups = settings.batch_size // len(tables)  # of a batch; each is a sample of every kind

    def batches(step: int, piece: int, pieces: int) -> Batch:
        pictures, kinds, numbers = [], [], []
        for group in piece_of(range(step * groups, (step + 1) * groups), piece, pieces):
            for kind, order in enumerate(orders):
                number = group * len(orders) + kind
                flip = settings.random_flip and random.Random(f"{settings.seed} {number}").random() < 0.5
                pictures.append(latents.read(starts[kind] + order[group], flip)[1])
                kinds.append(kind)
                numbers.append(number)
        batch = {"pictures": torch.stack(pictures), "states": states[kinds]}
        if len(weights) > 1:
            # the mean over both kinds then is the subject's mean + prior_weight * the class's mean
            batch["weight"] = torch.tensor([len(weights) * weights[kind] for kind in kinds])
            batch["of_class"] = torch.tensor(kinds, dtype=torch.float32)
        return batch | noise_and_timesteps(scheduler, latents.shape(0), numbers, settings.seed)

    task = Denoising(pipe.unet, scheduler, settings.snr_gamma, latents, lambda batch: batch["states"])
    fit(task, batches, settings, accelerator, records=len(data), validate=sampler(pipe, settings, accelerator))
    with export(settings, accelerator) as folder:
        if folder is not None and lora is not None:
            save_lora(pipe.unet, folder)
        elif folder is not None:
            save_pipeline(pipe, folder, originals)


@torch.no_grad()
def prompt_states(pipe: Any, prompts: list[str]) -> Tensor:
    """float32 (prompts, 77, width) on the CPU: with so few prompts they are computed once."""
    states, _ = pipe.encode_prompt(prompts, pipe.text_encoder.device, 1, do_classifier_free_guidance=False)
    return states.float().cpu()


def draw_class(pipe: Any, settings: DreamBoothSettings, folder: Path, prompt: str, accelerator: Accelerator) -> None:
    """Draw the images of the class that are missing to `num_class_images`; those already there are kept.

    drawn-00000.png has the training's seed, the next ones the following; processes share them. Interrupted and begun
    again it ends with the same images. Raises InputError where they can't be written, or the safety checker objects.
    """
    there = image_files(folder)
    taken = {path.name for path in there}
    free = ((number, name) for number in count() if (name := f"drawn-{number:05d}.png") not in taken)
    missing = list(islice(free, max(0, settings.num_class_images - len(there))))
    accelerator.wait_for_everyone()  # until all have looked at the folder
    pipe.set_progress_bar_config(disable=True)
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    for number, name in tqdm(mine, desc="drawing the class", disable=not mine, mininterval=5):
        with accelerator.autocast():  # the UNet is in float32, the others may not be
            picture = _draw(pipe, prompt, settings.seed + number, settings.resolution)
        save_image(picture, folder / name)
    accelerator.wait_for_everyone()


def _draw(pipe: Any, prompt: str, seed: int, side: int) -> GeneratedImage:
    """The first image of some seeds that the safety checker lets pass."""
    for attempt in range(10):
        (picture,) = generate(prompt, model=pipe, seed=seed + attempt * 2**32, size=(side, side))
        if not picture.filtered:
            return picture
    raise InputError(
        f"the safety checker hides what the model draws for --class-prompt {prompt}: choose another one, or put "
        "pictures of the class into --class-dir"
    )
