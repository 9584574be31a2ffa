"""The bridge: AltCLIP's token states become CLIP's, so that any Stable Diffusion reads every language of AltCLIP.

    altdiffusion train bridge --text-encoder BAAI/AltCLIP-m9 --model stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --train-data en-zh.tsv --output-dir bridge-sd15

Text alone: input are AltCLIP's states of a text in any language, target are the states that Stable Diffusion's own text
encoder gives for the English text, all 77 of them. Both encoders are frozen. Where asked for, the error counts as the frozen
UNet sees it, too; no image is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from altdiffusion.checkpoints import hub
from altdiffusion.errors import InputError
from altdiffusion.metrics import recall_at_k
from altdiffusion.text_encoder.bridge import Bridge, BridgeConfig, load_bridge
from altdiffusion.text_encoder.encoder import load_text_encoder
from altdiffusion.text_encoder.forward import disable_prompt_cache
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS, tokens
from altdiffusion.training.inputs.clip_states import STABLE_DIFFUSION_FILES, ClipStates, altclip_states, stack_states
from altdiffusion.training.inputs.feature_cache import FeatureCache, checksum, describe_tables
from altdiffusion.training.inputs.parallel_text import Pair, ParallelText
from altdiffusion.training.inputs.sampling import LengthBatches, piece_of
from altdiffusion.training.loop import Batch, export, fit, frozen_dtype, start
from altdiffusion.training.losses.unet_errors import PredictionError, cross_attention_metric, load_unet
from altdiffusion.training.stage_settings import BridgeSettings


def bridge(settings: BridgeSettings) -> None:
    """Train a bridge and save it in output_dir/model, for `swap_text_encoder(pipe, altclip, bridge=...)`.

    Raises InputError and TrainingStopped.
    """
    accelerator = start(settings)
    encoder, tokenizer = load_text_encoder(settings.text_encoder, dtype=frozen_dtype(settings))
    disable_prompt_cache(encoder)
    encoder.requires_grad_(False).to(accelerator.device)
    clip = ClipStates(hub.resolve(settings.model, STABLE_DIFFUSION_FILES), accelerator.device, frozen_dtype(settings))
    model = _begin(settings, encoder, clip)

    def read_text(paths: Sequence[str], empty: float) -> ParallelText:
        return ParallelText(
            paths,
            settings.languages,
            settings.teacher_language,
            tokenizer,
            clip.tokenizer,
            settings.seed,
            settings.max_skipped,
            empty,
        )

    text = read_text(settings.train_data, settings.empty)
    read_states = altclip_states(encoder, tokenizer.pad_token_id)
    task = Translation(model, read_states, clip, settings, accelerator.device)
    languages = list(text.languages)
    about = {"data": describe_tables(text.records.tables), "languages": languages}
    students = teachers = None
    if settings.student_cache is not None:  # language by language; the last is the empty text

        def compute_students(places: Sequence[int]) -> list[Tensor]:
            found = [divmod(place, len(text)) for place in places]
            texts = [text.records[r].get(languages[lang], "") if lang < len(languages) else "" for lang, r in found]
            return read_states(tokens(tokenizer, texts))

        students = FeatureCache(
            settings.student_cache,
            len(text) * len(languages) + 1,
            compute_students,
            {"what": "AltCLIP's states", "text_encoder": checksum(encoder), **about},
            accelerator,
        )
    if settings.teacher_cache is not None:  # the last is the empty text

        def compute_teachers(records: Sequence[int]) -> list[Tensor]:
            texts = [text.records[r][settings.teacher_language] if r < len(text) else "" for r in records]
            return list(clip.joined(tokens(clip.tokenizer, texts)))

        teachers = FeatureCache(
            settings.teacher_cache,
            len(text) + 1,
            compute_teachers,
            {
                "what": "CLIP's states",
                "text_encoder": checksum(*clip.towers),
                "language": settings.teacher_language,
                **about,
            },
            accelerator,
            batch=16,
        )

    by_length = LengthBatches(text.read, lambda pair: len(pair.ids), settings.batch_size, settings.seed)

    def batches(step: int, piece: int, pieces: int) -> Batch:
        pairs: Sequence[Pair] = piece_of(by_length.batch(step), piece, pieces)
        batch: Batch = {"ids": [pair.ids for pair in pairs], "teacher_ids": [pair.teacher_ids for pair in pairs]}
        if students is not None:
            empty = len(text) * len(languages)
            places = [languages.index(p.language) * len(text) + p.record if p.record >= 0 else empty for p in pairs]
            batch["states"], batch["mask"] = stack_states([students[place].float() for place in places])
        if teachers is not None:
            batch["target"] = torch.stack([teachers[p.record if p.record >= 0 else len(text)] for p in pairs]).float()
        lengths = torch.tensor([len(pair.teacher_ids) for pair in pairs])
        batch["real"] = torch.arange(MAX_TOKENS) < lengths[:, None]
        if task.prediction_error is not None:
            first = step * settings.batch_size + piece * len(pairs)
            batch |= task.prediction_error.noise(range(first, first + len(pairs)), settings.seed)
        return batch

    validate = None
    if settings.validation_data:
        validate = _validation(model, read_states, clip, read_text(settings.validation_data, 0.0))
    fit(task, batches, settings, accelerator, records=len(text), validate=validate)
    with export(settings, accelerator) as folder:
        if folder is not None:
            model.cpu().save_pretrained(folder)


class Translation(nn.Module):
    """The bridge's error on pairs of texts; what the batch does not bring from a cache is computed."""

    def __init__(
        self,
        model: Bridge,
        read_states: Callable[[Sequence[Sequence[int]]], list[Tensor]],
        clip: ClipStates,
        settings: BridgeSettings,
        device: torch.device,
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
        found = {name: getattr(model.config, name) for name in widths}
        if found != widths:
            has, needs = (" to ".join(map(str, filter(None, each.values()))) for each in (found, widths))
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


def _validation(
    model: Bridge,
    read_states: Callable[[Sequence[Sequence[int]]], list[Tensor]],
    clip: ClipStates,
    text: ParallelText,
) -> Callable[[int], dict[str, float]]:
    """For each language, of up to 500 pairs: the mean squared error, and how often the nearest target is the right one."""

    def validate(step: int) -> dict[str, float]:
        figures = {}
        for language in text.languages:
            pairs = text.of_language(language, 500)
            given, wanted = [], []
            for first in range(0, len(pairs), 50):
                some = pairs[first : first + 50]
                given.append(model(*stack_states(read_states([ids for ids, _ in some]))).last_hidden_state.float())
                wanted.append(clip.joined([ids for _, ids in some])[:, :MAX_TOKENS])
            left, right = torch.cat(given).flatten(1), torch.cat(wanted).flatten(1)
            same = torch.tensor([[a[1] == b[1] for b in pairs] for a in pairs], device=left.device)
            figures[f"{language} mse"] = (left - right).square().mean().item()
            figures[f"{language} R@1"] = recall_at_k(-torch.cdist(left, right), same, 1)
        return figures

    return validate
