"""An AltCLIP learns further languages from parallel text alone, while those it knows are held.

    altdiffusion train extend --model BAAI/AltCLIP-m9 --languages th vi --train-data "texts/*.tsv" \
        --validation-data held-out.tsv --output-dir altclip-m11

A text in a new language is pulled to where the model had its English text at the start: the projected [CLS] state, as in
phase 1. A text in a language to hold is to keep all of its states, as a UNet and a bridge read them all. With `--bridge` both
are to become the soft tokens that the bridge, which stays as it is, gave for these targets. Vision tower, projections and
vocabulary stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from altdiffusion.checkpoints import hub
from altdiffusion.checkpoints.bridge_folder import no_soft_tokens
from altdiffusion.errors import InputError
from altdiffusion.text_encoder.bridge import Bridge, load_bridge
from altdiffusion.text_encoder.bridge_layers import check_altclip
from altdiffusion.text_encoder.tokenizer import pad, tokenized, tokens
from altdiffusion.training.extension import Metrics, ReadStates, Validation, interpolate, say
from altdiffusion.training.extension_card import change_table, write_extension_card
from altdiffusion.training.gates import lost, stop_lost
from altdiffusion.training.inputs.clip_states import altclip_states, stack_states
from altdiffusion.training.inputs.feature_cache import TextCache, checksum
from altdiffusion.training.inputs.parallel_text import Pair, ParallelText
from altdiffusion.training.inputs.sampling import LengthBatches, language_weight, micro_batch
from altdiffusion.training.loop import Batch, export, fit, frozen_dtype, start
from altdiffusion.training.losses.soft_tokens import soft_token_error
from altdiffusion.training.models.teacher_student import Teacher, load_teacher
from altdiffusion.training.models.text_tower import TextTower, load_text_tower
from altdiffusion.training.retrieval import ReadVectors, pooled_vectors, teacher_vectors
from altdiffusion.training.stage_settings import ExtendSettings


def train_extend(settings: ExtendSettings) -> None:
    """Train a text tower further and save it in output_dir/model, with the AltCLIP around it where it came in one.

    Raises InputError, and TrainingStopped where a language to hold loses more than --max-loss.
    """
    accelerator = start(settings)
    device = accelerator.device
    tower = load_text_tower(settings.model)
    tokenizer, padding = tower.tokenizer, tower.tokenizer.pad_token_id
    weights = {}
    if settings.start_weight or settings.interpolate:
        weights = {name: parameter.detach().clone() for name, parameter in tower.model.named_parameters()}
    former = copy.deepcopy(tower.model).eval().requires_grad_(False).to(device, frozen_dtype(settings))
    read_former = altclip_states(former, padding)
    teacher = None if settings.teacher is None else _load_teacher(settings.teacher, tower)
    if teacher is not None:
        teacher.text_model.to(device, frozen_dtype(settings))
    read_target = pooled_vectors(former, padding) if teacher is None else teacher_vectors(teacher)
    bridge = None if settings.bridge is None else _load_bridge(settings.bridge, tower).to(device)
    if settings.gradient_checkpointing:
        tower.model.gradient_checkpointing_enable({"use_reentrant": False})

    learnt = dict(map(language_weight, settings.languages))

    def read_text(paths: Sequence[str], replay: float | None) -> ParallelText:
        return ParallelText(
            paths, _asked(settings), settings.teacher_language, tokenizer,
            tokenizer if teacher is None else teacher.tokenizer, settings.seed, settings.max_skipped,
            reweigh=partial(shares, learnt=learnt, replay=replay),
        )  # fmt: skip

    text = read_text(settings.train_data, settings.replay)
    held = [language for language in text.languages if language not in learnt]
    _say_unknown(tokenizer, text, learnt)
    known = hub.LANGUAGES.get(Path(settings.model).name, "").split()
    if forgotten := [name for name in known if name not in text.languages]:
        say(f"{', '.join(forgotten)}: the model knows it, and no text holds it: what it will lose isn't known")
    cache = None
    if settings.state_cache is not None:
        languages = list(dict.fromkeys([settings.teacher_language, *held]))
        about = {"what": "states", "model": checksum(former), "languages": languages}

        def compute(texts: list[str]) -> list[Tensor]:
            return read_former(tokens(tokenizer, texts))

        cache = TextCache(settings.state_cache, text.records, languages, compute, about, accelerator)
    by_length = LengthBatches(text.read, lambda pair: len(pair.ids), settings.batch_size, settings.seed)

    def batches(step: int, index: int, count: int) -> Batch:
        pairs: Sequence[Pair] = micro_batch(by_length.batch(step), index, count)
        ids, mask = pad([pair.ids for pair in pairs], padding)
        batch: Batch = {"input_ids": ids, "attention_mask": mask}
        batch["held"] = torch.tensor([pair.language in held for pair in pairs])
        wanted = [  # the text whose former states are the target: of a held language itself, else the English one
            (pair.record, pair.language if pair.language in held else settings.teacher_language) for pair in pairs
        ]
        if cache is not None:
            batch["wanted"], batch["wanted_mask"] = stack_states([cache[each] for each in wanted])
        else:
            batch["wanted_ids"] = tokens(tokenizer, [text.records[record][language] for record, language in wanted])
        if teacher is not None:
            batch["target_ids"] = [pair.teacher_ids for pair in pairs]
        return batch

    task = Extension(
        tower.model,
        read_former,
        None if teacher is None else read_target,
        bridge,
        settings.bridge_weight,
        {name: each.to(device) for name, each in weights.items()} if settings.start_weight else None,
        settings.start_weight,
    )
    validation = None
    if settings.validation_data:
        validation = Validation(
            read_text(settings.validation_data, None), list(learnt), tower, read_target, bridge, read_former
        )
    before: Metrics = {}
    measured: Metrics = {}
    if validation is not None and accelerator.is_main_process:
        tower.model.to(device)
        before = validation.measure()

    def validate(step: int) -> Metrics:
        assert validation is not None
        measured.update(validation.measure())
        if step < settings.max_train_steps and not settings.interpolate:
            lines = lost(before, measured, validation.held, settings.max_loss)
            stop_lost(lines, settings.max_loss, f"step {step}")
        return measured

    fit(task, batches, settings, accelerator, records=len(text), validate=None if validation is None else validate)
    if validation is not None and accelerator.is_main_process:
        if settings.interpolate:
            measured.update(interpolate(tower.model, weights, validation, before, settings.max_loss))
        elif not measured:  # resumed when it had ended
            measured.update(validation.measure())
    with export(settings, accelerator) as folder:
        if folder is not None:
            tower.save(folder)
            write_extension_card(folder, settings, list(learnt), held, before, measured)
    if accelerator.is_main_process:
        if tower.calibrated:
            say(
                "the calibration of the model's scores was for its former weights and isn't taken along: calibrate anew"
            )
        changes = change_table(list(learnt), before, measured)
        say(changes or "without --validation-data what was learnt and what was lost isn't known")
        if validation is not None:
            lines = lost(before, measured, validation.held, settings.max_loss)
            stop_lost(lines, settings.max_loss, f"{settings.output_dir / 'model'} is saved, but")


class Extension(nn.Module):
    """The error of a batch of texts, of which those in languages to hold are told by `held` (batch,).

    In a batch, `wanted` (batch, tokens, width) and `wanted_mask` are the former states of the text that is the target, or
    `wanted_ids` its tokens. read_target: gives the vectors of what new texts are pulled to, from `target_ids`; None: the former
    states' own. weights: those at the start.
    """

    def __init__(
        self,
        model: nn.Module,
        read_former: ReadStates,
        read_target: ReadVectors | None = None,
        bridge: Bridge | None = None,
        bridge_weight: float = 1.0,
        weights: Mapping[str, Tensor] | None = None,
        start_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self._read_former, self._read_target = read_former, read_target
        self._bridge_error = None if bridge is None else partial(soft_token_error, bridge)  # it isn't trained
        self._bridge_weight, self._weights, self._start_weight = bridge_weight, weights, start_weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        mask, held = batch["attention_mask"], batch["held"]
        states = self.model(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state.float()
        if "wanted" in batch:
            wanted, wanted_mask = batch["wanted"], batch["wanted_mask"]
        else:
            wanted, wanted_mask = stack_states(self._read_former(batch["wanted_ids"]))
        target = wanted[:, 0]
        if self._read_target is not None:
            target = torch.where(held[:, None], target, self._read_target(batch["target_ids"]))
        losses = {"pooled": (states[:, 0] - target).square().mean()}
        # a held text and its target have the same tokens: the others alone can be longer than either side
        length = min(states.shape[1], wanted.shape[1])
        errors = (states[:, :length] - wanted[:, :length]).square().mean(-1) * mask[:, :length]
        losses["held states"] = (held * errors.sum(1) / mask.sum(1)).mean()
        total = losses["pooled"] + losses["held states"]
        if self._bridge_error is not None:
            losses["bridge"] = self._bridge_error(states, mask, wanted, wanted_mask)
            total = total + self._bridge_weight * losses["bridge"]
        if self._weights is not None:
            moved = [(each - self._weights[name]).square().sum() for name, each in self.model.named_parameters()]
            losses["distance"] = torch.stack(moved).sum()
            total = total + self._start_weight / 2 * losses["distance"]
        return {"loss": total, **losses}


def shares(weights: Mapping[str, float], learnt: Mapping[str, float], replay: float | None) -> dict[str, float]:
    """Weights of the languages, learnt ones first; the others have the fraction `replay` of all, and with 0 aren't read.

    weights: of the columns that are read. replay: None: as they are. Raises InputError for a language that isn't there.
    """
    if missing := [name for name in learnt if name not in weights]:
        raise InputError(
            f"--languages {missing[0]}: no such column in the data, of which {', '.join(weights)} are read; if it is there "
            "under another name than a language's, name those to hold as well (--keep)"
        )
    held = {name: weight for name, weight in weights.items() if name not in learnt}
    if replay is None:
        return {**learnt, **held}
    parts = [(learnt, 1 - replay), *([(held, replay)] if replay else [])]
    return {name: part * weight / sum(each.values()) for each, part in parts for name, weight in each.items()}


def _asked(settings: ExtendSettings) -> list[str]:
    """The columns to read; [] for all that the data has."""
    asked = [*settings.languages, *settings.keep] if settings.keep else []
    named = [language.partition("=")[0] for language in asked]
    return [*asked, settings.teacher_language] if asked and settings.teacher_language not in named else asked


def _load_teacher(name: str, tower: TextTower) -> Teacher:
    """Raises InputError where its vectors have another width than the tower's."""
    teacher = load_teacher(name)
    if teacher.width != (width := tower.model.config.project_dim):
        raise InputError(
            f"--teacher {name} gives vectors of width {teacher.width}, the model {width}: expected the CLIP that the model "
            "was distilled from, or none, to learn from its own English"
        )
    return teacher


def _load_bridge(name: str, tower: TextTower) -> Bridge:
    """Frozen. Raises InputError for one of another width, or at CLIP's exit."""
    bridge = load_bridge(name, torch.float32)
    if not isinstance(bridge, Bridge):
        raise InputError(no_soft_tokens(name))
    check_altclip(bridge, tower.model)
    return bridge.eval().requires_grad_(False)


def _say_unknown(tokenizer: object, text: ParallelText, languages: Mapping[str, float]) -> None:
    """Say what part of a language's characters the vocabulary hasn't. Raises InputError where it is more than half."""
    unknown_id = tokenizer.unk_token_id  # type: ignore[attr-defined]
    for language in languages:
        unknown = total = 0
        for each in text.texts_of(language, 500)[0]:
            for token, (first, end) in zip(*tokenized(tokenizer, each), strict=True):
                unknown, total = unknown + (end - first) * (token == unknown_id), total + end - first
        share = unknown / max(1, total)
        if share > 0.5:
            raise InputError(
                f"--languages {language}: the model's vocabulary lacks {share:.0%} of its characters, and stays as it is: "
                "expected a language that its tokenizer can read"
            )
        if unknown:
            say(f"{language}: the model's vocabulary lacks {share:.1%} of its characters, which are read as unknown")
