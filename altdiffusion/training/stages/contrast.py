"""Phase 2 of AltCLIP: contrastive tuning on images with captions in several languages.

    altdiffusion train contrast --model altclip-phase-1/model --train-data "pairs/{000..099}.tar" --output-dir altclip

The image tower is frozen and the text tower is trained with CLIP's symmetric loss, against the captions of all
processes (AltCLIP, arXiv 2211.06679, section 3.2). With `--trainable both` it trains a CLIP from any start.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from altdiffusion.altclip.model import image_features, load_similarity, text_features
from altdiffusion.images import BadImage, ImageSource
from altdiffusion.metrics import recall_at_k
from altdiffusion.text_encoder.tokenizer import pad, tokens
from altdiffusion.training.inputs.captioned_images import CaptionedImages
from altdiffusion.training.inputs.feature_cache import FeatureCache, about_data, checksum
from altdiffusion.training.inputs.image_tensors import ImageCache
from altdiffusion.training.inputs.sampling import Mixture, micro_batch
from altdiffusion.training.loop import Batch, export, fit, start
from altdiffusion.training.losses.contrastive import contrastive, gathered
from altdiffusion.training.stage_settings import ContrastSettings


def train_contrast(settings: ContrastSettings) -> None:
    """Tune an AltCLIP, or a CLIP, and save it in output_dir/model. Raises InputError and TrainingStopped."""
    accelerator = start(settings)
    model, tokenizer, processor = load_similarity(settings.model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()} if settings.interpolation < 1 else {}
    if settings.trainable == "text":
        model.vision_model.requires_grad_(False)
        model.visual_projection.requires_grad_(False)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})

    data = CaptionedImages(settings.train_data, settings.languages, settings.max_skipped)
    mixture = Mixture(data.records, data.languages, settings.seed)
    read = ImageCache(lambda image: processor(image, return_tensors="pt")["pixel_values"][0])
    model.to(accelerator.device)
    cache = _cache_images(settings, model, processor, read, data, accelerator)

    def cached(record: int) -> Tensor:
        if cache is None or not len(rows := cache[record]):
            raise BadImage("the image could not be read when its features were cached")
        return rows[0].float()

    def batches(step: int, index: int, count: int) -> Batch:
        places = micro_batch(range(step * settings.batch_size, (step + 1) * settings.batch_size), index, count)
        captions, images, same = [], [], []
        for sample in (mixture[place] for place in places):
            record, image = data.image(sample.record, read) if cache is None else data.first_good(sample.record, cached)
            images.append(image)
            captions.append(data.caption(record, sample.language))
            same.append(data.identity(record))
        ids, mask = pad(tokens(tokenizer, captions), tokenizer.pad_token_id)
        name = "pixel_values" if cache is None else "image_features"
        return {"input_ids": ids, "attention_mask": mask, name: torch.stack(images), "same": torch.tensor(same)}

    task = Contrast(model, train_images=settings.trainable == "both")
    validate = None
    if settings.validation_data:
        held_out = CaptionedImages(settings.validation_data, settings.languages, settings.max_skipped)
        validate = partial(_validate, model, tokenizer, read, held_out)
    fit(task, batches, settings, accelerator, records=len(data), validate=validate)

    if before:
        mixed = {
            name: torch.lerp(before[name].float(), tensor.cpu().float(), settings.interpolation)
            for name, tensor in model.state_dict().items()
            if tensor.is_floating_point()  # others, such as position ids, have not changed
        }
        model.load_state_dict(mixed, strict=False)
    with export(settings, accelerator) as target:
        if target is not None:
            model.save_pretrained(target)
            tokenizer.save_pretrained(target)
            processor.save_pretrained(target)


class Contrast(nn.Module):
    """Both towers under CLIP's loss. In a batch, `same` (batch,) is equal where images are: those are no negatives."""

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
        # the limit of CLIP's paper; clamped in place, as exp().clamp() would stop the gradient there
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(100))
        scale = self.model.logit_scale.float().exp()
        loss = contrastive(images, texts, scale, same=same[:, None] == same[None, :])
        return {"loss": loss, "scale": scale}


def _cache_images(
    settings: ContrastSettings,
    model: Any,
    processor: Any,
    read: Callable[[ImageSource], Tensor],
    data: CaptionedImages,
    accelerator: Accelerator,
) -> FeatureCache | None:
    """The features of each image, one row; none for a bad image, whose place the next one takes."""
    if settings.image_cache is None:
        return None

    @torch.no_grad()
    def compute(records: Sequence[int]) -> list[Tensor]:
        rows = dict.fromkeys(records, torch.empty(0, model.config.projection_dim))
        if images := data.all_good(records, lambda record: read(data.source(record))):
            pixels = torch.stack(list(images.values())).to(accelerator.device)
            rows |= zip(images, image_features(model, pixels).unsqueeze(1), strict=True)
        return list(rows.values())

    about = {
        "what": "image features",
        "vision": checksum(model.vision_model, model.visual_projection),
        "processor": json.loads(processor.to_json_string()),
        **about_data(data.records.parts),
    }
    return FeatureCache(settings.image_cache, len(data), compute, about, accelerator)


def _validate(
    model: Any, tokenizer: Any, read: Callable[[ImageSource], Tensor], data: CaptionedImages, step: int
) -> dict[str, float]:
    """R@1 of each language, text to image and image to text, over up to 1,000 records."""
    metrics = {}
    for language in data.languages:
        records = list(islice(chain(*data.records.ranges(language)), 1000))
        images, texts, keys = [], [], []
        for first in range(0, len(records), 50):
            some = [data.image(record, read) for record in records[first : first + 50]]
            captions = [data.caption(record, language) for record, _ in some]
            ids, mask = pad(tokens(tokenizer, captions), tokenizer.pad_token_id)
            texts.append(text_features(model, ids.to(model.device), mask.to(model.device)))
            images.append(image_features(model, torch.stack([pixels for _, pixels in some]).to(model.device)))
            keys += [data.identity(record) for record, _ in some]
        similarity = F.normalize(torch.cat(texts), dim=-1) @ F.normalize(torch.cat(images), dim=-1).T
        identity = torch.tensor(keys, device=similarity.device)
        same = identity[:, None] == identity[None, :]
        metrics[f"{language} text to image R@1"] = recall_at_k(similarity, same, 1)
        metrics[f"{language} image to text R@1"] = recall_at_k(similarity.T, same, 1)
    return metrics
