"""Zero-shot classification: how often a system names what an image shows, and the sentences that it is asked with.

A class is asked for in several sentences; the mean of their unit features stands for it (CLIP, arXiv 2103.00020, 3.1.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from altdiffusion.altclip.zero_shot import ensemble, fill
from altdiffusion.data.table import SkipLog
from altdiffusion.errors import InputError
from altdiffusion.evaluation.datasets.class_files import BABEL, ClassSubset
from altdiffusion.evaluation.datasets.decoding import good_batches
from altdiffusion.evaluation.datasets.labelled import CIFAR_10, LabelledImages
from altdiffusion.evaluation.paper_results import BABEL_SOURCE, published_accuracy, which_model
from altdiffusion.evaluation.systems.base import System, tell_language
from altdiffusion.files import packaged_toml
from altdiffusion.metrics import classification_metrics

_FILE = packaged_toml(__package__, "class_names.toml")
CIFAR_TEMPLATES = tuple(_FILE["cifar_templates"])
TEMPLATES = {language: tuple(lines) for language, lines in _FILE["templates"].items()}
CIFAR_10_NAMES = {"en": CIFAR_10} | {language: tuple(names) for language, names in _FILE["cifar_10"].items()}
OTHER_SCRIPTS = ("zh", "ru", "ja", "ko", "ar")  # whose names can't be written in ASCII
CIFAR_10_IMAGES = 10_000  # of its test set
# AltCLIP on CIFAR-10 in English, with CIFAR_TEMPLATES, as FlagAI prints it. Fractions, 0 to 1.
FLAGAI_CIFAR_10 = {"top1": 0.95402, "top5": 0.99616, "mean_per_class_recall": 0.95412}
LABEL_ALONE = ("{}",)  # how Babel-ImageNet asks where no prompts are given
BABEL_IMAGES = 50  # of each class in ImageNet's validation set


@dataclass(frozen=True)
class ClassificationResult:
    """Fractions, 0 to 1. images: how many were classified; problems: (which, why) of those that could not be."""

    system: str
    data: str
    language: str
    images: int
    top1: float
    top5: float
    mean_per_class_recall: float
    problems: tuple[tuple[str, str], ...] = ()
    published: dict[str, float] | None = None  # the same metrics, as far as they are known for this very task
    published_by: str = ""  # whose they are: "AltCLIP, published by FlagAI"
    source: str = ""  # of the published ones
    protocol: Mapping[str, str] = field(default_factory=dict)  # of data and prompts, and the system's own


def evaluate_classification(
    system: System,
    data: LabelledImages,
    language: str = "en",
    templates: Sequence[str] | None = None,
    batch: int = 256,
    max_skipped: float = 0.01,
) -> ClassificationResult:
    """Run a system over a data set.

    data: its classes named in `language` (`localised`). templates: sentences with {} for the name; by default
        CIFAR_TEMPLATES for CIFAR in English, else TEMPLATES. max_skipped: the fraction of images that may be unreadable.
    Raises InputError: a language without templates, too many unreadable images.
    """
    sentences = usual_templates(data, language) if templates is None else tuple(templates)
    tell_language(system, language)

    def features_of(template: str) -> Tensor:
        return system.text_features([fill(template, name) for name in data.classes])

    if features_of(sentences[0]).dim() == 3:  # token by token: there is no mean of features, similarities are added up
        class_features = [features_of(template) for template in sentences]
    else:
        class_features = [ensemble(system, data.classes, sentences)]
    scores, labels = [], []
    bad: dict[int, str] = {}
    for good in good_batches(data.images, batch, SkipLog(max_skipped, what="images"), f"{system.name}: images", bad):
        labels += [data.labels[index] for index, _ in good]
        features = system.image_features([image for _, image in good])
        similarity = sum(system.similarity(texts, features).T for texts in class_features)
        scores.append(torch.as_tensor(similarity))
    if not scores:
        raise InputError(f"{data.name}: none of its images can be read")
    metrics = classification_metrics(torch.cat(scores), torch.tensor(labels))
    known = _published(system.name, data, language, sentences)
    protocol = {
        "pool": f"{len(labels)} images, {len(data.classes)} classes",
        "prompts": "the label alone" if sentences == LABEL_ALONE else f"{len(sentences)}, such as {sentences[0]}",
        "data": f"{data.name}, {data.kind}",
    }
    return ClassificationResult(
        system=system.name,
        data=data.name,
        language=language,
        images=len(labels),
        **metrics,
        problems=tuple((data.images[index].where, reason) for index, reason in bad.items()),
        published=known[0] if known else None,
        published_by=known[1] if known else "",
        source=known[2] if known else "",
        protocol=protocol | getattr(system, "protocol", {}),
    )


def _published(
    system: str, data: LabelledImages, language: str, sentences: Sequence[str]
) -> tuple[dict[str, float], str, str] | None:
    """Published metrics of this very task, whose they are, and their source."""
    asked = (language, sentences) == ("en", CIFAR_TEMPLATES)
    if asked and data.kind == "cifar-10" and len(data.images) == CIFAR_10_IMAGES and system == "AltCLIP":
        return FLAGAI_CIFAR_10, "AltCLIP, published by FlagAI", "FlagAI's evaluation of AltCLIP on CIFAR-10"
    whole = data.kind == BABEL and len(data.images) == BABEL_IMAGES * len(data.classes)
    if whole and (len(sentences) > 1 or sentences == LABEL_ALONE):
        row = published_accuracy(system, language, len(data.classes), len(sentences))
        return row and ({"top1": row[1]}, f"{row[0]}, published", f"{BABEL_SOURCE}; {which_model(row[0])}")
    return None


def localised(data: LabelledImages, language: str, names: Sequence[str] | ClassSubset | None = None) -> LabelledImages:
    """The data set with its classes named in a language: those given, or known ones of CIFAR-10. Raises InputError.

    names: of all classes, or Babel-ImageNet's, which leave only the images of classes that have one.
    """
    if isinstance(names, ClassSubset):
        return names.of(data)
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


def usual_templates(data: LabelledImages, language: str) -> tuple[str, ...]:
    """The sentences that a data set is asked with in a language. Raises InputError where none are known."""
    if language == "en" and data.kind in ("cifar-10", "cifar-100"):
        return CIFAR_TEMPLATES
    if data.kind == BABEL:
        return LABEL_ALONE
    if language not in TEMPLATES:
        raise InputError(
            f"no templates in {language!r}: give them, a line each with {{}} for the name (--templates FILE)"
        )
    return TEMPLATES[language]
