"""Scores of images against prompts by onnxruntime: without torch, which takes seconds and hundreds of MB to import.

altdiffusion export onnx mini altclip-onnx
OnnxScorer("altclip-onnx").score(["a.png", "b.png"], ["一只猫", "a dog"])
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from altdiffusion.errors import InputError, first_line
from altdiffusion.images import MAX_RATIO, open_image

Features = npt.NDArray[np.float32]


class OnnxScorer:
    """What `PromptScorer` does with an AltCLIP that `export_onnx` wrote, in any precision.

    logit_scale: what the model multiplies cosines with before a softmax.
    """

    def __init__(self, folder: str | Path, *, batch_size: int = 32, providers: Sequence[str] | None = None) -> None:
        """providers: of onnxruntime, the first that is there; None: the CPU's. Raises InputError for what can't be read."""
        if batch_size < 1:
            raise InputError(f"batch_size {batch_size}: expected at least 1")
        root = Path(folder)
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ImportError as error:
            raise InputError(f"{error.name} is missing: pip install {error.name}") from None
        try:
            config = json.loads((root / "config.json").read_text("utf-8"))
            images = json.loads((root / "visual/preprocess_cfg.json").read_text("utf-8"))
            length = int(config["text_cfg"]["context_length"])
            self.logit_scale = float(config["logit_scale"])
            self._side, self._mean, self._std = images["size"][0], images["mean"], images["std"]
            self._tokenizer = Tokenizer.from_file(str(root / "textual/tokenizer.json"))
            padding = json.loads((root / "textual/tokenizer_config.json").read_text("utf-8"))["pad_token"]
            self._texts, self._images = (
                onnxruntime.InferenceSession(
                    root / part / "model.onnx", providers=providers or ["CPUExecutionProvider"]
                )
                for part in ("textual", "visual")
            )
        except Exception as error:  # a file that is missing or damaged, whatever its reader raises
            raise InputError(
                f"{root} holds no AltCLIP in ONNX ({first_line(error)}): expected what `altdiffusion export onnx` writes"
            ) from None
        self._tokenizer.enable_truncation(length)
        self._tokenizer.enable_padding(pad_id=self._tokenizer.token_to_id(padding), pad_token=padding)
        self._batch_size = batch_size

    def score(self, images: str | Path | Image.Image | Iterable[Any], prompts: str | Iterable[str]) -> Features:
        """Cosine similarities in [-1, 1], (images, prompts). images: paths or PIL images, one or several. Raises InputError."""
        columns = self.text_features(prompts)
        return (self.image_features(images) @ columns.T).clip(-1, 1)

    def text_features(self, prompts: str | Iterable[str]) -> Features:
        """Normalised, (prompts, width). What goes beyond 77 tokens is not read. Raises InputError for an empty prompt."""
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not texts or any(not isinstance(text, str) or not text.strip() for text in texts):
            raise InputError("an empty prompt asks for nothing: expected words in each")
        found = []
        for start in range(0, len(texts), self._batch_size):
            rows = self._tokenizer.encode_batch(texts[start : start + self._batch_size])
            ids = np.array([row.ids for row in rows], np.int32)
            mask = np.array([row.attention_mask for row in rows], np.int32)
            found.append(self._texts.run(None, {"input_ids": ids, "attention_mask": mask})[0])
        return np.concatenate(found)

    def image_features(self, images: str | Path | Image.Image | Iterable[Any]) -> Features:
        """Normalised, (images, width). Raises InputError, which names the image."""
        some = [images] if isinstance(images, str | Path | Image.Image) else list(images)
        if not some:
            raise InputError("no images: expected one at least")
        found = []
        for start in range(0, len(some), self._batch_size):
            pixels = np.stack([self._pixels(image) for image in some[start : start + self._batch_size]])
            found.append(self._images.run(None, {"image": pixels})[0])
        return np.concatenate(found)

    def _pixels(self, image: str | Path | Image.Image) -> Features:
        """float32 (3, side, side), as transformers' CLIPImageProcessor gives them."""
        opened = open_image(image)
        width, height = opened.size
        if max(width, height) > MAX_RATIO * min(width, height):
            raise InputError(f"an image of {width} x {height} is a line: expected sides of at most {MAX_RATIO} to 1")
        longer = int(self._side * max(width, height) / min(width, height))
        size = (longer, self._side) if height <= width else (self._side, longer)
        left, top = (size[0] - self._side) // 2, (size[1] - self._side) // 2
        resized = opened.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + self._side, top + self._side))
        pixels = np.asarray(resized, np.float32) / 255
        return ((pixels - np.array(self._mean, np.float32)) / np.array(self._std, np.float32)).transpose(2, 0, 1)
