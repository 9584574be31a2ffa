"""The README.md that is written beside every model this project saves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from altdiffusion.files import write_text
from altdiffusion.text_encoder.bridge import BridgedTextEncoder

_M9 = "en zh es fr ru ja ko ar it"
_M18 = f"{_M9} th hi uk tr vi pl nl pt de"
# Of the last part of a model's name, or of its file's.
LANGUAGES = {"AltDiffusion": "en zh", "AltDiffusion-m9": _M9, "AltDiffusion-m18": _M18}
LANGUAGES |= {"AltCLIP": "en zh", "AltCLIP-m9": _M9, "AltCLIP-m18": _M18, "mini": _M9, "sd-mini": "en"}


def write_model_card(folder: Path, model: Any, source: str | None = None) -> None:
    """Write README.md beside a saved pipeline or text encoder. source: where it came from; default: what it knows of it."""
    encoder = getattr(model, "text_encoder", model)
    bridged, config = isinstance(encoder, BridgedTextEncoder), encoder.config
    # a CLIP's, where nothing was swapped, have no other width than its hidden states
    width = config.bridge_config.output_width if bridged else getattr(config, "project_dim", config.hidden_size)
    origin = source or getattr(model, "name_or_path", None) or "unknown"
    name = re.sub(r"\.(ckpt|safetensors|bin)$", "", Path(origin).name)
    languages = LANGUAGES.get(name, "").split()
    licence = "apache-2.0" if name in ("mini", "sd-mini") else "creativeml-openrail-m"
    front = "".join(f"- {language}\n" for language in languages)
    spoken = (
        ", ".join(languages)
        if languages
        else (
            "those of the source: AltDiffusion en zh; -m9 also es fr ru ja ko ar it; -m18 also th hi uk tr vi pl nl pt de"
        )
    )
    module = f"{'altdiffusion' if bridged else 'transformers'}.{type(encoder).__name__}"
    kind = "pipeline" if (folder / "model_index.json").exists() else "text encoder"
    usage = (
        "    from altdiffusion import AltDiffusionPipeline\n\n"
        '    pipe = AltDiffusionPipeline.from_pretrained("THIS FOLDER")\n'
        if bridged
        else "    from diffusers import StableDiffusionPipeline\n\n"
        '    pipe = StableDiffusionPipeline.from_pretrained("THIS FOLDER")\n'
        if kind == "pipeline"
        else "    from transformers import AltCLIPTextModel, AutoTokenizer\n\n"
        '    encoder = AltCLIPTextModel.from_pretrained("THIS FOLDER", subfolder="text_encoder")\n'
        '    tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER", subfolder="tokenizer")\n'
    )
    write_text(
        folder / "README.md",
        f"---\nlicense: {licence}\nlibrary_name: diffusers\npipeline_tag: text-to-image\n"
        + (f"language:\n{front}" if front else "")
        + "---\n\n"
        f"# AltDiffusion {kind}\n\n"
        f"- **Source**: {Path(origin).name if Path(origin).exists() else origin}\n"
        f"- **Languages**: {spoken}\n"
        f"- **Text states**: (batch, 77, {width}), from `{module}`\n"
        "- **Licence**: weights published by BAAI are under CreativeML OpenRAIL-M, whose use restrictions bind "
        "whoever loads or passes on these weights\n\n"
        f"Loads in {'altdiffusion' if bridged else 'plain diffusers and transformers'}:\n\n" + usage,
    )
