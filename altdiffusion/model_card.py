"""The README.md that is written beside every model this project saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from altdiffusion.files import write_text

LANGUAGES = {
    "BAAI/AltDiffusion": "en zh",
    "BAAI/AltDiffusion-m9": "en zh es fr ru ja ko ar it",
    "BAAI/AltDiffusion-m18": "en zh es fr ru ja ko ar it th hi uk tr vi pl nl pt de",
    "mini": "en zh es fr ru ja ko ar it",
}


def write_model_card(folder: Path, model: Any, source: str | None = None) -> None:
    """Write README.md beside a saved pipeline or text encoder. source: where it came from; default: what it knows of it."""
    width = getattr(model, "text_encoder", model).config.project_dim
    origin = source or getattr(model, "name_or_path", None) or "unknown"
    name = next((known for known in LANGUAGES if origin.rstrip("/").endswith(known.split("/")[-1])), None)
    languages = LANGUAGES[name].split() if name else []
    front = "".join(f"- {language}\n" for language in languages)
    spoken = (
        ", ".join(languages)
        if languages
        else (
            "those of the source: AltDiffusion en zh; -m9 also es fr ru ja ko ar it; -m18 also th hi uk tr vi pl nl pt de"
        )
    )
    kind = "pipeline" if (folder / "model_index.json").exists() else "text encoder"
    usage = (
        "    from diffusers import StableDiffusionPipeline\n\n"
        '    pipe = StableDiffusionPipeline.from_pretrained("THIS FOLDER")\n'
        if kind == "pipeline"
        else "    from transformers import AltCLIPTextModel, AutoTokenizer\n\n"
        '    encoder = AltCLIPTextModel.from_pretrained("THIS FOLDER", subfolder="text_encoder")\n'
        '    tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER", subfolder="tokenizer")\n'
    )
    write_text(
        folder / "README.md",
        "---\nlicense: creativeml-openrail-m\nlibrary_name: diffusers\npipeline_tag: text-to-image\n"
        + (f"language:\n{front}" if front else "")
        + "---\n\n"
        f"# AltDiffusion {kind}\n\n"
        f"- **Source**: {Path(origin).name if Path(origin).exists() else origin}\n"
        f"- **Languages**: {spoken}\n"
        f"- **Text states**: (batch, 77, {width}), from `transformers.AltCLIPTextModel`\n"
        "- **Licence**: weights published by BAAI are under CreativeML OpenRAIL-M, whose use restrictions bind "
        "whoever loads or passes on these weights\n\n"
        "Loads in plain diffusers and transformers:\n\n" + usage,
    )
