"""The README.md that is written beside every model this project saves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from altdiffusion.checkpoints.hub import LANGUAGES
from altdiffusion.files import write_text
from altdiffusion.text_encoder.bridge import BridgedTextEncoder

_UNKNOWN = (
    "those of the source: AltDiffusion en zh; -m9 also es fr ru ja ko ar it; -m18 also th hi uk tr vi pl nl pt de"
)

_CARD = """\
---
{data}
---

# AltDiffusion {kind}

- **Source**: {source}
- **Languages**: {languages}
- **Text states**: (batch, 77, {width}), from `{encoder}`
- **Licence**: weights published by BAAI are under CreativeML OpenRAIL-M, whose use restrictions bind \
whoever loads or passes on these weights

Loads in {library}:

{usage}"""
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
    encoder = getattr(model, "text_encoder", model)
    bridged, config = isinstance(encoder, BridgedTextEncoder), encoder.config
    origin = source or getattr(model, "name_or_path", None) or "unknown"
    name = re.sub(r"\.(ckpt|safetensors|bin)$", "", Path(origin).name)
    licence = "apache-2.0" if name in ("mini", "sd-mini") else "creativeml-openrail-m"
    languages = LANGUAGES.get(name, "").split()
    is_pipeline = (folder / "model_index.json").exists()
    classes = ("altdiffusion", "AltDiffusionPipeline") if bridged else ("diffusers", "StableDiffusionPipeline")
    card = _CARD.format(
        data=ModelCardData(
            license=licence, library_name="diffusers", pipeline_tag="text-to-image", language=languages or None
        ),
        kind="pipeline" if is_pipeline else "text encoder",
        source=Path(origin).name if Path(origin).exists() else origin,
        languages=", ".join(languages) or _UNKNOWN,
        # a CLIP's, where nothing was swapped, have no other width than its hidden states
        width=config.bridge_config.output_width if bridged else getattr(config, "project_dim", config.hidden_size),
        encoder=f"{'altdiffusion' if bridged else 'transformers'}.{type(encoder).__name__}",
        library="altdiffusion" if bridged else "plain diffusers and transformers",
        usage=_PIPELINE.format(*classes, classes[1]) if bridged or is_pipeline else _TEXT_ENCODER,
    )
    write_text(folder / "README.md", card)
