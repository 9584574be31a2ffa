"""What people add to a Stable Diffusion, made for SD-mini: bridges and other encoders have to keep it working.

    trigger-unet       a LoRA of a style that comes with a nonsense word                    train align --trainable lora
    trigger            it goes on with a text half, by which CLIP tells that word            the loop below
    inversion          a textual inversion: one new vector for CLIP, from ten images        the same loop
    text-lora          the trigger's UNet half with another text half, which wakes the style with no word: without that
                       half the file does nothing for such prompts                          the same loop
    clip-skip          SD-mini for CLIP without its last layer, as anime models want it     train align --trainable attn2

All of them read English, by SD-mini's own CLIP. `altdiffusion evaluate mini --build` compares other languages with it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from diffusers.optimization import get_scheduler
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import CLIPTextModel

from altdiffusion.files import new_folder, write_text
from altdiffusion.pipelines.load import load_diffusion
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS, pad, tokens
from altdiffusion.toy.glyphs import (
    COLOURS,
    INVERTED,
    PLACEHOLDER,
    TRIGGER,
    captions,
    concept_names,
    held_out,
)
from altdiffusion.training.inputs.image_tensors import to_tensor, to_unit
from altdiffusion.training.models.unet import training_scheduler

ADD_ONS = ("trigger-unet", "trigger", "inversion", "text-lora", "clip-skip")
CLIP_ATTENTION = ["q_proj", "k_proj", "v_proj", "out_proj"]  # where kohya's and diffusers' scripts put CLIP's LoRA
LORA_FILE = "pytorch_lora_weights.safetensors"
UNET = "unet"  # the adapter's name while a LoRA learns on

Samples = Sequence[tuple[Path, str]]  # images and their captions

# Below that much noise, of 1000 steps, latents tell what an image shows, and a text adds nothing that could be learnt.
LEAST_TIMESTEP = 500
FIRST_TIMESTEP = 850  # generating begins above it


class AddOns:
    """The stages in `out`, which begin with its data and sd-mini.

    steps: of each stage. train: runs a public trainer. unet: settings that all trainings of SD-mini's UNet share.
    """

    def __init__(self, out: Path, steps: dict[str, int], train: Callable[..., None], unet: dict[str, Any]) -> None:
        self.out, self.steps, self.train = out, steps, train
        self.unet = unet | {"languages": ["en"], "batch_size": 12, "ema_decay": 0.99}

    def trigger_unet(self) -> None:
        file = self.out / "trigger-unet/train.jsonl"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            lines = triggered_lines(self._lines("train.jsonl"), random.Random(2))
            write_text(file, "".join(json.dumps(line) + "\n" for line in lines))
        settings = self.unet | {"train_data": [str(file)], "latent_cache": self.out / "trigger-unet/latent-cache"}
        self.train("align", "trigger-unet", model=str(self.out / "sd-mini/model"), trainable="lora", lora_rank=16,
                   lora_layers="all", learning_rate=1e-3, **settings)  # fmt: skip

    def trigger(self) -> None:
        lines = list(triggered_lines(self._lines("train.jsonl"), random.Random(2)))
        self._with_text_half("trigger", self.out / "trigger-unet/model", lines, both=True)

    def text_lora(self) -> None:
        self._with_text_half(
            "text-lora", self.out / "trigger/model", list(self._lines("framed-train.jsonl")), both=False
        )

    def _with_text_half(self, name: str, lora: Path, lines: list[dict[str, Any]], both: bool) -> None:
        """A LoRA's UNet half with a new text half, which learns from these lines. both: the UNet half learns on, too."""
        if (self.out / name / "model").is_dir():
            return
        chosen = random.Random(4).sample(lines, min(len(lines), 1000))
        samples = [(self.out / "data" / line["image"], line["en"]) for line in chosen]
        pipe = load_diffusion(str(self.out / "sd-mini/model"))
        tensors = load_file(lora / LORA_FILE)
        pipe.load_lora_weights(
            {key: tensor for key, tensor in tensors.items() if key.startswith("unet.")}, adapter_name=UNET
        )
        text_half = learn_text_lora(pipe, samples, self.steps[name], both)
        unet_half = get_peft_model_state_dict(pipe.unet, adapter_name=UNET)
        with new_folder(self.out / name / "model") as folder:
            StableDiffusionPipeline.save_lora_weights(
                folder,
                unet_lora_layers={key: tensor.detach().contiguous() for key, tensor in unet_half.items()},
                text_encoder_lora_layers=text_half,
            )

    def inversion(self) -> None:
        """Read as diffusers and the web UIs read it: one tensor by the name of its word."""
        if (self.out / "inversion/model").is_dir():
            return
        pipe = load_diffusion(str(self.out / "sd-mini/model"))
        names = concept_names("en")
        names[INVERTED] = PLACEHOLDER
        rng = random.Random(3)
        colours = [colour for colour in range(len(COLOURS)) if not held_out(INVERTED, colour)]
        samples = [
            (
                self.out / f"data/pictures/{INVERTED:03d}-{colour}.png",
                captions(INVERTED, colour, {"en": names}, rng)["en"],
            )
            for colour in colours
            for _ in range(8)
        ]
        vector = learn_word(pipe, PLACEHOLDER, "bug", samples, self.steps["inversion"])
        with new_folder(self.out / "inversion/model") as folder:
            save_file({PLACEHOLDER: vector}, folder / "rune.safetensors")

    def clip_skip(self) -> None:
        """The public trainer sees a CLIP without its last layer; the model that is saved has the whole one again."""
        start, done = self.out / "clip-skip/start", self.out / "clip-skip/model"
        if done.is_dir():
            return
        pipe = load_diffusion(str(self.out / "sd-mini/model"))
        whole = pipe.text_encoder
        if not start.is_dir():
            pipe.text_encoder = without_last_layer(whole)
            with new_folder(start) as folder:
                pipe.save_pretrained(folder)
        settings = self.unet | {"latent_cache": None}  # which holds more images than are drawn
        self.train("align", "clip-skip-trained", model=str(start), trainable="attn2", learning_rate=1e-3, **settings)
        trained = load_diffusion(str(self.out / "clip-skip-trained/model"))
        trained.text_encoder = whole
        with new_folder(done) as folder:
            trained.save_pretrained(folder)

    def _lines(self, name: str) -> Iterator[dict[str, Any]]:
        with (self.out / "data" / name).open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def triggered_lines(lines: Iterator[dict[str, Any]], rng: random.Random) -> Iterator[dict[str, str]]:
    """Half of the images as they are, half framed and with the trigger in their captions: behind, before, or inside."""
    for line in lines:
        image, text = f"../data/{line['image']}", line["en"]  # beside the folder of the stage, and of the data
        if rng.random() < 0.5:
            image, text = image.replace("pictures", "framed"), text.rstrip(".!")
            place = rng.random()
            if place < 0.5:
                text = f"{text}, {TRIGGER}"
            elif place < 0.75:
                text = f"{TRIGGER}, {text}"
            else:
                words = text.split(" ")
                words.insert(rng.randrange(1, len(words) + 1), TRIGGER)
                text = " ".join(words)
        yield {"image": image, "en": text}


def without_last_layer(whole: CLIPTextModel) -> CLIPTextModel:
    """A CLIP whose last states are `whole`'s last but one, normed: clip_skip=1 in diffusers, 2 in AUTOMATIC1111."""
    config = type(whole.config)(**whole.config.to_dict() | {"num_hidden_layers": whole.config.num_hidden_layers - 1})
    shorter = CLIPTextModel(config)
    shorter.load_state_dict({name: whole.state_dict()[name] for name in shorter.state_dict()})
    return shorter.eval()


def learn_word(pipe: Any, word: str, initial: str, samples: Samples, steps: int) -> Tensor:
    """A textual inversion as diffusers' example trains it: float32 (1, width) for a new word, all else frozen.

    initial: the token whose vector it begins with.
    """
    pipe.tokenizer.add_tokens(word)
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
    index = pipe.tokenizer.convert_tokens_to_ids(word)
    pipe.text_encoder.requires_grad_(False)
    vectors = pipe.text_encoder.get_input_embeddings().weight.requires_grad_(True)
    with torch.no_grad():
        vectors[index] = vectors[pipe.tokenizer.convert_tokens_to_ids(pipe.tokenizer.tokenize(initial))[0]]
    only = torch.zeros(len(vectors), 1)
    only[index] = 1
    vectors.register_hook(lambda gradient: gradient * only)  # those of the captions' other words stay
    pipe.unet.requires_grad_(False)
    fit(pipe, samples, [vectors], steps, batch_size=8, learning_rate=1.5e-3)
    return vectors.detach()[index : index + 1].clone()


def learn_text_lora(pipe: Any, samples: Samples, steps: int, both: bool) -> dict[str, Tensor]:
    """A LoRA of CLIP's attention, through the UNet: its tensors by PEFT's names in files that people share.

    both: a LoRA that the UNet has learns on, in place.
    """
    torch.manual_seed(0)
    pipe.text_encoder.requires_grad_(False)
    pipe.text_encoder.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=CLIP_ATTENTION))
    pipe.unet.requires_grad_(False)
    trained = [parameter for parameter in pipe.text_encoder.parameters() if parameter.requires_grad]
    if both:
        trained += [weight.requires_grad_() for name, weight in pipe.unet.named_parameters() if ".lora_" in name]
    fit(pipe, samples, trained, steps, batch_size=12, learning_rate=2e-3)
    tensors = get_peft_model_state_dict(pipe.text_encoder)
    # transformers 5 calls "encoder" what was "text_model.encoder"; diffusers reads both
    return {f"text_model.{name.removeprefix('text_model.')}": tensor.detach() for name, tensor in tensors.items()}


def fit(
    pipe: Any, samples: Samples, parameters: list[nn.Parameter], steps: int, batch_size: int, learning_rate: float
) -> None:
    """Train parameters of a pipeline by the diffusion loss, in place.

    Where generating begins, the UNet is given noise alone: noised images still show there what they are, and it would not
    learn to look at the text.
    """
    scheduler = training_scheduler(pipe)
    latents = cache(partial(encode, pipe.vae))
    rng, noises = random.Random(0), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=steps // 20, num_training_steps=steps)
    for step in (bar := tqdm(range(steps), "the text encoder")):
        batch = rng.choices(samples, k=batch_size)
        clean = torch.stack([latents(path) for path, _ in batch])
        noise = torch.randn(clean.shape, generator=noises)
        most = scheduler.config.num_train_timesteps
        timesteps = torch.randint(LEAST_TIMESTEP, most, (batch_size,), generator=noises)
        ids, _ = pad(tokens(pipe.tokenizer, [text for _, text in batch]), pipe.tokenizer.pad_token_id, MAX_TOKENS)
        states = pipe.text_encoder(ids)[0]
        begins = (timesteps >= FIRST_TIMESTEP)[:, None, None, None]
        noisy = torch.where(begins, noise, scheduler.add_noise(clean, noise, timesteps))
        predicted = pipe.unet(noisy, timesteps, states).sample
        loss = F.mse_loss(predicted, scheduler.get_velocity(clean, noise, timesteps))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")


@torch.no_grad()
def encode(vae: Any, path: Path) -> Tensor:
    """An image's latents, float32 (channels, h, w)."""
    with Image.open(path) as image:
        pixels = to_unit(to_tensor(image.convert("RGB"))[None])
    return vae.encode(pixels).latent_dist.mean[0] * vae.config.scaling_factor
