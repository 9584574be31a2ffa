"""The stages of the method, with their settings. Light on purpose: no torch.

A new stage is a class of settings here, one entry in STAGES, and the file that the entry names.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from altdiffusion.settings import neutral, setting
from altdiffusion.training import bridge_presets
from altdiffusion.training.settings import TrainingSettings, cache_folder

_HUB = "hub:OWNER/NAME/CONFIG:SPLIT (patterns and {000..012} are expanded)"
_TEXTS = f"files of texts: .tsv, .csv, .jsonl, .parquet, folders of Hugging Face datasets, data sets of its hub: {_HUB}"
_IMAGES = (
    "images with captions: webdataset .tar, folders with metadata.jsonl, .csv or .tsv, .jsonl, .csv, .tsv, .parquet, "
    f"folders of Hugging Face datasets, data sets of its hub: {_HUB}"
)
_LANGUAGES = (
    "columns of the data that are read, with weights: en zh=2 (default: caption or text, else those named by languages)"
)


class DistillSettings(TrainingSettings):
    """Phase 1: a multilingual text tower learns CLIP's text space from parallel text."""

    teacher: str = setting(
        ..., "CLIP, its text encoder, or a Stable Diffusion: folder or id on the hub", source="model"
    )
    student: str = setting(..., "XLM-R or an AltCLIP text tower: folder or id on the hub", source="model")
    train_data: list[str] = setting(..., _TEXTS, source="data")
    languages: list[str] = setting([], _LANGUAGES)
    teacher_language: str = setting("en", "the column that the teacher reads")
    loss: Literal["mse", "cosine", "contrastive"] = setting("mse", "what pulls the student to the teacher")
    contrastive_scale: float = setting(20.0, "factor on the cosines of the contrastive loss", minimum=0)
    teacher_cache: Path | None = cache_folder("the teacher's vectors")
    validation_data: list[str] = neutral([], "texts to validate on, in the same columns", source="data")


class ExtendSettings(TrainingSettings):
    """An AltCLIP learns further languages from parallel text, while those it knows are held."""

    model: str = setting(
        ..., "AltCLIP, or its text tower alone, which an AltDiffusion has: folder or id on the hub", source="model"
    )
    teacher: str | None = setting(
        None,
        "the CLIP it came from, whose vectors of the English text are learnt; none: its own, as they are now",
        source="model",
    )
    train_data: list[str] = setting(..., _TEXTS, source="data")
    languages: list[str] = setting(..., "the languages to learn: columns of the data, with weights: th vi=2")
    keep: list[str] = setting(
        [], "the languages to hold: columns of the data, with weights (default: all others that are named by languages)"
    )
    teacher_language: str = setting("en", "the column that is the others' target, itself held")
    replay: float = setting(
        0.5,
        "fraction of the texts that are of languages to hold, read as the model read them before",
        minimum=0,
        maximum=0.95,
    )
    start_weight: float = setting(
        0.0, "of a penalty: half the squared distance of the weights from those at the start", minimum=0
    )
    interpolate: bool = setting(
        False, "save a mixture of the weights at the start and the trained ones, the best that validation finds"
    )
    bridge: str | None = setting(
        None,
        "a bridge that is to read the new languages, too, and stays as it is: folder, id on the hub, or mini",
        source="model",
    )
    bridge_weight: float = setting(1.0, "of the error of the bridge's soft tokens", minimum=0)
    state_cache: Path | None = cache_folder("the states of the model at the start")
    validation_data: list[str] = neutral([], "texts to validate on, in the same columns", source="data")
    max_loss: float = neutral(
        0.5, "a gate: points of R@1, of 100, that a held language may lose; the training stops there", minimum=0
    )

    def problems(self) -> list[str]:
        """No language is both learnt and held; what is measured needs texts to measure on."""
        new, old = ({each.partition("=")[0] for each in names} for names in (self.languages, self.keep))
        problems = []
        if not self.languages:
            problems.append("--languages: expected the languages to learn, such as th vi=2")
        if self.teacher_language in new:
            problems.append(f"--languages {self.teacher_language} is the target of the others: leave it out")
        if both := sorted(new & old):
            problems.append(f"{', '.join(both)} can't be learnt and held: name it in --languages or in --keep")
        if self.interpolate and not self.validation_data:
            problems.append("--interpolate needs --validation-data")
        if self.bridge is None and (given := self.changed("bridge_weight")):
            problems.append(f"{given} needs --bridge")
        return problems


class ContrastSettings(TrainingSettings):
    """Phase 2: contrastive tuning on images with captions."""

    model: str = setting(..., "AltCLIP or CLIP: folder or id on the hub", source="model")
    train_data: list[str] = setting(..., _IMAGES, source="data")
    languages: list[str] = setting([], _LANGUAGES)
    trainable: Literal["text", "both"] = setting("text", "the text tower alone, or both towers")
    image_cache: Path | None = cache_folder("the image features")
    interpolation: float = setting(
        1.0, "fraction of the trained weights in the saved ones, the rest being the former ones", minimum=0, maximum=1
    )
    validation_data: list[str] = neutral([], "images with captions to validate on, in the same columns", source="data")

    def problems(self) -> list[str]:
        """The cache holds what the image tower gives, so that tower must stay as it is."""
        if self.image_cache is not None and self.trainable == "both":
            return ["--image-cache needs --trainable text: with both towers trained, image features change"]
        return []


class AutoencoderSettings(TrainingSettings):
    """An image autoencoder (VAE) for latent diffusion."""

    model: str = setting(..., "the AutoencoderKL to start from: its folder, or a pipeline's", source="model")
    train_data: list[str] = setting(..., _IMAGES, source="data")
    loss: Literal["l1", "mse", "l1+mse"] = setting(
        "l1+mse",
        "absolute error finds outlines, squared error the last decibel; l1+mse: a tenth of the one and the other",
    )
    kl_weight: float = setting(1e-5, "of the latents' divergence from a normal distribution", minimum=0)
    validation_data: list[str] = neutral([], "images to validate on", source="data")


class DiffusionSettings(TrainingSettings):
    """What align and dreambooth share: a Stable Diffusion, images, the diffusion loss."""

    model: str = setting(..., "Stable Diffusion 1.x or 2.x, or AltDiffusion: folder or id on the hub", source="model")
    resolution: int = setting(512, "pixels of a side, or of the square that a bucket's area equals", minimum=8)
    random_flip: bool = setting(False, "mirror half of the images")
    lora_layers: Literal["attention", "all"] = setting(
        "attention",
        "what the LoRA stands beside: attention: its projections; all: convolutions and linear layers, for styles",
    )
    snr_gamma: float | None = setting(
        None, "min-SNR weighting of the loss, 5 in its paper; none: no weighting", minimum=0
    )
    validation_prompts: list[str] = neutral([], "generated at each validation, into output_dir/samples")
    validation_inference_steps: int = neutral(25, "denoising steps of the samples", minimum=1)
    validation_guidance_scale: float = neutral(7.5, "guidance of the samples", minimum=0)


class AlignSettings(DiffusionSettings):
    """A UNet learns a text encoder: AltDiffusion's concept alignment and quality stages."""

    text_encoder: str | None = setting(
        None, "AltCLIP to swap in: folder or id on the hub; none: the model's own encoder", source="model"
    )
    train_data: list[str] = setting(..., _IMAGES, source="data")
    languages: list[str] = setting([], _LANGUAGES)
    trainable: Literal["kv", "attn2", "unet", "lora"] = setting(
        "kv", "kv: attn2.to_k and attn2.to_v; attn2: all of the cross-attention; unet: all; lora: a LoRA beside it"
    )
    lora_rank: int = setting(16, "rank of the LoRA, with --trainable lora", minimum=1, maximum=1024)
    caption_dropout: float = setting(
        0.1, "fraction of captions replaced by the empty one, for guidance", minimum=0, maximum=1
    )
    aspect_buckets: bool = setting(False, "keep the images' shapes: batches of one shape each, instead of centre crops")
    max_aspect: float = setting(
        2.0, "the longest shape of a bucket: width / height or its inverse", minimum=1, maximum=8
    )
    latent_cache: Path | None = cache_folder("the latents")
    text_cache: Path | None = cache_folder("the text states")

    def problems(self) -> list[str]:
        """Cached latents are of one view of each image; the LoRA's settings are for a LoRA."""
        problems = []
        if self.latent_cache is not None and self.random_flip:
            problems.append("--random-flip needs images, --latent-cache keeps one view of each: choose one of them")
        if self.trainable != "lora" and (given := self.changed("lora_rank", "lora_layers")):
            problems.append(f"{given} needs --trainable lora, got {self.trainable}")
        return problems


class BridgeSettings(TrainingSettings):
    """AltCLIP's states become soft tokens for CLIP: any Stable Diffusion in every language, from text alone."""

    preset: Literal["sd15", "sd21", "sdxl"] | None = neutral(
        None,
        "fill in text encoder, model, data of the hub, steps and gates for --languages and en; other flags win over it",
    )
    text_encoder: str = setting(
        ..., "AltCLIP or AltDiffusion, whose states are read: folder or id on the hub", source="model"
    )
    model: str = setting(
        ..., "the Stable Diffusion 1.x, 2.x or XL whose text states are learnt: folder or id on the hub", source="model"
    )
    allow_pickle: bool = neutral(False, "read .bin files of these two, which can carry code")
    at: Literal["entrance"] = neutral(
        "entrance", "where it stands: at CLIP's entrance; bridges at its exit are only loaded"
    )
    train_data: list[str] = setting(..., _TEXTS, source="data")
    languages: list[str] = setting([], _LANGUAGES)
    teacher_language: str = setting("en", "the column that CLIP reads")
    bridge: str | None = setting(
        None, "a trained bridge to go on from, whose sizes it keeps: folder, id on the hub, or mini", source="model"
    )
    hidden_size: int = setting(768, "width of the bridge", minimum=8)
    num_layers: int = setting(3, "decoder layers", minimum=1, maximum=24)
    num_attention_heads: int = setting(12, "heads of each layer", minimum=1)
    intermediate_size: int = setting(2048, "width of the feed-forward layers", minimum=8)
    literal: float = setting(
        0.4, "fraction of texts that are learnt beside literal English tokens", minimum=0, maximum=1
    )
    word_weight: float = setting(0.3, "of the soft tokens' likeness to the English tokens", minimum=0)
    length_weight: float = setting(0.05, "of the number of soft tokens", minimum=0)
    padding_positions: int = setting(
        8,
        "states after the end of the text that are compared; all with --prediction-weight",
        minimum=0,
    )
    padding_weight: float = setting(1.0, "weight of the states after the end of the text, before it 1", minimum=0)
    cross_attention_weight: float = setting(
        0.0, "of a second loss: the error as the UNet's own to_k and to_v see it", minimum=0
    )
    prediction_weight: float = setting(
        0.0, "of a third loss: the error in what the frozen UNet predicts out of noise", minimum=0
    )
    caption_like: bool = setting(
        False,
        "of general parallel text, read only sentences that are like captions: short, no dialogue, links or digits",
    )
    validation_data: list[str] = neutral([], "texts to validate on, in the same columns", source="data")
    minimum_retrieval: float = neutral(
        0.0, "a gate: the R@1 that each language must reach at the end, 1 being all; 0: none", minimum=0, maximum=1
    )
    maximum_prediction_error: float | None = neutral(
        None, "a gate: the UNet's relative error, 0 as with CLIP's states, 1 as far off as with no text", minimum=0
    )

    @classmethod
    def fill_in(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Over the preset's settings, if one is given."""
        preset = given.get("preset")
        return dict(given) if preset in (None, "none", ["none"]) else bridge_presets.fill_in(str(preset), given)

    def problems(self) -> list[str]:
        """A trained bridge has its sizes; a new one's width is shared by its heads."""
        if self.caption_like and self.teacher_language != bridge_presets.ENGLISH:
            return [f"--caption-like judges English: expected --teacher-language en, got {self.teacher_language}"]
        if (gates := self.changed(*bridge_presets.GATES)) and not self.validation_data:
            return [f"{gates} needs --validation-data"]
        sizes = ("hidden_size", "num_layers", "num_attention_heads", "intermediate_size")
        if self.bridge is not None and (given := self.changed(*sizes)):
            return [f"--bridge keeps its own sizes: leave out {given}"]
        if self.bridge is None and self.hidden_size % self.num_attention_heads:
            return [
                f"--hidden-size {self.hidden_size}: expected a multiple of --num-attention-heads {self.num_attention_heads}"
            ]
        return []


class DreamBoothSettings(DiffusionSettings):
    """A subject from a few images of it."""

    # FlagAI's DreamBooth of AltDiffusion, see pipelines/settings/dreambooth.toml
    max_train_steps: int = setting(800, "optimizer steps", minimum=1)
    batch_size: int = setting(4, "samples of one optimizer step, over all processes", minimum=1)
    learning_rate: float = setting(5e-6, "the highest of the schedule; a LoRA wants more, such as 1e-4", minimum=0)
    instance_dir: Path = setting(..., "folder with images of the subject", source="path")
    instance_prompt: str = setting(..., "names the subject by a rare word and its class: 一只 <斑斑> 狗")
    lora_rank: int = setting(0, "train a LoRA of this rank; 0: the whole UNet", minimum=0, maximum=1024)
    prior_weight: float = setting(0.0, "of the prior preservation; 0: without", minimum=0)
    class_dir: Path | None = setting(None, "folder with images of the class; those missing are generated into it")
    class_prompt: str | None = setting(None, "names the class alone: 一只狗")
    num_class_images: int = setting(100, "images of the class", minimum=1)

    def problems(self) -> list[str]:
        """Prior preservation needs a class and a weight; the LoRA's layers need a rank."""
        problems = []
        if self.prior_weight and (self.class_dir is None or self.class_prompt is None):
            problems.append("--prior-weight needs --class-dir and --class-prompt")
        if not self.prior_weight and (given := self.changed("class_dir", "class_prompt")):
            problems.append(f"{given} needs --prior-weight, such as 1")
        if not self.lora_rank and (given := self.changed("lora_layers")):
            problems.append(f"{given} needs --lora-rank, such as 16")
        return problems


# name -> (its settings, where the function is that runs it)
STAGES: dict[str, tuple[type[TrainingSettings], str]] = {
    "distill": (DistillSettings, "altdiffusion.training.stages.distill:train_distill"),
    "extend": (ExtendSettings, "altdiffusion.training.stages.extend:train_extend"),
    "contrast": (ContrastSettings, "altdiffusion.training.stages.contrast:train_contrast"),
    "autoencoder": (AutoencoderSettings, "altdiffusion.training.stages.autoencoder:train_autoencoder"),
    "align": (AlignSettings, "altdiffusion.training.stages.align:train_align"),
    "bridge": (BridgeSettings, "altdiffusion.training.stages.bridge:train_bridge"),
    "dreambooth": (DreamBoothSettings, "altdiffusion.training.stages.dreambooth:train_dreambooth"),
}


def run_stage(name: str, settings: TrainingSettings) -> None:
    """Import a stage, and torch with it, and run it."""
    module, _, function = STAGES[name][1].partition(":")
    getattr(importlib.import_module(module), function)(settings)
