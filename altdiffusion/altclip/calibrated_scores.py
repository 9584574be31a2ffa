"""Scores by a calibration: the language of each text, its cosines as percentiles or probabilities, and how one is measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AltCLIPModel

from altdiffusion.altclip.calibration import (
    ABOUT,
    MIN_TEXTS,
    TENSORS,
    WEAK,
    Calibration,
    LanguageScores,
    cosines_of_pairs,
    language_scores,
)
from altdiffusion.altclip.score_kinds import DECIMALS, ScoreAs
from altdiffusion.altclip.text_languages import find_language, is_there
from altdiffusion.errors import InputError

logger = logging.getLogger(__name__)


def weights_of(model: AltCLIPModel) -> list[float]:
    """A few of a model's, by which a calibration knows it again."""
    layers = (model.text_projection, model.visual_projection)
    return [value for layer in layers for value in layer.weight.detach()[0, :4].float().tolist()]


def load_calibration(model: AltCLIPModel, folder: Path, given: str | Path | None) -> Calibration | None:
    """The calibration in the folder `given`, else the one beside the model in its `folder`, if there is any.

    One beside the model that was made for other weights is not used, which is said. Raises InputError where the given one is
    not there, or not of this model.
    """
    found = Calibration.load(folder if given is None else given)
    if found is None and given is not None:
        raise InputError(f"no calibration in {given}: expected {ABOUT} and {TENSORS}")
    if found is None or found.fits(weights_of(model)):
        return found
    if given is not None:
        raise InputError(f"the calibration in {given} was made for another model: calibrate this one")
    logger.warning("the calibration in %s was made for other weights and is not used: calibrate anew", folder)
    return None


def check_kind(calibration: Calibration | None, as_: ScoreAs, language: object = None) -> None:
    """Raise InputError for a kind of score that there isn't, or that can't be told."""
    if as_ not in DECIMALS:
        raise InputError(f"as_={as_!r}: expected {', '.join(DECIMALS)}")
    if as_ == "cosine" and language is not None:
        raise InputError("a language says which calibration to go by: expected as_='percentile' or the like with it")
    if as_ != "cosine" and calibration is None:
        raise InputError(
            f"{as_}: this model has no calibration: make one with PromptScorer.calibrate, or name its folder (calibration)"
        )


def calibrated_language(text: str, given: str | None, calibration: Calibration) -> tuple[str, bool]:
    """The language of a text by the name that a calibration has for it, and whether it is sure. given: None finds it.

    Raises InputError where it has none.
    """
    if given:
        language, sure = given, True
    else:
        language, _, sure = find_language(text, calibration.languages)
    if (found := calibration.find(language)) is None:
        seems = "" if given else ", which its language seems to be"
        raise InputError(f"no calibration for {language!r}{seems}, but for {', '.join(calibration.languages)}")
    return found, sure


def prompt_languages(
    calibration: Calibration | None, texts: Sequence[str], as_: ScoreAs, language: str | Sequence[str] | None
) -> list[str | None]:
    """The calibrated language of each prompt; None where it has none, which is said, and for cosines.

    Raises InputError: as `check_kind`; a language that was given has no calibration, or that of no prompt.
    """
    check_kind(calibration, as_, language)
    if as_ == "cosine" or calibration is None:
        return [None] * len(texts)
    given = [language] * len(texts) if language is None or isinstance(language, str) else list(language)
    if len(given) != len(texts):
        raise InputError(f"{len(given)} languages for {len(texts)} prompts: expected one, or one for each")
    languages: list[str | None] = []
    for text, own in zip(texts, given, strict=True):
        try:
            name, sure = calibrated_language(text, own, calibration)
        except InputError as error:
            if own is not None or len(texts) == 1 or not is_there():
                raise
            logger.warning("%r: %s; its scores are NaN", text[:40], error)
            languages.append(None)
        else:
            languages.append(name)
            if not sure:
                logger.warning("%r is taken for %r, which isn't sure: name the language", text[:40], name)
    if texts and not any(languages):
        raise InputError(f"no prompt is in a calibrated language: expected {', '.join(calibration.languages)}")
    warn_of_weak(calibration, filter(None, languages))
    return languages


def pair_languages(
    calibration: Calibration | None,
    texts: Sequence[str],
    as_: ScoreAs,
    given: Sequence[str | None],
    defects: dict[int, str],
    warned: set[str],
) -> list[str | None]:
    """The calibrated language of each pair's text; None where `defects` has its index, and for cosines.

    given: None where it is to be found. defects: gets those without a calibrated language. warned: languages that were warned
    of already; gets the others. Raises InputError where languages can't be found.
    """
    languages: list[str | None] = [None] * len(texts)
    if calibration is None or as_ == "cosine":
        return languages
    for index, (text, own) in enumerate(zip(texts, given, strict=True)):
        try:
            languages[index] = None if index in defects else calibrated_language(text, own, calibration)[0]
        except InputError as error:
            if own is None and not is_there():
                raise
            defects[index] = str(error)
    new = set(filter(None, languages)) - warned
    warn_of_weak(calibration, sorted(new))
    warned |= new
    return languages


def convert(calibration: Calibration | None, cosines: Tensor, languages: Sequence[str | None], as_: ScoreAs) -> Tensor:
    """A table of cosines, (images, texts), as another kind; a column without language is NaN, unless cosines are wanted."""
    if as_ == "cosine" or calibration is None:
        return cosines
    scores = np.full(cosines.shape, np.nan, np.float32)
    for name in filter(None, dict.fromkeys(languages)):
        columns = [index for index, own in enumerate(languages) if own == name]
        scores[:, columns] = calibration.convert(cosines[:, columns].numpy(), name, as_)
    return torch.from_numpy(scores)


def usable_texts(texts: Mapping[str, Sequence[str | None]], num_images: int | None) -> dict[str, list[tuple[int, str]]]:
    """[(index, text)] of each language that has enough different texts; of the others a warning says how many they have.

    num_images: how many texts each must have; None: any number. Raises InputError where no language has enough.
    """
    usable: dict[str, list[tuple[int, str]]] = {}
    few: dict[str, int] = {}
    for name, given in texts.items():
        if num_images is not None and len(given) != num_images:
            raise InputError(f"{len(given)} texts in {name!r} and {num_images} images: expected one for each, or None")
        pairs = [(index, text) for index, text in enumerate(given) if text and text.strip()]
        if (count := len({text for _, text in pairs})) < MIN_TEXTS:
            few[name] = count
        else:
            usable[name.strip().lower().replace("_", "-")] = pairs
    counts = ", ".join(f"{name!r} has {count}" for name, count in few.items()) or "there is no language"
    if not usable:
        raise InputError(f"at least {MIN_TEXTS} different texts in a language are needed to calibrate it: {counts}")
    if few:
        logger.warning("not calibrated, as at least %d different texts are needed: %s", MIN_TEXTS, counts)
    return usable


def measure(
    images: Tensor,
    good: Sequence[int],
    text_features: Callable[[list[str]], Tensor],
    pairs: Sequence[tuple[int, str]],
    matching: bool,
    language: str,
) -> LanguageScores:
    """The cosines of one language.

    images: the features, of which those at the indices `good` are known. pairs: (index, text); with `matching` the index is
        that of its image. Raises InputError where too few of them are left.
    """
    if matching:
        readable = set(good)
        pairs = [(index, text) for index, text in pairs if index in readable]
        good = [index for index, _ in pairs]
    words = [text for _, text in pairs]
    wrong, right = np.empty(0), None
    if words and good:
        features = text_features(words).numpy()
        wrong, right = cosines_of_pairs(images[list(good)].numpy(), features, words, matching)
    if len(set(words)) < MIN_TEXTS or len(wrong) < MIN_TEXTS:
        raise InputError(
            f"{language!r} has {len(set(words))} different texts of images that can be read, and {len(wrong)} pairs that don't "
            f"belong together: at least {MIN_TEXTS} of both are needed to calibrate it"
        )
    return language_scores(wrong, right, len(set(words)))


def warn_of_weak(calibration: Calibration, languages: Iterable[str]) -> None:
    """Say which of these the model hardly knows, as it was not trained on them."""
    for name in dict.fromkeys(languages):
        apart = calibration.languages[name].told_apart
        if apart is not None and apart < WEAK:
            logger.warning(
                "this model hardly knows %r: a right pair scores above a wrong one in %.0f of 100 cases",
                name,
                100 * apart,
            )
