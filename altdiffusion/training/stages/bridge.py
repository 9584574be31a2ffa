"""The bridge: AltCLIP's hidden states become CLIP's, so that any Stable Diffusion reads every language of AltCLIP.

    altdiffusion train bridge --text-encoder BAAI/AltCLIP-m9 --model stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --train-data en-zh.tsv --output-dir bridge-sd15

It learns from text alone. Given AltCLIP's states of a text in any language, it is to give the 77 states that Stable
Diffusion's own text encoder makes of the English text. Both encoders are frozen. Where asked for, the error also counts as
the frozen UNet sees it; that needs no image either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from altdiffusion.errors import InputError
from altdiffusion.metrics import recall_at_k
from altdiffusion.text_encoder.bridge import Bridge, BridgeConfig, load_bridge
from altdiffusion.text_encoder.encoder import load_text_encoder
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS, tokens
from altdiffusion.training.inputs.clip_states import ClipStates, altclip_states, stable_diffusion_folder, stack_states
from altdiffusion.training.inputs.feature_cache import TextCache, checksum
from altdiffusion.training.inputs.parallel_text import Pair, ParallelText
from altdiffusion.training.inputs.sampling import LengthBatches, micro_batch
from altdiffusion.training.loop import Batch, export, fit, frozen_dtype, start
from altdiffusion.training.losses.unet_errors import PredictionError, cross_attention_metric, load_unet
from altdiffusion.training.stage_settings import BridgeSettings
from altdiffusion.training.stages.entrance_bridge import train_entrance_bridge

ReadStates = Callable[[Sequence[Sequence[int]]], list[Tensor]]  # token ids of texts -> (tokens, width) of each


def train_bridge(settings: BridgeSettings) -> None:
    """Train a bridge and save it in output_dir/model, for `swap_text_encoder(pipe, altclip, bridge=...)`.

    Raises InputError and TrainingStopped.
    """
    if settings.at == "entrance":
        train_entrance_bridge(settings)
        return
    accelerator = start(settings)
    encoder, tokenizer = load_text_encoder(
        settings.text_encoder, dtype=frozen_dtype(settings), allow_pickle=settings.allow_pickle
    )
    encoder.requires_grad_(False).to(accelerator.device)
    root = stable_diffusion_folder(settings.model, settings.allow_pickle)
    clip = ClipStates(root, accelerator.device, frozen_dtype(settings))
    model = _begin(settings, encoder, clip)

    def read_text(paths: Sequence[str], empty: float) -> ParallelText:
        return ParallelText(
            paths, settings.languages, settings.teacher_language, tokenizer, clip.tokenizer, settings.seed,
            settings.max_skipped, empty,
        )  # fmt: skip

    text = read_text(settings.train_data, settings.empty)
    read_states = altclip_states(encoder, tokenizer.pad_token_id)
    task = Translation(model, read_states, clip, settings, accelerator.device)
    languages = list(text.languages)
    students = teachers = None
    if settings.student_cache is not None:
        about = {"what": "AltCLIP's states", "text_encoder": checksum(encoder), "languages": languages}
        students = TextCache(
            settings.student_cache, text.records, languages,
            lambda texts: read_states(tokens(tokenizer, texts)), about, accelerator,
        )  # fmt: skip
    if settings.teacher_cache is not None:
        about = {"what": "CLIP's states", "text_encoder": checksum(*clip.towers), "languages": languages}
        about |= {"language": settings.teacher_language}
        teachers = TextCache(
            settings.teacher_cache, text.records, [settings.teacher_language],
            lambda texts: list(clip.joined(tokens(clip.tokenizer, texts))), about, accelerator, batch=16,
        )  # fmt: skip
    by_length = LengthBatches(text.read, lambda pair: len(pair.ids), settings.batch_size, settings.seed)

    def batches(step: int, index: int, count: int) -> Batch:
        pairs: Sequence[Pair] = micro_batch(by_length.batch(step), index, count)
        batch: Batch = {"ids": [pair.ids for pair in pairs], "teacher_ids": [pair.teacher_ids for pair in pairs]}
        if students is not None:
            states = [students[(pair.record, pair.language) if pair.record >= 0 else None] for pair in pairs]
            batch["states"], batch["mask"] = stack_states(states)
        if teachers is not None:
            english = settings.teacher_language
            targets = [teachers[(pair.record, english) if pair.record >= 0 else None] for pair in pairs]
            batch["target"] = torch.stack(targets)
        lengths = torch.tensor([len(pair.teacher_ids) for pair in pairs])
        batch["real"] = torch.arange(MAX_TOKENS) < lengths[:, None]
        if task.prediction_error is not None:
            first = step * settings.batch_size + index * len(pairs)
            batch |= task.prediction_error.noise(range(first, first + len(pairs)), settings.seed)
        return batch

    validate = None
    if settings.validation_data:
        validate = partial(_validate, model, read_states, clip, read_text(settings.validation_data, 0.0))
    fit(task, batches, settings, accelerator, records=len(text), validate=validate)
    with export(settings, accelerator) as folder:
        if folder is not None:
            model.cpu().save_pretrained(folder)


class Translation(nn.Module):
    """The bridge's error on pairs of texts. A batch may hold states and targets from caches; else they are computed."""

    def __init__(
        self, model: Bridge, read_states: ReadStates, clip: ClipStates, settings: BridgeSettings, device: torch.device
    ) -> None:
        super().__init__()
        self.model = model
        self._read_states, self._clip, self._settings = read_states, clip, settings
        self._metric: Tensor | None = None
        self.prediction_error: PredictionError | None = None
        if settings.cross_attention_weight or settings.prediction_weight:
            unet = load_unet(clip.root, frozen_dtype(settings))
            if settings.cross_attention_weight:
                self._metric = cross_attention_metric(unet).to(device)
            if settings.prediction_weight:
                if settings.gradient_checkpointing:
                    unet.train().enable_gradient_checkpointing()
                self.prediction_error = PredictionError(clip.root, unet, device)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if "states" in batch:
            states, mask = batch["states"], batch["mask"]
        else:
            states, mask = stack_states(self._read_states(batch["ids"]))
        target = batch["target"] if "target" in batch else self._clip.joined(batch["teacher_ids"])
        output = self.model(states, mask)
        width = output.last_hidden_state.shape[-1]
        wanted, pooled = target[:, :MAX_TOKENS, :width], None
        error = output.last_hidden_state.float() - wanted
        weight = torch.where(batch["real"], 1.0, self._settings.padding_weight)
        weight = weight / weight.mean()
        losses = {"mse": (weight * error.square().mean(-1)).mean()}
        total = losses["mse"]
        if output.pooled is not None:
            pooled = target[:, MAX_TOKENS, : output.pooled.shape[-1]]
            losses["pooled"] = (output.pooled.float() - pooled).square().mean()
            total = total + losses["pooled"]
        if self._metric is not None:
            losses["cross_attention"] = (weight * ((error @ self._metric) * error).sum(-1)).mean()
            total = total + self._settings.cross_attention_weight * losses["cross_attention"]
        if self.prediction_error is not None:
            given = (output.last_hidden_state, output.pooled)
            losses["prediction"] = self.prediction_error(batch, given, (wanted, pooled))
            total = total + self._settings.prediction_weight * losses["prediction"]
        return {"loss": total, **losses}


def _begin(settings: BridgeSettings, encoder: Any, clip: ClipStates) -> Bridge:
    """The bridge as training begins: a new one, or the one that is given."""
    widths = {
        "input_width": int(encoder.config.project_dim),
        "output_width": clip.width,
        "pooled_width": clip.pooled_width,
    }
    if settings.bridge is not None:
        model = load_bridge(settings.bridge, torch.float32)
        if not isinstance(model, Bridge):
            raise InputError(
                f"--bridge {settings.bridge} stands at CLIP's entrance: expected one for its exit, or --at entrance"
            )
        own = {name: getattr(model.config, name) for name in widths}
        if own != widths:
            has, needs = (" to ".join(map(str, filter(None, sizes.values()))) for sizes in (own, widths))
            raise InputError(
                f"--bridge {settings.bridge} leads from width {has}, and {settings.text_encoder} to {settings.model} is "
                f"{needs}: expected a bridge between these two, or none, to begin a new one"
            )
        return model.train()
    torch.manual_seed(settings.seed)
    config = BridgeConfig(
        **widths,
        hidden_size=settings.hidden_size,
        num_layers=settings.num_layers,
        num_attention_heads=settings.num_attention_heads,
        intermediate_size=settings.intermediate_size,
        target="penultimate" if clip.pooled_width else "last_hidden_state",
    )
    return Bridge(config)


def _validate(
    model: Bridge, read_states: ReadStates, clip: ClipStates, text: ParallelText, step: int
) -> dict[str, float]:
    """For each language, of up to 500 pairs: the mean squared error, and how often the nearest target is the right one."""
    metrics = {}
    for language in text.languages:
        pairs = text.of_language(language, 500)
        given, wanted = [], []
        for first in range(0, len(pairs), 50):
            some = pairs[first : first + 50]
            given.append(model(*stack_states(read_states([ids for ids, _ in some]))).last_hidden_state.float())
            wanted.append(clip.joined([ids for _, ids in some])[:, :MAX_TOKENS])
        left, right = torch.cat(given).flatten(1), torch.cat(wanted).flatten(1)
        same = torch.tensor([[a[1] == b[1] for b in pairs] for a in pairs], device=left.device)
        metrics[f"{language} mse"] = (left - right).square().mean().item()
        metrics[f"{language} R@1"] = recall_at_k(-torch.cdist(left, right), same, 1)
    return metrics
