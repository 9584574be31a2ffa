"""The README.md beside an extended AltCLIP, and the table of what each language had before and has after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import ModelCardData

from altdiffusion import __version__
from altdiffusion.checkpoints import hub
from altdiffusion.files import write_text
from altdiffusion.training import bridge_presets
from altdiffusion.training.bridge_card import shown, table
from altdiffusion.training.stage_settings import ExtendSettings

_CARD = """\
---
{data}
---

# {model}, extended by {learnt}

The text tower of `{model}` learnt {learnt} from parallel text; {held} were held. Everything else, the vision tower too, is
`{model}`'s. Scores that were calibrated for it have to be calibrated anew.

    from altdiffusion import load_text_encoder

    text_encoder, tokenizer = load_text_encoder("THIS FOLDER")

## How good it is

{figures}

R@1: how often, among up to 1,000 texts, the nearest English one is the text's own. Words: how often the bridge finds the
same English word as in the English text.

## What it learnt from

{sources}

Trained by altdiffusion {version}: {steps:,} steps of {batch_size:,} texts.

## Licence

- Weights: those of `{model}`, whose licence binds these too: {terms}.
- Data: as above. Sets without a stated licence are for you to judge.
"""


def write_extension_card(
    folder: Path,
    settings: ExtendSettings,
    learnt: Sequence[str],
    held: Sequence[str],
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> None:
    """Write README.md beside a saved AltCLIP. Of what lies on this machine it names the file or folder, not the path."""
    licence = _licence(settings.model)
    data = ModelCardData(
        language=[*learnt, *held],
        license=licence,
        library_name="altdiffusion",
        base_model=None if hub.is_local(settings.model) else settings.model,
        tags=["altclip", "multilingual"],
    )
    names = dict.fromkeys(settings.train_data)
    rows = [[f"`{shown(name)}`", bridge_presets.licence_of_data(name) or "not stated"] for name in names]
    card = _CARD.format(
        data=data,
        model=shown(settings.model),
        learnt=", ".join(learnt),
        held=", ".join(held) or "no others",
        figures=change_table(learnt, before, after) or "Not measured: it was trained without `--validation-data`.",
        sources=table(["data", "licence"], rows),
        version=__version__,
        steps=settings.max_train_steps,
        batch_size=settings.batch_size,
        terms=licence or "not known here",
    )
    write_text(folder / "README.md", card)


def change_table(learnt: Sequence[str], before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """A row for each language, learnt ones first: every metric before and after. "" where nothing was measured."""
    languages = list(dict.fromkeys(name.rpartition(" ")[0] for name in after))
    metrics = list(dict.fromkeys(name.rpartition(" ")[2] for name in after))
    if not metrics:
        return ""
    header = ["language", "", *(f"{metric}, {when}" for metric in metrics for when in ("before", "after"))]
    rows = [
        [
            language,
            "learnt" if language in learnt else "held",
            *(f"{100 * values[f'{language} {metric}']:.1f}" for metric in metrics for values in (before, after)),
        ]
        for language in languages
    ]
    return table(header, rows)


def _licence(model: str) -> str | None:
    """Of what is known: mini's own, and that of the weights that BAAI published."""
    if model in hub.EMBEDDED:
        return "apache-2.0"
    return "creativeml-openrail-m" if model.startswith("BAAI/") else None
