"""The README.md that is written beside every model this project saves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from transformers import CLIPTextModel

from altdiffusion.checkpoints.hub import LANGUAGES
from altdiffusion.files import write_text
from altdiffusion.text_encoder.exit_bridge import BridgedTextEncoder

_UNKNOWN = (
    "those of the source: AltDiffusion en zh; -m9 also es fr ru ja ko ar it; -m18 also th hi uk tr vi pl nl pt de"
)

_CARD = """\
---
{data}
---

# {family} {kind}

- **Source**: {source}
- **Languages**: {languages}
- **Text states**: (batch, 77, {width}), from `{encoder}`
- **Licence**: {terms}

Loads in {library}:

{usage}"""
_TERMS = (
    "weights published by BAAI are under CreativeML OpenRAIL-M, whose use restrictions bind whoever loads or passes on these "
    "weights"
)
_PIPELINE = """\
    from {} import {}

    pipe = {}.from_pretrained("THIS FOLDER")
"""
_TEXT_ENCODER = """\
    from transformers import AltCLIPTextModel, AutoTokenizer

    encoder = AltCLIPTextModel.from_pretrained("THIS FOLDER", subfolder="text_encoder")
    tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER", subfolder="tokenizer")
"""


def write_model_card(folder: Path, model: Any, source: str | None = None) -> None:
    """Write README.md beside a saved pipeline or text encoder. source: where it came from; None: as the model says."""
    encoders: list[Any] = [getattr(model, part, None) for part in ("text_encoder", "text_encoder_2")]
    encoders = [each for each in encoders if each is not None] or [model]
    encoder, config = encoders[0], encoders[0].config
    bridged, plain = isinstance(encoder, BridgedTextEncoder), isinstance(encoder, CLIPTextModel)
    origin = source or getattr(model, "name_or_path", None) or "unknown"
    name = re.sub(r"\.(ckpt|safetensors|bin)$", "", Path(origin).name)
    ours = name in ("mini", "sd-mini")
    licence = "apache-2.0" if ours else "other" if plain else "creativeml-openrail-m"
    languages = "en" if plain else LANGUAGES.get(name, "")
    is_pipeline = (folder / "model_index.json").exists()
    stock = type(model).__name__.replace("AltDiffusion", "StableDiffusion")
    classes = ("altdiffusion", "AltDiffusionPipeline") if bridged else ("diffusers", stock)
    card = _CARD.format(
        data=ModelCardData(
            license=licence, library_name="diffusers", pipeline_tag="text-to-image", language=languages.split() or None
        ),
        kind="pipeline" if is_pipeline else "text encoder",
        source=Path(origin).name if Path(origin).exists() else origin,
        family="Stable Diffusion" if plain else "AltDiffusion",
        terms="that of the source, which binds whoever loads or passes on these weights"
        if plain and not ours
        else _TERMS,
        languages=", ".join(languages.split()) or _UNKNOWN,
        # a CLIP's, where nothing was swapped, have no other width than its hidden states; XL's two lie side by side
        width=config.bridge_config.output_width
        if bridged
        else sum(getattr(each.config, "project_dim", each.config.hidden_size) for each in encoders),
        encoder=f"{'altdiffusion' if bridged else 'transformers'}.{type(encoder).__name__}",
        library="altdiffusion" if bridged else "plain diffusers and transformers",
        usage=_PIPELINE.format(*classes, classes[1]) if bridged or is_pipeline else _TEXT_ENCODER,
    )
    write_text(folder / "README.md", card)
