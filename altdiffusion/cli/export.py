"""`altdiffusion export onnx`: AltCLIP for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from altdiffusion.altclip.onnx_checks import OPSET, Part, Precision, check_export
from altdiffusion.cli.flags import command
from altdiffusion.cli.options import JsonSettings
from altdiffusion.cli.terminal import hide_loading, print_json, print_line, say
from altdiffusion.errors import InputError
from altdiffusion.settings import setting


class ExportSettings(JsonSettings):
    """What is exported, and how."""

    form: Literal["onnx"] = setting(..., "the format", positional="onnx")
    source: str = setting(..., "AltCLIP: id on the hub, folder, or mini", positional="SRC", source="model")
    destination: Path = setting(..., "new folder", positional="DST")
    part: Part = setting("altclip", "both towers, for scores; the text tower alone; or it with --bridge")
    bridge: str | None = setting(None, "to a Stable Diffusion's CLIP, for --part bridge", source="model", metavar="B")
    precision: Precision = setting("float32", "of the weights; int8: those of matrix products")
    opset: int = setting(OPSET, "version of the operators", minimum=OPSET, maximum=23)
    allow_pickle: bool = setting(False, "read .bin files, which can carry code")

    def problems(self) -> list[str]:
        try:
            check_export(self.destination, self.part, self.bridge)
        except InputError as error:
            return [str(error)]
        return []


@command(ExportSettings)
def export(settings: ExportSettings) -> None:
    """AltCLIP as ONNX models, compared with PyTorch before they are kept. It needs altdiffusion[onnx].

    altdiffusion export onnx BAAI/AltCLIP-m9 altclip-onnx --allow-pickle
    altdiffusion export onnx mini bridge-onnx --part bridge --bridge mini
    """
    say("loading ...")
    from altdiffusion.altclip.onnx_export import export_onnx

    hide_loading()
    models = export_onnx(
        settings.source,
        settings.destination,
        part=settings.part,
        bridge=settings.bridge,
        precision=settings.precision,
        opset=settings.opset,
        allow_pickle=settings.allow_pickle,
    )
    if settings.as_json:
        entries = [
            {"path": str(model.path), "error": model.error, "cosine": model.cosine, "bytes": model.size}
            for model in models
        ]
        print_json({"models": entries})
        return
    for model in models:
        differs = f"differs from PyTorch by at most {model.error:.1g}, cosine at least {model.cosine:.5f}"
        print_line(f"{model.path}  {model.size / 1e6:.1f} MB, {differs}")
