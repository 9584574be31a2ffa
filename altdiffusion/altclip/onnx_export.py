"""AltCLIP, its text tower, and the tower with a bridge as ONNX models, each compared with PyTorch before it is kept.

config.json, textual/, visual/        a full AltCLIP, as immich's machine learning reads its models: normalised features
text_encoder/                         the hidden states that a Stable Diffusion is given
bridge/                               soft tokens for a Stable Diffusion's CLIP
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from altdiffusion.altclip.model import load_with_processor
from altdiffusion.altclip.onnx_checks import OPSET, Part, Precision, check_export
from altdiffusion.errors import InputError, first_line
from altdiffusion.files import new_folder, write_text
from altdiffusion.text_encoder.bridge import Bridge, load_bridge
from altdiffusion.text_encoder.bridge_layers import check_altclip
from altdiffusion.text_encoder.encoder import load_text_encoder
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS, pad, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

# The largest difference from PyTorch in float32, of states and features about 1 in size.
TOLERANCE: Mapping[Precision, float] = {"float32": 1e-4, "float16": 2e-2}
LEAST_COSINE = 0.98  # of int8's outputs and PyTorch's
_TEXTS = ["a cat", "一只猫在海边的城堡前，月光，非常详细", "кошка", "قطة على خلفية زرقاء"]


@dataclass(frozen=True)
class Exported:
    """An ONNX model. error: the largest difference of its outputs from PyTorch's; cosine: the least of any two. size: bytes."""

    path: Path
    error: float
    cosine: float
    size: int


def export_onnx(
    source: str | Path | None,
    destination: str | Path,
    *,
    part: Part = "altclip",
    bridge: str | Path | None = None,
    precision: Precision = "float32",
    opset: int = OPSET,
    allow_pickle: bool = False,
) -> list[Exported]:
    """Write ONNX models into a new folder, with their tokenizer.

    source: as in `PromptScorer.from_pretrained`, or for the other parts as in `load_text_encoder`. bridge: for the part
    "bridge", as in `load_bridge`. precision: float16 halves the file; int8 quantizes the weights of matrix products, and what
    these multiply at run time. opset: of the operators, 18 or later.
    Raises InputError, also where the outputs differ from PyTorch's by more than TOLERANCE or LEAST_COSINE: nothing is kept then.
    """
    folder = Path(destination)
    check_export(folder, part, bridge)
    options: dict[str, Any] = {"precision": precision, "opset": opset}
    with new_folder(folder) as aside, torch.no_grad():
        if part == "altclip":
            written = _altclip(source, aside, allow_pickle, **options)
        else:
            written = _text_encoder(source, bridge, aside, allow_pickle, **options)
    return [Exported(folder / each.path.relative_to(aside), each.error, each.cosine, each.size) for each in written]


class TextFeatures(nn.Module):
    """Token ids and mask, int32 (batch, tokens), to normalised features, float32 (batch, projection_dim)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        features = self.model.get_text_features(input_ids=input_ids.long(), attention_mask=attention_mask.long())
        return nn.functional.normalize(features.float(), dim=-1)


class ImageFeatures(nn.Module):
    """Pixels as the image processor gives them, float32 (batch, 3, side, side), to normalised features."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        features = self.model.get_image_features(pixel_values=image.to(self.model.dtype))
        return nn.functional.normalize(features.float(), dim=-1)


class TextStates(nn.Module):
    """Token ids and mask, int32 (batch, tokens), to hidden states, float32 (batch, tokens, project_dim)."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.tower(input_ids=input_ids.long(), attention_mask=attention_mask.long())[0].float()


class SoftTokenEmbeddings(nn.Module):
    """The same to soft tokens: their number, int64 (batch,), and for each CLIP float32 (batch, max_soft_tokens, width).

    Beyond a text's number they mean nothing.
    """

    def __init__(self, tower: Any, bridge: Bridge) -> None:
        super().__init__()
        self.tower, self.bridge = tower, bridge

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        states = self.tower(input_ids=input_ids.long(), attention_mask=attention_mask.long())[0]
        soft = self.bridge(states, attention_mask, longest=self.bridge.config.max_soft_tokens)
        present = torch.arange(self.bridge.config.max_soft_tokens, device=states.device) < soft.lengths[:, None]
        return soft.lengths, *(part.float() * present[..., None] for part in soft.embeddings)


def _altclip(source: str | Path | None, folder: Path, allow_pickle: bool, **options: Any) -> list[Exported]:
    model, processor, _ = load_with_processor(source, allow_pickle=allow_pickle, caller="export_onnx")
    model = model.float()
    side = model.config.vision_config.image_size
    config = {
        "embed_dim": model.config.projection_dim,
        "vision_cfg": {"image_size": side},
        "text_cfg": {"context_length": MAX_TOKENS},
        "logit_scale": model.logit_scale.detach().float().exp().item(),
    }
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    pictures = [torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(count)) for count in (2, 3)]
    _save_tokenizer(processor.tokenizer, folder / "textual")
    return [
        _export(
            TextFeatures(model), folder / "textual", ["input_ids", "attention_mask"], ["features"],
            _inputs(processor.tokenizer), **options,
        ),
        _export(ImageFeatures(model), _with_preprocessing(folder / "visual", processor.image_processor), ["image"], ["features"],
                [(each,) for each in pictures], **options),
    ]  # fmt: skip


def _text_encoder(
    source: str | Path | None, bridge: str | Path | None, folder: Path, allow_pickle: bool, **options: Any
) -> list[Exported]:
    tower, tokenizer = load_text_encoder(source, dtype=torch.float32, allow_pickle=allow_pickle)
    outputs, name = ["hidden_states"], "text_encoder"
    model: nn.Module = TextStates(tower)
    if bridge is not None:
        loaded = load_bridge(bridge, torch.float32)
        if not isinstance(loaded, Bridge):
            raise InputError(f"the bridge {bridge} stands at CLIP's exit: expected one for its entrance")
        check_altclip(loaded, tower)
        outputs = ["lengths", *(f"embeddings_{index + 1}" for index in range(len(loaded.config.embedding_widths)))]
        model, name = SoftTokenEmbeddings(tower, loaded.eval()), "bridge"
        write_text(folder / "config.json", json.dumps(loaded.config.to_diff_dict(), indent=2) + "\n")
    _save_tokenizer(tokenizer, folder / name)
    return [_export(model, folder / name, ["input_ids", "attention_mask"], outputs, _inputs(tokenizer), **options)]


def _inputs(tokenizer: Any) -> list[tuple[Tensor, ...]]:
    """Batches of different sizes and lengths: the first is traced, the others are compared."""
    batches = [_TEXTS[:2], _TEXTS, _TEXTS[:1]]
    rows = [pad(tokens(tokenizer, texts), tokenizer.pad_token_id) for texts in batches]
    return [(ids.int(), mask.int()) for ids, mask in rows]


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"a {type(tokenizer).__name__} writes no tokenizer.json, which the runtimes read")


def _with_preprocessing(folder: Path, processor: Any) -> Path:
    """What images go through, in the words of open_clip, which immich reads. Returns the folder."""
    size, crop = dict(processor.size), dict(processor.crop_size)
    side = size.get("shortest_edge", size.get("height"))
    if side != crop.get("height") or crop.get("height") != crop.get("width") or processor.resample != 3:
        raise InputError(f"the image processor scales to {size} and crops to {crop}: expected one bicubic square")
    settings = {
        "size": [side, side], "mode": "RGB", "mean": list(processor.image_mean), "std": list(processor.image_std),
        "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0,
    }  # fmt: skip
    folder.mkdir()
    write_text(folder / "preprocess_cfg.json", json.dumps(settings, indent=2) + "\n")
    return folder


def _export(
    module: nn.Module,
    folder: Path,
    inputs: list[str],
    outputs: list[str],
    batches: Sequence[tuple[Tensor, ...]],
    precision: Precision,
    opset: int,
) -> Exported:
    """Write folder/model.onnx, whose batch and tokens are free, and compare it."""
    path = folder / "model.onnx"
    expected = [_as_arrays(module.eval()(*batch)) for batch in batches]
    if precision == "float16":
        module = module.half()
    free = {0: torch.export.Dim("batch"), **({1: torch.export.Dim("tokens", max=512)} if len(inputs) == 2 else {})}
    with _quiet():
        torch.onnx.export(
            module, batches[0], str(path), input_names=inputs, output_names=outputs, opset_version=opset, dynamo=True,
            dynamic_shapes=dict.fromkeys(inputs, free), external_data=_is_large(module), verbose=False,
        )  # fmt: skip
        if precision == "int8":
            _quantize(path)
    error, cosine = _difference(path, inputs, batches, expected)
    wrong = cosine < LEAST_COSINE if precision == "int8" else not error <= TOLERANCE[precision]
    if wrong:
        raise InputError(
            f"{path.parent.name} in {precision} differs from PyTorch: {error:.2g} at most, cosine {cosine:.4f} at least; "
            "nothing is kept, take float32"
        )
    return Exported(path, error, cosine, sum(each.stat().st_size for each in folder.glob("model.onnx*")))


def _is_large(module: nn.Module) -> bool:
    """Whether weights need a file beside the model's, which protobuf limits to 2 GB."""
    return sum(each.numel() * each.element_size() for each in module.parameters()) > 1.5e9


def _quantize(path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.with_name("whole.onnx")
    for file in list(path.parent.glob("model.onnx*")):
        if file != path:
            raise InputError("a model of over 1.5 GB isn't quantized here: expected float32 or float16")
    path.rename(whole)
    quantize_dynamic(whole, path, weight_type=QuantType.QInt8)
    whole.unlink()


def _difference(
    path: Path, inputs: list[str], batches: Sequence[tuple[Tensor, ...]], expected: Sequence[list[np.ndarray[Any, Any]]]
) -> tuple[float, float]:
    """(largest difference, least cosine) of all outputs over all batches."""
    import onnx
    import onnxruntime

    try:
        onnx.checker.check_model(str(path))
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        given = [session.run(None, dict(zip(inputs, map(Tensor.numpy, batch), strict=True))) for batch in batches]
    except Exception as problem:  # whatever a runtime stumbles over
        raise InputError(f"the ONNX model of {path.parent.name} doesn't run: {first_line(problem)}") from problem
    error, cosine = 0.0, 1.0
    for ours, theirs in zip(given, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            left, right = (each.astype(np.float64).reshape(len(each), -1) for each in (one, other))
            if left.shape != right.shape:
                raise InputError(f"{path.parent.name} gives {one.shape}, PyTorch {other.shape}: it can't be exported")
            error = max(error, float(np.abs(left - right).max()))
            products = (left * right).sum(1) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))
            cosine = min(cosine, float(products.min()))
    return error, cosine


def _as_arrays(outputs: Tensor | tuple[Tensor, ...]) -> list[np.ndarray[Any, Any]]:
    return [each.numpy() for each in (outputs if isinstance(outputs, tuple) else (outputs,))]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on operators of packages that aren't here."""
    loggers = [
        logging.getLogger(name)
        for name in ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "root")
    ]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
