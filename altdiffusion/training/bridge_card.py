"""The README.md beside a trained bridge, so that its folder can go to the hub as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import ModelCardData

from altdiffusion import __version__
from altdiffusion.checkpoints import hub
from altdiffusion.data import hub_datasets
from altdiffusion.files import write_text
from altdiffusion.training import bridge_presets
from altdiffusion.training.stage_settings import BridgeSettings

_NOT_STATED = "not stated"
_PROMPTS = {
    "zh": "一只猫",
    "ja": "一匹の猫",
    "ko": "고양이 한 마리",
    "ru": "кошка",
    "ar": "قطة",
    "es": "un gato",
    "fr": "un chat",
}
_CARD = """\
---
{data}
---

# A bridge from {text_encoder} to {model}

It lets every Stable Diffusion with the text encoder of `{model}`, fine-tunes, LoRAs and ControlNets included, read prompts in
{languages}.

    from diffusers import DiffusionPipeline
    from altdiffusion import swap_text_encoder

    pipe = DiffusionPipeline.from_pretrained("{model}")  # or any fine-tune of it
    pipe = swap_text_encoder(pipe, "{text_encoder}", bridge="THIS FOLDER")
    pipe("{prompt}")

    altdiffusion generate "{prompt}" --model {model} --text-encoder {text_encoder} --bridge THIS FOLDER

## What it learnt from

{sources}

Trained by altdiffusion {version}: {steps:,} steps of {batch_size:,} texts.

## How good it is

{figures}

R@1: how often, among up to 500 texts, CLIP's state at the end of the soft tokens is nearest to that of the right English
text. Prediction error:
how far the UNet's predictions are from those with CLIP's states, 0 being equal and 1 as far off as with no text.

## Licence

- Bridge: {licence}
- Weights published by BAAI are under CreativeML OpenRAIL-M; those of `{model}` are under their own licence{model_licence}.
- Data: as above. Sets without a stated licence are for you to judge.
"""


class BridgeFacts(NamedTuple):
    """What the card tells.

    text_encoder, model: as they were named in the training. licence: of the bridge, None where it isn't decided.
    data: (name, licence or None) of each data set. metrics: of the last validation, such as {"zh R@1": 0.97}.
    """

    text_encoder: str
    model: str
    languages: Sequence[str]
    data: Sequence[tuple[str, str | None]]
    metrics: Mapping[str, float]
    steps: int
    batch_size: int
    licence: str | None = None


def bridge_facts(settings: BridgeSettings, languages: Sequence[str], metrics: Mapping[str, float]) -> BridgeFacts:
    """Of a training that has ended. metrics: of its last validation, empty without one."""
    names = dict.fromkeys(settings.train_data)
    return BridgeFacts(
        settings.text_encoder, settings.model, languages,
        [(name, bridge_presets.licence_of_data(name)) for name in names], metrics, settings.max_train_steps,
        settings.batch_size, bridge_presets.licence_of_model(settings.model),
    )  # fmt: skip


def write_bridge_card(folder: Path, facts: BridgeFacts) -> None:
    """Write README.md beside a saved bridge. Of what lies on this machine it names the file or folder, not the path."""
    models = [name for name in (facts.text_encoder, facts.model) if not hub.is_local(name)]
    sets = [hub_datasets.parse(name).repository for name, _ in facts.data if hub_datasets.is_hub_name(name)]
    data = ModelCardData(
        language=list(facts.languages) or None,
        license=facts.licence,
        library_name="altdiffusion",
        pipeline_tag="text-to-image",
        base_model=models or None,
        datasets=list(dict.fromkeys(sets)) or None,
        tags=["bridge", "stable-diffusion", "multilingual"],
    )
    model_licence = bridge_presets.licence_of_model(facts.model)
    card = _CARD.format(
        data=data,
        text_encoder=shown(facts.text_encoder),
        model=shown(facts.model),
        languages=", ".join(facts.languages) or "the languages of its data",
        prompt=next((_PROMPTS[language] for language in facts.languages if language in _PROMPTS), "a cat"),
        sources=table(
            ["data", "licence"], [[f"`{shown(name)}`", licence or _NOT_STATED] for name, licence in facts.data]
        ),
        version=__version__,
        steps=facts.steps,
        batch_size=facts.batch_size,
        figures=_figures(facts),
        licence=facts.licence or f"{_NOT_STATED}: whoever publishes it decides, by `license:` above",
        model_licence=f" ({model_licence})" if model_licence else "",
    )
    write_text(folder / "README.md", card)


def shown(name: str) -> str:
    """An id as it is, of a path its end."""
    is_path = not hub_datasets.is_hub_name(name) and (hub.is_local(name) or not hub.is_hub_id(name))
    return Path(name).name if is_path else name


def _figures(facts: BridgeFacts) -> str:
    """A row for each language, a column for each metric that was measured."""
    rows = {language: _of(language, facts.metrics) for language in facts.languages}
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    if not names:
        return "Not measured: it was trained without `--validation-data`."
    cells = [
        [language, *(f"{values[name]:.3g}" if name in values else "" for name in names)]
        for language, values in rows.items()
    ]
    return table(["language", *names], cells)


def _of(language: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {
        name.removeprefix(f"{language} "): value for name, value in metrics.items() if name.startswith(f"{language} ")
    }


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
