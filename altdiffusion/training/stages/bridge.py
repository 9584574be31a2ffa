"""The bridge: AltCLIP's hidden states become soft tokens, which a Stable Diffusion's own CLIP reads.

    altdiffusion train bridge --text-encoder BAAI/AltCLIP-m9 --model stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --train-data en-zh.tsv --output-dir bridge-sd15

It learns from text alone, through the frozen CLIP: read among its soft tokens, a text in any language is to give the states
that the English text gives. The row has as many tokens as the English one, so that states are compared place by place; how
many there will be is learnt beside. In a part of the samples some of the row is literal English.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from altdiffusion.checkpoints import hub
from altdiffusion.errors import InputError
from altdiffusion.metrics import recall_at_k
from altdiffusion.text_encoder.bridge import Bridge, BridgeConfig, load_bridge
from altdiffusion.text_encoder.encoder import load_text_encoder
from altdiffusion.text_encoder.soft_tokens import install_soft_tokens, token_table
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS
from altdiffusion.training.bridge_card import bridge_facts, write_bridge_card
from altdiffusion.training.gates import PREDICTION_ERROR, RETRIEVAL, failures, relative_error, stop_below
from altdiffusion.training.inputs.clip_states import ClipStates, altclip_states, stable_diffusion_folder, stack_states
from altdiffusion.training.inputs.mixed_prompts import MixedPrompts, Part
from altdiffusion.training.inputs.parallel_text import ParallelText
from altdiffusion.training.inputs.sampling import LengthBatches, micro_batch
from altdiffusion.training.loop import Batch, export, fit, frozen_dtype, start
from altdiffusion.training.losses.unet_errors import PredictionError, cross_attention_metric, load_unet
from altdiffusion.training.stage_settings import BridgeSettings


def train_bridge(settings: BridgeSettings) -> None:
    """Train a bridge and save it, with its CLIP's tokenizer, in output_dir/model: for `swap_text_encoder(pipe, altclip,
    bridge=...)`.

    Raises InputError and TrainingStopped.
    """
    accelerator = start(settings)
    encoder, tokenizer = load_text_encoder(
        settings.text_encoder, dtype=frozen_dtype(settings), allow_pickle=settings.allow_pickle
    )
    encoder.requires_grad_(False).to(accelerator.device)
    root = stable_diffusion_folder(settings.model, settings.allow_pickle)
    clip = SoftClip(ClipStates(root, accelerator.device, frozen_dtype(settings)))
    model = _begin(settings, encoder, clip)

    def read_text(paths: Sequence[str]) -> ParallelText:
        return ParallelText(
            paths, settings.languages, settings.teacher_language, tokenizer, clip.states.tokenizer, settings.seed,
            settings.max_skipped, settings.caption_like,
        )  # fmt: skip

    text = read_text(settings.train_data)
    prompts = MixedPrompts(text, tokenizer, clip.states.tokenizer, settings.seed, settings.literal)
    read_states = altclip_states(encoder, tokenizer.pad_token_id)
    task = SoftTranslation(model, read_states, clip, settings, accelerator.device)
    by_length = LengthBatches(prompts.read, _length, settings.batch_size, settings.seed)

    def batches(step: int, index: int, count: int) -> Batch:
        rows: Sequence[list[Part]] = micro_batch(by_length.batch(step), index, count)
        batch: Batch = {"prompts": rows}
        if task.prediction_error is not None and settings.prediction_weight:
            first = step * settings.batch_size + index * len(rows)
            batch |= task.prediction_error.noise(range(first, first + len(rows)), settings.seed)
        return batch

    measured: dict[str, float] = {}

    def validate(step: int) -> dict[str, float]:
        measured.update(_measure(model, read_states, clip, validation, task.prediction_error, settings.seed))
        return measured

    validation = read_text(settings.validation_data) if settings.validation_data else text
    fit(
        task, batches, settings, accelerator, records=len(text), validate=validate if settings.validation_data else None
    )
    languages = list(text.languages)
    with export(settings, accelerator) as folder:
        if folder is not None:
            facts = bridge_facts(settings, languages, measured)
            model.config.languages = languages
            model.config.model, model.config.text_encoder = (
                None if hub.is_local(name) and name not in hub.EMBEDDED else name  # a path says nothing elsewhere
                for name in (settings.model, settings.text_encoder)
            )
            model.cpu().save_pretrained(folder)
            clip.states.tokenizer.save_pretrained(folder / "tokenizer")
            write_bridge_card(folder, facts)
    if accelerator.is_main_process:
        gates = settings.minimum_retrieval, settings.maximum_prediction_error
        below = failures(measured, languages, *gates)
        for line in below:
            tqdm.write(line, sys.stderr)
        stop_below(below, languages, settings.output_dir / "model")


class SoftClip:
    """A Stable Diffusion's own text encoders, reading rows of literal and soft tokens."""

    def __init__(self, states: ClipStates) -> None:
        self.states = states
        self._given: tuple[Tensor, ...] = ()
        for index, tower in enumerate(states.towers):
            install_soft_tokens(tower, partial(self._look_up, index))

    def give(self, soft: Sequence[Tensor]) -> None:
        """soft: for each encoder (tokens, width): the embeddings of the ids -1, -2, ..."""
        self._given = tuple(soft)

    def row(self, ids: Sequence[int]) -> list[int]:
        """The ids with begin and end."""
        tokenizer = self.states.tokenizer
        return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]

    def _look_up(self, index: int, ids: Tensor) -> Tensor:
        return self._given[index][-1 - ids]


class SoftTranslation(nn.Module):
    """The bridge's error on prompts of literal and other parts."""

    def __init__(
        self, model: Bridge, read_states: Any, clip: SoftClip, settings: BridgeSettings, device: torch.device
    ) -> None:
        super().__init__()
        self.model = model
        self._read_states, self._clip, self._settings = read_states, clip, settings
        self._hole_word: int = clip.states.tokenizer.eos_token_id  # as of the bridge's config
        self._metric: Tensor | None = None
        self.prediction_error: PredictionError | None = None
        judged = settings.maximum_prediction_error is not None
        if settings.cross_attention_weight or settings.prediction_weight or judged:
            unet = load_unet(clip.states.root, frozen_dtype(settings))
            if settings.cross_attention_weight:
                self._metric = cross_attention_metric(unet).to(device)
            if settings.prediction_weight or judged:
                if settings.gradient_checkpointing:
                    unet.train().enable_gradient_checkpointing()
                self.prediction_error = PredictionError(clip.states.root, unet, device)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        prompts: Sequence[list[Part]] = batch["prompts"]
        bridged = [part for parts in prompts for part in parts if part.ids is not None]
        states, mask = stack_states(self._read_states([part.ids for part in bridged]))
        said = [part.said(self._hole_word) for part in bridged]
        lengths = torch.tensor(list(map(len, said)), device=states.device)
        soft = self.model(states, mask, lengths)
        present = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
        words = torch.tensor([word for row in said for word in row], device=states.device)
        losses = {
            "words": F.cross_entropy(soft.word_logits[present].float(), words),
            "length": F.cross_entropy(soft.length_logits.float(), lengths - 1),
        }
        total = self._settings.word_weight * losses["words"] + self._settings.length_weight * losses["length"]

        targets = [self._clip.row([word for part in parts for word in part.english]) for parts in prompts]
        ids = iter(soft_ids(list(map(len, said))))
        rows = [
            self._clip.row(
                [token for part in parts for token in (part.english if part.ids is None else _row(part, next(ids)))]
            )
            for parts in prompts
        ]
        ends = torch.tensor(list(map(len, rows)), device=states.device)
        length = MAX_TOKENS
        if not self._settings.prediction_weight:
            length = min(MAX_TOKENS, int(ends.max()) + self._settings.padding_positions)
        self._clip.give([part[present] for part in soft.embeddings])
        given = self._clip.states.of_rows(rows, length)
        wanted = self._clip.states.joined(targets, length)
        error = (given - wanted)[:, :length]
        weight = torch.where(
            torch.arange(length, device=ends.device) < ends[:, None], 1.0, self._settings.padding_weight
        )
        weight = weight / weight.mean()
        losses["mse"] = (weight * error.square().mean(-1)).mean()
        total = total + losses["mse"]
        pooled: tuple[Tensor, Tensor] | tuple[None, None] = (None, None)
        if width := self._clip.states.pooled_width:
            pooled = given[:, length, :width], wanted[:, length, :width]
            losses["pooled"] = (pooled[0] - pooled[1]).square().mean()
            total = total + losses["pooled"]
        if self._metric is not None:
            losses["cross_attention"] = (weight * ((error @ self._metric) * error).sum(-1)).mean()
            total = total + self._settings.cross_attention_weight * losses["cross_attention"]
        if self.prediction_error is not None and self._settings.prediction_weight:
            losses["prediction"] = self.prediction_error(
                batch, (given[:, :length], pooled[0]), (wanted[:, :length], pooled[1])
            )
            total = total + self._settings.prediction_weight * losses["prediction"]
        return {"loss": total, **losses}


def soft_ids(counts: Sequence[int]) -> list[range]:
    """Ids from -1 downwards for texts of so many soft tokens."""
    starts = [-1 - sum(counts[:index]) for index in range(len(counts))]
    return [range(start, start - count, -1) for start, count in zip(starts, counts, strict=True)]


def _row(part: Part, ids: range) -> list[int]:
    """The soft tokens of what was said, with the literal tokens in the place of the one that tells where they belong."""
    if part.hole is None:
        return list(ids)
    return [*ids[: part.hole.start], *part.english[part.hole], *ids[part.hole.start + 1 :]]


def _length(parts: list[Part]) -> int:
    return sum(len(part.english) for part in parts)


def _begin(settings: BridgeSettings, encoder: Any, clip: SoftClip) -> Bridge:
    """The bridge as training begins: a new one, or the one that is given."""
    vocab_size = clip.states.tokenizer.vocab_size
    tables = [token_table(tower, vocab_size).float() for tower in clip.states.towers]
    widths = {
        "input_width": int(encoder.config.project_dim),
        "embedding_widths": [table.shape[1] for table in tables],
        "vocab_size": vocab_size,
    }
    if settings.bridge is not None:
        model = load_bridge(settings.bridge, torch.float32)
        if not isinstance(model, Bridge):
            raise InputError(f"--bridge {settings.bridge} stands at CLIP's exit: expected one for its entrance")
        own = {name: getattr(model.config, name) for name in widths}
        if own != widths:
            raise InputError(
                f"--bridge {settings.bridge} has {own}, and {settings.text_encoder} to {settings.model} is {widths}: "
                "expected a bridge between these two, or none, to begin a new one"
            )
    else:
        torch.manual_seed(settings.seed)
        config = BridgeConfig(
            **widths,
            hidden_size=settings.hidden_size,
            num_layers=settings.num_layers,
            num_attention_heads=settings.num_attention_heads,
            intermediate_size=settings.intermediate_size,
        )
        model = Bridge(config)
    model.config.hole_word = clip.states.tokenizer.eos_token_id
    model.set_token_embeddings(tables)
    return model.train()


@torch.no_grad()
def _measure(
    model: Bridge,
    read_states: Any,
    clip: SoftClip,
    text: ParallelText,
    prediction_error: PredictionError | None,
    seed: int,
) -> dict[str, float]:
    """For each language, of up to 500 texts that the bridge reads whole, in the number of soft tokens that it finds right.

    mse: of CLIP's states at the end of the text; R@1: how often the nearest of them is the English text's own; length: how
    often the number of soft tokens is the English text's; prediction error: `relative_error` of up to 50, with a UNet.
    """
    metrics = {}
    for language in text.languages:
        pairs = text.of_language(language, 500)
        given, wanted, right = [], [], 0
        for first in range(0, len(pairs), 50):
            some = pairs[first : first + 50]
            soft = model(*stack_states(read_states([ids for ids, _ in some])))
            present = torch.arange(int(soft.lengths.max()), device=soft.lengths.device) < soft.lengths[:, None]
            counts = soft.lengths.tolist()
            clip.give([part[present] for part in soft.embeddings])
            rows, english = list(map(clip.row, soft_ids(counts))), [ids for _, ids in some]
            given.append(clip.states.end_states(rows))
            wanted.append(clip.states.end_states(english))
            right += sum(count == len(ids) - 2 for count, ids in zip(counts, english, strict=True))
            if prediction_error is not None and not first:
                states = [clip.states.joined(each) for each in (rows, english, [clip.row([])] * len(rows))]
                width = clip.states.pooled_width
                texts = [(each[:, :MAX_TOKENS], each[:, MAX_TOKENS, :width] if width else None) for each in states]
                predicted = prediction_error.predictions(texts, range(len(rows)), seed)
                metrics[f"{language} {PREDICTION_ERROR}"] = relative_error(*predicted)
        left, target = torch.cat(given), torch.cat(wanted)
        same = torch.tensor([[a[1] == b[1] for b in pairs] for a in pairs], device=left.device)
        metrics[f"{language} mse"] = (left - target).square().mean().item()
        metrics[f"{language} {RETRIEVAL}"] = recall_at_k(-torch.cdist(left, target), same, 1)
        metrics[f"{language} length"] = right / len(pairs)
    return metrics
