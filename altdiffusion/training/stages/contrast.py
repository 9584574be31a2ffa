"""Phase 2 of AltCLIP: contrastive tuning on images with captions in several languages.

    altdiffusion train contrast --model altclip-phase-1/model --train-data "pairs/{000..099}.tar" --output-dir altclip

The image tower is frozen and the text tower is trained with CLIP's symmetric loss, against the captions of all
processes (AltCLIP, arXiv 2211.06679, section 3.2). With `--trainable both` it trains a CLIP from any start.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altdiffusion.altclip.model import (
    image_features,
    load_similarity,
    text_features,
)
from altdiffusion.images import BadImage, ImageSource
from altdiffusion.metrics import recall_at_k
from altdiffusion.text_encoder.tokenizer import pad, tokens
from altdiffusion.training.inputs.captioned_images import CaptionedPictures
from altdiffusion.training.inputs.feature_cache import FeatureCache, checksum, describe_tables
from altdiffusion.training.inputs.image_tensors import Remembered
from altdiffusion.training.inputs.sampling import Mixture, piece_of
from altdiffusion.training.loop import Batch, export, fit, start
from altdiffusion.training.losses.contrastive import contrastive, gathered
from altdiffusion.training.stage_settings import ContrastSettings


def contrast(settings: ContrastSettings) -> None:
    """Tune an AltCLIP, or a CLIP, and save it in output_dir/model. Raises InputError and TrainingStopped."""
    accelerator = start(settings)
    model, tokenizer, processor = load_similarity(settings.model)
    before = {name: each.clone() for name, each in model.state_dict().items()} if settings.interpolation < 1 else {}
    if settings.trainable == "text":
        model.vision_model.requires_grad_(False)
        model.visual_projection.requires_grad_(False)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})

    data = CaptionedPictures(settings.train_data, settings.languages, settings.max_skipped)
    mixture = Mixture(data.records, data.languages, settings.seed)
    read = Remembered(lambda image: processor(image, return_tensors="pt")["pixel_values"][0])
    model.to(accelerator.device)
    cache = None
    if settings.image_cache is not None:

        @torch.no_grad()
        def compute(records: Sequence[int]) -> list[Tensor]:
            """No row for a bad image: in a batch, the next one takes its place."""
            features = [torch.empty(0, model.config.projection_dim)] * len(records)
            pixels = {}
            for place, record in enumerate(records):
                try:
                    pixels[place] = read(data.source(record))
                except BadImage as error:
                    data.skip(record, str(error))
            if pixels:
                rows = image_features(model, torch.stack(list(pixels.values())).to(accelerator.device))
                for place, row in zip(pixels, rows, strict=True):
                    features[place] = row[None]
            return features

        about = {
            "what": "image features",
            "vision": checksum(model.vision_model, model.visual_projection),
            "processor": json.loads(processor.to_json_string()),
            "data": describe_tables(data.records.tables),
        }
        cache = FeatureCache(settings.image_cache, len(data), compute, about, accelerator)

    def cached(record: int) -> Tensor:
        if cache is None or not len(rows := cache[record]):
            raise BadImage("the picture could not be read when its features were cached")
        return rows[0].float()

    def batches(step: int, piece: int, pieces: int) -> Batch:
        numbers = piece_of(range(step * settings.batch_size, (step + 1) * settings.batch_size), piece, pieces)
        captions, pictures, same = [], [], []
        for draw in map(mixture.draw, numbers):
            record, picture = data.picture(draw.record, read) if cache is None else data.first_good(draw.record, cached)
            pictures.append(picture)
            captions.append(data.caption(record, draw.language))
            same.append(data.identity(record))
        ids, mask = pad(tokens(tokenizer, captions), tokenizer.pad_token_id)
        name = "pixel_values" if cache is None else "image_features"
        return {"input_ids": ids, "attention_mask": mask, name: torch.stack(pictures), "same": torch.tensor(same)}

    task = Contrast(model, train_images=settings.trainable == "both")
    validate = None
    if settings.validation_data:
        held_out = CaptionedPictures(settings.validation_data, settings.languages, settings.max_skipped)
        validate = _validation(model, tokenizer, read, held_out)
    fit(task, batches, settings, accelerator, records=len(data), validate=validate)

    if before:
        share = settings.interpolation
        mixed = {name: torch.lerp(before[name].float(), each.cpu().float(), share) for name, each in model.state_dict().items()
                 if each.is_floating_point()}  # fmt: skip
        model.load_state_dict(mixed, strict=False)  # what is no number, such as position ids, has not changed
    with export(settings, accelerator) as target:
        if target is not None:
            model.save_pretrained(target)
            tokenizer.save_pretrained(target)
            processor.save_pretrained(target)


class Contrast(nn.Module):
    """Both towers under CLIP's loss. In a batch, `same` numbers the images: equal numbers are no negatives."""

    def __init__(self, model: Any, train_images: bool) -> None:
        super().__init__()
        self.model = model
        self._train_images = train_images

    def train(self, mode: bool = True) -> Contrast:
        """A frozen image tower stays in eval mode: a cache of its features holds them without dropout, too."""
        super().train(mode)
        if not self._train_images:
            self.model.vision_model.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        texts = text_features(self.model, batch["input_ids"], batch["attention_mask"])
        if "image_features" in batch:
            images = batch["image_features"]
        else:
            with torch.set_grad_enabled(self._train_images and torch.is_grad_enabled()):
                images = image_features(self.model, batch["pixel_values"])
        texts, images, same = gathered(texts.float()), gathered(images.float()), gathered(batch["same"])
        with (
            torch.no_grad()
        ):  # the limit of CLIP's paper; clamped in place, as exp().clamp() would stop the gradient there
            self.model.logit_scale.clamp_(max=math.log(100))
        scale = self.model.logit_scale.float().exp()
        loss = contrastive(images, texts, scale, same=same[:, None] == same[None, :])
        return {"loss": loss, "scale": scale}


def _validation(
    model: Any, tokenizer: Any, read: Callable[[ImageSource], Tensor], data: CaptionedPictures
) -> Callable[[int], dict[str, float]]:
    """R@1 of each language, text to image and image to text, over up to 1,000 records."""

    def validate(step: int) -> dict[str, float]:
        figures = {}
        for language in data.languages:
            numbers = [number for each in data.records.ranges(language) for number in each[:1000]][:1000]
            images, texts, keys = [], [], []
            for first in range(0, len(numbers), 50):
                found = [data.picture(number, read) for number in numbers[first : first + 50]]
                ids, mask = pad(
                    tokens(tokenizer, [data.caption(i, language) for i, _ in found]), tokenizer.pad_token_id
                )
                texts.append(text_features(model, ids.to(model.device), mask.to(model.device)))
                images.append(image_features(model, torch.stack([pixels for _, pixels in found]).to(model.device)))
                keys += [data.identity(i) for i, _ in found]
            similarity = F.normalize(torch.cat(texts), dim=-1) @ F.normalize(torch.cat(images), dim=-1).T
            pictures = torch.tensor(keys, device=similarity.device)
            same = pictures[:, None] == pictures[None, :]
            figures[f"{language} text to image R@1"] = recall_at_k(similarity, same, 1)
            figures[f"{language} image to text R@1"] = recall_at_k(similarity.T, same, 1)
        return figures

    return validate
