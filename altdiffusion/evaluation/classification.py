"""Zero-shot classification: how often a system names what an image shows, and the sentences that it is asked with.

A class is asked for in several sentences; the mean of their unit features stands for it (CLIP, arXiv 2103.00020, 3.1.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from PIL.Image import Image

from altdiffusion.altclip.zero_shot import ensemble, fill
from altdiffusion.errors import InputError
from altdiffusion.evaluation.datasets.labelled import CIFAR_10, Labelled
from altdiffusion.evaluation.systems.base import System
from altdiffusion.images import BadImage, decode_image
from altdiffusion.metrics import classification_figures

# What CLIP's authors ask CIFAR with, and FlagAI after them: nine sentences, with "a" and with "the".
CIFAR_TEMPLATES = tuple(
    f"a {quality}photo of {article} {size}{{}}."
    for article in ("a", "the")
    for quality, size in (
        *((quality, "") for quality in ("", "blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good ")),
        ("", "small "),
        ("", "big "),
    )
)  # fmt: skip
# One each of our own for a start; published sets (80 in Chinese, 49 in Italian ...) are given as a file.
TEMPLATES = {
    "en": ("a photo of a {}.", "a picture of a {}.", "{}"),
    "zh": ("一张{}的照片。", "一幅{}的图片。", "{}"),
    "es": ("una foto de {}.", "una imagen de {}.", "{}"),
    "fr": ("une photo de {}.", "une image de {}.", "{}"),
    "ru": ("фотография: {}.", "изображение: {}.", "{}"),
    "ja": ("{}の写真。", "{}の画像。", "{}"),
    "ko": ("{}의 사진.", "{}의 그림.", "{}"),
    "ar": ("صورة فوتوغرافية: {}.", "صورة: {}.", "{}"),
    "it": ("una foto di {}.", "un'immagine di {}.", "{}"),
}
CIFAR_10_NAMES = {
    "en": CIFAR_10,
    "zh": ("飞机", "汽车", "鸟", "猫", "鹿", "狗", "青蛙", "马", "船", "卡车"),
    "es": ("avión", "coche", "pájaro", "gato", "ciervo", "perro", "rana", "caballo", "barco", "camión"),
    "fr": ("avion", "voiture", "oiseau", "chat", "cerf", "chien", "grenouille", "cheval", "bateau", "camion"),
    "ru": ("самолёт", "автомобиль", "птица", "кошка", "олень", "собака", "лягушка", "лошадь", "корабль", "грузовик"),
    "ja": ("飛行機", "自動車", "鳥", "猫", "鹿", "犬", "カエル", "馬", "船", "トラック"),
    "ko": ("비행기", "자동차", "새", "고양이", "사슴", "개", "개구리", "말", "배", "트럭"),
    "ar": ("طائرة", "سيارة", "طائر", "قطة", "غزال", "كلب", "ضفدع", "حصان", "سفينة", "شاحنة"),
    "it": ("aereo", "automobile", "uccello", "gatto", "cervo", "cane", "rana", "cavallo", "nave", "camion"),
}
OTHER_SCRIPTS = ("zh", "ru", "ja", "ko", "ar")  # whose names can't be written in ASCII
CIFAR_10_IMAGES = 10_000  # of its test set
# AltCLIP on CIFAR-10 in English, with CIFAR_TEMPLATES, as FlagAI prints it. Shares, 0 to 1.
FLAGAI_CIFAR_10 = {"top1": 0.95402, "top5": 0.99616, "mean_per_class_recall": 0.95412}


@dataclass(frozen=True)
class ClassificationResult:
    """Shares, 0 to 1. images: how many were judged; problems: (which, why) of those that could not be."""

    system: str
    data: str
    language: str
    images: int
    top1: float
    top5: float
    mean_per_class_recall: float
    problems: tuple[tuple[str, str], ...] = ()
    published: dict[str, float] | None = None  # the same figures, where they are known for this very task


def evaluate_classification(
    system: System,
    data: Labelled,
    language: str = "en",
    templates: Sequence[str] | None = None,
    batch: int = 256,
    max_skipped: float = 0.01,
) -> ClassificationResult:
    """Run a system over a data set.

    data: its classes named in `language` (`localised`). templates: sentences with {} for the name; by default
        CIFAR_TEMPLATES for CIFAR in English, else TEMPLATES. max_skipped: the share of images that may be unreadable.
    Raises InputError: a language without templates, too many unreadable images.
    """
    usual = usual_templates(data, language) if templates is None else tuple(templates)
    asked = [[fill(template, name) for name in data.classes] for template in usual]
    vectors = [system.text_features(each) for each in asked]
    by_token = vectors[0].dim() == 3
    classes = vectors if by_token else [ensemble(system, data.classes, usual)]
    scores, labels = [], []
    problems: list[tuple[str, str]] = []
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(data.images), batch):
            numbers = range(first, min(first + batch, len(data.images)))
            found = list(pool.map(lambda number: _decode(data, number), numbers))
            good = [(number, image) for number, image in zip(numbers, found, strict=True) if not isinstance(image, str)]
            problems += [
                (f"{data.images[number].path} {data.images[number].member}".strip(), reason)
                for number, reason in zip(numbers, found, strict=True)
                if isinstance(reason, str)
            ]
            if len(problems) > max_skipped * len(data.images):
                raise InputError(
                    f"{len(problems)} of {len(data.images)} images can't be used, more than {100 * max_skipped:g} %; "
                    f"the first: {problems[0][0]}: {problems[0][1]}"
                )
            if good:
                features = system.image_features([image for _, image in good])
                similar = sum(system.similarity(each, features).T for each in classes)
                scores.append(torch.as_tensor(similar))
                labels += [data.labels[number] for number, _ in good]
    figures = classification_figures(torch.cat(scores), torch.tensor(labels))
    whole = data.kind == "cifar-10" and len(data.images) == CIFAR_10_IMAGES
    known = whole and system.name == "AltCLIP" and language == "en" and usual == CIFAR_TEMPLATES
    return ClassificationResult(
        system=system.name,
        data=data.name,
        language=language,
        images=len(labels),
        **figures,
        problems=tuple(problems),
        published=FLAGAI_CIFAR_10 if known else None,
    )


def localised(data: Labelled, language: str, names: Sequence[str] | None = None) -> Labelled:
    """The data set with its classes named in a language: those given, or known ones of CIFAR-10. Raises InputError."""
    if names is not None:
        return data.named(names)
    if data.kind == "cifar-10" and language in CIFAR_10_NAMES:
        return data.named(CIFAR_10_NAMES[language])
    if language != "en" and data.kind in ("cifar-10", "cifar-100"):
        raise InputError(f"no names of {data.name}'s classes in {language!r}: give them, a line each (--classes FILE)")
    if language in OTHER_SCRIPTS and all(name.isascii() for name in data.classes):
        raise InputError(
            f"{data.name}'s classes are named in Latin letters ({data.classes[0]}, ...), to be asked in {language!r}: "
            f"give their names, a line each in the order {', '.join(data.classes[:3])} ... (--classes FILE)"
        )
    return data


def usual_templates(data: Labelled, language: str) -> tuple[str, ...]:
    """The sentences that a data set is asked with in a language. Raises InputError where none are known."""
    if language == "en" and data.kind in ("cifar-10", "cifar-100"):
        return CIFAR_TEMPLATES
    if language not in TEMPLATES:
        raise InputError(
            f"no templates in {language!r}: give them, a line each with {{}} for the name (--templates FILE)"
        )
    return TEMPLATES[language]


def _decode(data: Labelled, number: int) -> Image | str:
    try:
        return decode_image(data.images[number])
    except BadImage as error:
        return str(error)
