"""Names of classes and sentences to ask with, from files: a line each, or the JSON of Babel-ImageNet and CLIP_benchmark.

| file | |
|---|---|
| Babel-ImageNet's babel_imagenet.json | `{"DE": [[0, 1, ...], ["Schleie", ...]], ...}`: indices among ImageNet's 1000, names |
| Babel-ImageNet's nllb_dist13b_prompts.json | `{"DE": ["ein Foto von {}", ...], ...}` |
| CLIP_benchmark's it_classnames.json, ..._templates.json | `{"imagenet1k": [...]}` |
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from altdiffusion.errors import InputError, first_line
from altdiffusion.evaluation.datasets.caption_entry import read_head
from altdiffusion.evaluation.datasets.caption_languages import choose_language
from altdiffusion.evaluation.datasets.labelled import LabelledImages, read_lines
from altdiffusion.files import local_path

IMAGENET = 1000  # classes, which Babel-ImageNet numbers
BABEL = "babel-imagenet"  # the kind of data whose classes are a language's
_CLIP_BENCHMARK = "imagenet1k"


@dataclass(frozen=True)
class ClassSubset:
    """The classes that have a name in a language, by their indices in ImageNet, and those names."""

    language: str
    indices: tuple[int, ...]
    names: tuple[str, ...]

    def of(self, data: LabelledImages) -> LabelledImages:
        """The images of these classes alone, numbered and named anew. Raises InputError for other than ImageNet's classes."""
        if len(data.classes) != IMAGENET:
            raise InputError(
                f"Babel-ImageNet numbers ImageNet's {IMAGENET} classes, {data.name} has {len(data.classes)}: give its "
                "validation set, a folder a class"
            )
        new_label = {index: label for label, index in enumerate(self.indices)}
        kept = [
            (image, new_label[label])
            for image, label in zip(data.images, data.labels, strict=True)
            if label in new_label
        ]
        images, labels = [image for image, _ in kept], [label for _, label in kept]
        return replace(data, kind=BABEL, images=images, labels=labels, classes=list(self.names))


def read_class_names(source: str | Path, language: str) -> list[str] | ClassSubset:
    """Names of all classes, or Babel-ImageNet's of one language. Raises InputError."""
    path = local_path(source)
    document = _document(path)
    if document is None:
        return read_lines(path)
    if _CLIP_BENCHMARK in document:
        return _strings(path, _CLIP_BENCHMARK, document[_CLIP_BENCHMARK])
    code = _chosen(path, document, language)
    pair = document[code]
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, list) for part in pair):
        raise InputError(
            f"{path}: {code} is not Babel-ImageNet's, expected two lists, of classes' indices and of their names"
        )
    indices, names = pair[0], _strings(path, code, pair[1])
    if len(indices) != len(names):
        raise InputError(
            f"{path}: {code} has {len(indices)} indices of classes and {len(names)} names: expected one for one. Is it whole?"
        )
    if wrong := [index for index in indices if not isinstance(index, int) or not 0 <= index < IMAGENET]:
        raise InputError(f"{path}: {code} has the class {wrong[0]!r}, expected 0 to {IMAGENET - 1}")
    if len(set(indices)) < len(indices):
        raise InputError(
            f"{path}: {code} names a class twice: {len(indices)} indices, {len(set(indices))} different ones"
        )
    return ClassSubset(language, tuple(indices), tuple(names))


def read_templates(source: str | Path, language: str) -> list[str]:
    """Sentences with {} or {c} for the name. Raises InputError."""
    path = local_path(source)
    document = _document(path)
    if document is None:
        return read_lines(path)
    code = _CLIP_BENCHMARK if _CLIP_BENCHMARK in document else _chosen(path, document, language)
    return _strings(path, code, document[code])


def _document(path: Path) -> dict[str, Any] | None:
    """The JSON object that a file is; None: it is a text."""
    if not path.is_file() or not read_head(path, 64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} begins like JSON but is none ({first_line(error)}): is it whole?") from None
    return dict(document)


def _chosen(path: Path, document: dict[str, Any], language: str) -> str:
    code = choose_language(list(document), language)
    if code is None:
        present = ", ".join(sorted(document)[:40]) + (", ..." if len(document) > 40 else "")
        raise InputError(
            f"{path} has nothing in {language}, only in {present.lower() or 'no language'}: choose with --language"
        )
    return code


def _strings(path: Path, what: str, values: object) -> list[str]:
    if (
        not isinstance(values, list)
        or not values
        or not all(isinstance(value, str) and value.strip() for value in values)
    ):
        raise InputError(f"{path}: {what} should be a list of texts, none of them empty")
    return values
