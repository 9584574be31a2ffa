"""The parity of languages: how much of what English prompts reach on SD-mini, and on what people add to it, others reach.

English is read by SD-mini's own CLIP, without us; the other languages, and English once more, through the bridge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from altdiffusion.metrics import parity
from altdiffusion.pipelines.load import load_diffusion
from altdiffusion.pipelines.swap import swap_text_encoder
from altdiffusion.prompt_syntax.route import Route
from altdiffusion.toy.glyphs import PLACEHOLDER
from altdiffusion.toy.judge import Judge
from altdiffusion.toy.judged import (
    JudgedPrompt,
    Metric,
    generate_images,
    inversion_prompts,
    judge_images,
    mixed_prompts,
    name_prompts,
    thing_prompts,
    triggered_prompts,
    unseen_pair_prompts,
)

Outcomes = dict[str, list[bool]]  # by criterion, which images are right


@dataclass(frozen=True)
class Parity:
    """Of one kind of prompt in one language: the fraction of what English reaches, with its 95 % bootstrap interval."""

    what: str
    language: str
    ratio: float
    low: float
    high: float

    @classmethod
    def of(cls, what: str, language: str, reached: Sequence[bool], in_english: Sequence[bool]) -> Parity:
        """Of which images are right, in the same order in both. Raises InputError where English has none right."""
        estimate = parity(reached, in_english)
        return cls(what, language, estimate.value, estimate.low, estimate.high)


@dataclass(frozen=True)
class Kind:
    """A kind of prompt.

    targets: per cent, by criterion; those not named are shown for comparison.
    within: points that a criterion without a target of its own may be below English.
    in_frame: as in `judge_images`. clip_skip: as in `generate_images`.
    route: as in `swap_text_encoder`: "all" for single words, which can be of several languages; None: the default.
    """

    prompts: Callable[[str, int], list[JudgedPrompt]]
    targets: Mapping[str, float] = field(default_factory=dict)
    within: float | None = None
    in_frame: bool | None = None
    clip_skip: int | None = None
    route: Route | None = None

    def target(self, criterion: str, in_english: Outcomes) -> float | None:
        """Per cent, or None."""
        if criterion in self.targets or self.within is None:
            return self.targets.get(criterion)
        right = in_english[criterion]
        return 100 * sum(right) / len(right) - self.within


@dataclass(frozen=True)
class Subject:
    """A Stable Diffusion, what is loaded into its pipeline after the text encoder is swapped, and what it is asked."""

    name: str
    model: str | Path
    kinds: Mapping[str, Kind]
    load: Callable[[Any], None] = lambda pipe: None


_MIXED = {"right thing": 95, "right background": 98}
UNTOUCHED = {
    "names": Kind(name_prompts, {"right thing": 98, "right background": 98}, route="all"),
    "pairs never seen together": Kind(unseen_pair_prompts, {"right thing": 97, "right background": 98}, route="all"),
    "things": Kind(thing_prompts, {"right thing": 98, "right background": 98}),
    "English background behind a comma": Kind(mixed_prompts("{x}, {c} background"), _MIXED),
    "English background in backquotes": Kind(mixed_prompts("{x} `on a {c} background`"), _MIXED),
}
IN_FRAME = {
    "names": Kind(name_prompts, {"style kept": 98}, within=2, in_frame=True, route="all"),
    "pairs never seen together": Kind(unseen_pair_prompts, {"style kept": 98}, within=2, in_frame=True, route="all"),
}
TRIGGERED = {
    "with its word": Kind(triggered_prompts, {"style kept": 95, "right thing": 95}, in_frame=True),
    "without its word": Kind(thing_prompts, {"without the style": 95}, in_frame=False),
}
INVERSION = {"on backgrounds": Kind(inversion_prompts, within=3)}
TEXT_LORA = {"things": Kind(thing_prompts, within=2, in_frame=True)}
CLIP_SKIP = {"things": Kind(thing_prompts, within=2, clip_skip=1)}


def subjects(build: Path | None) -> Iterator[Subject]:
    """SD-mini, and what a build holds that was made for it."""
    sd_mini = "sd-mini" if build is None else build / "sd-mini/model"
    yield Subject("SD-mini", sd_mini, UNTOUCHED)
    if build is None:
        return

    def made_for_it(name: str, stage: str, kinds: Mapping[str, Kind], load: Callable[[Any, Path], None]) -> Subject:
        return Subject(name, sd_mini, kinds, lambda pipe: load(pipe, build / stage / "model"))

    found = [
        ("fine-tune", Subject("fine-tune in a frame", build / "fine-tune/model", IN_FRAME)),
        ("lora", made_for_it("lora in a frame", "lora", IN_FRAME, _load_lora)),
        ("trigger", made_for_it("trigger", "trigger", TRIGGERED, _load_lora)),
        ("inversion", made_for_it("textual inversion", "inversion", INVERSION, _load_inversion)),
        ("text-lora", made_for_it("LoRA with a text half", "text-lora", TEXT_LORA, _load_lora)),
        ("clip-skip", Subject("clip_skip", build / "clip-skip/model", CLIP_SKIP)),
    ]
    yield from (subject for stage, subject in found if (build / stage / "model").is_dir())


def parity_metrics(
    subject: Subject,
    altclip: str | Path | None,
    bridge: Any,
    judge: Judge,
    languages: Sequence[str],
    every: int,
    steps: int,
) -> Iterator[Metric | Parity]:
    """English by the subject's own encoder, each language by AltCLIP and the bridge, and how the two compare."""
    own = load_diffusion(str(subject.model))
    bridged = {}
    for route in {kind.route for kind in subject.kinds.values()}:
        options = {} if route is None else {"route": route}  # a bridge at the exit takes none
        bridged[route] = swap_text_encoder(load_diffusion(str(subject.model)), altclip, bridge=bridge, **options)
    for pipe in (own, *bridged.values()):
        pipe.set_progress_bar_config(disable=True)
        subject.load(pipe)
    same: list[bool] = []
    for name, kind in subject.kinds.items():
        images, in_english = _outcomes(own, kind, "en", judge, every, steps)
        for criterion, right in in_english.items():
            yield Metric.of(f"{subject.name}, own encoder: {name}, {criterion}", "en", right)
        for language in languages:
            through, outcomes = _outcomes(bridged[kind.route], kind, language, judge, every, steps, marks=True)
            for criterion, right in outcomes.items():
                target = kind.target(criterion, in_english)
                yield Metric.of(f"{subject.name} + bridge: {name}, {criterion}", language, right, target)
            if language == "en" and kind.route is None:
                same += [np.array_equal(one, other) for one, other in zip(images, through, strict=True)]
            reached, english = all_right(outcomes), all_right(in_english)
            if any(english):
                yield Parity.of(f"{subject.name}: {name}", language, reached, english)
    if same:
        yield Metric.of(f"{subject.name} + bridge: images as without it, bit for bit", "en", same, 100.0)


def all_right(outcomes: Outcomes) -> list[bool]:
    """Which images are right by every criterion."""
    return [all(image) for image in zip(*outcomes.values(), strict=True)]


def _outcomes(
    pipe: Any, kind: Kind, language: str, judge: Judge, every: int, steps: int, marks: bool = False
) -> tuple[list[Any], Outcomes]:
    """The images, and which are right. marks: keep the backquotes, which mean something to the bridge alone."""
    prompts = kind.prompts(language, every)
    texts = [prompt.text if marks else prompt.text.replace("`", "") for prompt in prompts]
    images = generate_images(pipe, texts, steps, clip_skip=kind.clip_skip)
    return images, judge_images(judge, images, prompts, kind.in_frame)


def _load_lora(pipe: Any, folder: Path) -> None:
    pipe.load_lora_weights(folder)


def _load_inversion(pipe: Any, folder: Path) -> None:
    pipe.load_textual_inversion(folder / "rune.safetensors", token=PLACEHOLDER)
