"""The models that the owner offers: loaded when first asked for, each once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from diffusers import DiffusionPipeline

from altdiffusion.altclip import best_of
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.checkpoints import hub
from altdiffusion.checkpoints.bridge_folder import stands_at_exit, with_tokenizer
from altdiffusion.errors import InputError
from altdiffusion.files import local_path
from altdiffusion.generation.load import load_pipeline
from altdiffusion.generation.loras import parse_lora
from altdiffusion.text_encoder.tokenizer import tokenizer_of
from altdiffusion.web.model_entry import parse_entry
from altdiffusion.web.translations import Refused

logger = logging.getLogger(__name__)


class Models:
    """names: as in `AltDiffusionPipeline.from_pretrained`, with parts, see `parse_entry`. A visitor sees and says a label,
    never a path: the name itself for what is embedded or on the hub, the last part of a path otherwise.

    scorer: the AltCLIP that scores for every model; None: the one that belongs to each. options: of `load_pipeline`.
    """

    def __init__(self, names: Sequence[str], *, scorer: str | None = None, **options: Any) -> None:
        self._names: dict[str, str] = {}
        self._parts: dict[str, dict[str, Any]] = {}
        for entry in map(parse_entry, names):
            name = entry.name
            label = name if _is_public(name) else local_path(name).resolve().name
            label = " + ".join([label, *entry.part_names])
            while label in self._names:
                label += "'"
            self._names[label], self._parts[label] = name, entry.parts
        if not self._names:
            raise InputError("no models: expected at least one, such as mini")
        self._scorer, self._options = scorer, options
        self._pipelines: dict[str, DiffusionPipeline] = {}
        self._scorers: dict[str, PromptScorer | None] = {}
        self._tokenizers: dict[str, Any] = {}
        self._lock, self._tokenizer_lock = threading.Lock(), threading.Lock()

    @property
    def labels(self) -> list[str]:
        return list(self._names)

    def label(self, wanted: Any) -> str:
        """The label of what was asked for; empty: the first. Raises Refused for any other."""
        if wanted in (None, ""):
            return self.labels[0]
        if not isinstance(wanted, str) or wanted not in self._names:
            raise Refused("unknown_model")
        return wanted

    def is_loaded(self, label: str) -> bool:
        return label in self._pipelines

    def pipeline(self, label: str) -> DiffusionPipeline:
        """Raises Refused where it can't be loaded; the reason is in the log."""
        with self._lock:
            if label not in self._pipelines:
                try:
                    pipe = load_pipeline(self._names[label], **self._options, **self._parts[label])
                except InputError:
                    logger.exception("%s can't be loaded", self._names[label])
                    raise Refused("unloadable") from None
                pipe.set_progress_bar_config(disable=True)
                self._pipelines[label] = pipe
            return self._pipelines[label]

    def lora_names(self, label: str) -> list[str]:
        """What prompts may call the LoRAs of a model."""
        return [parse_lora(lora).name for lora in self._parts[label].get("lora", ())]

    def takes_route(self, label: str) -> bool:
        """Whether a model has a bridge at its CLIP's entrance."""
        return self.bridge(label) is not None

    def bridge(self, label: str) -> str | None:
        """The bridge at a model's CLIP's entrance, as the owner named it: it may be a path."""
        bridge: str | None = self._parts[label].get("bridge")
        return None if bridge is None or stands_at_exit(bridge) else bridge

    def tokenizer(self, label: str) -> Any:
        """A model's tokenizer, for which no model is loaded but one with a bridge, as that reads prompts, too.

        Raises Refused where it can't be read; the log has the reason, once.
        """
        if self.takes_route(label):
            return self.pipeline(label).tokenizer
        with self._tokenizer_lock:
            if label not in self._tokenizers:
                try:
                    self._tokenizers[label] = self._tokenizer(label)
                except InputError:
                    logger.exception("the tokenizer of %s can't be read", self._names[label])
                    self._tokenizers[label] = None
        if self._tokenizers[label] is None:
            raise Refused("unloadable")
        return self._tokenizers[label]

    def _tokenizer(self, label: str) -> Any:
        parts = self._parts[label]
        fallback = with_tokenizer(parts["bridge"]) if "bridge" in parts else None
        allow_pickle = bool(self._options.get("allow_pickle"))
        return tokenizer_of(self._names[label], parts.get("tokenizer"), fallback=fallback, allow_pickle=allow_pickle)

    def native_side(self, label: str) -> int:
        """Pixels of the square that the model was trained on."""
        pipe: Any = self.pipeline(label)
        return int(pipe.unet.config.sample_size * pipe.vae_scale_factor)

    def scorer(self, label: str) -> PromptScorer | None:
        """The AltCLIP that scores for a model; None where none is known or can be loaded, which the log explains."""
        device = self.pipeline(label).device
        with self._lock:
            if label not in self._scorers:
                try:
                    self._scorers[label] = best_of.load_scorer(self._scorer, self._names[label], device)
                except InputError as error:
                    logger.warning("no scores for %s: %s", self._names[label], error)
                    self._scorers[label] = None
            return self._scorers[label]


def _is_public(name: str) -> bool:
    return name in (hub.MINI, hub.SD_MINI) or not local_path(name).exists()


def offered() -> list[str]:
    """What is offered where the owner says nothing: mini, and the English-only model it came from where that is there."""
    return [hub.MINI] + [hub.SD_MINI] * (hub.sd_mini_folder() / "model_index.json").is_file()
