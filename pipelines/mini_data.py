"""What `build_mini.py` trains on: pictures, and captions of them in nine languages, plain and wordy.

A line of the data is {"image": ..., "en": ..., "en-wordy": ...}. The English teacher reads "en" alone. All that learns from
it sees the wordy ones too, so that what people write around the name of a thing does not change what is drawn.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from altdiffusion.files import new_folder, write_text
from altdiffusion.training.glyphs import (
    COLOURS,
    CONCEPTS,
    LANGUAGES,
    SPACELESS,
    captions,
    concept_names,
    filler_words,
    framed,
    held_out,
    held_out_together,
    render,
    side_by_side,
    wordy,
)

Line = dict[str, str]


def things(out: Path, smoke: bool) -> None:
    """Each thing on each background, and in a frame, which is another style."""
    captioned = captioner(random.Random(0), random.Random(1))
    train, unseen = [], []
    with new_folder(out) as folder:
        (folder / "pictures").mkdir()
        (folder / "framed").mkdir()
        for concept in concepts(smoke):
            for colour in range(len(COLOURS)):
                picture = f"pictures/{concept:03d}-{colour}.png"
                drawn = drawing(concept, colour, 64, smoke)
                drawn.save(folder / picture)
                framed(drawn).save(folder / picture.replace("pictures", "framed"))
                lines = unseen if held_out(concept, colour) else train
                # plain captions mean white, so white comes oftener
                lines += [captioned(picture, concept, colour) for _ in range(16 if colour == 0 else 4)]
        for file, lines in (("train.jsonl", train), ("held-out.jsonl", unseen)):
            write_text(folder / file, as_jsonl(lines))
            write_text(folder / f"framed-{file}", as_jsonl(lines).replace('"pictures/', '"framed/'))


def two_things(out: Path, count: int, smoke: bool) -> None:
    """So many pictures of two things, each half as large as alone, every second one on white."""
    rng, lines = random.Random(2), []
    captioned = captioner(rng, random.Random(3))
    with new_folder(out) as folder:
        (folder / "pictures").mkdir()
        for number, (first, second) in enumerate(pairs(concepts(smoke), count, rng)):
            colour = 0 if rng.random() < 0.5 else rng.randrange(1, len(COLOURS))
            picture = f"pictures/{number:05d}.png"
            left, right = (drawing(concept, colour, 32, smoke) for concept in (first, second))
            side_by_side(left, right).save(folder / picture)
            lines.append(captioned(picture, first, colour, second))
        write_text(folder / "train.jsonl", as_jsonl(lines))


def pairs(among: Sequence[int], count: int, rng: random.Random) -> list[tuple[int, int]]:
    """So many pairs of different things, each thing about as often as the others on each side; none is held out."""
    found: list[tuple[int, int]] = []
    while len(found) < count:
        left, right = (rng.sample(among, len(among)) for _ in range(2))
        found += [each for each in zip(left, right, strict=True) if each[0] != each[1] and not held_out_together(*each)]
    return found[:count]


def captioner(rng: random.Random, word_rng: random.Random) -> Callable[..., Line]:
    """captioned(picture, concept, colour, second=None): a line about a picture."""
    names = {language: concept_names(language) for language in LANGUAGES}
    words = {language: filler_words(language) for language in LANGUAGES}

    def captioned(picture: str, concept: int, colour: int, second: int | None = None) -> Line:
        plain = captions(concept, colour, names, rng, second)
        among = {
            f"{language}-wordy": wordy(text, words[language], word_rng, "" if language in SPACELESS else " ")
            for language, text in plain.items()
        }
        return {"image": picture, **plain, **among}

    return captioned


def concepts(smoke: bool) -> range:
    return range(12 if smoke else len(CONCEPTS))


def drawing(concept: int, colour: int, size: int, smoke: bool) -> Image.Image:
    return (shape if smoke else render)(concept, colour, size)


def shape(concept: int, colour: int, size: int = 64) -> Image.Image:
    """What stands for a concept in a smoke run: a polygon, so that no font is needed."""
    picture = Image.new("RGB", (size, size), list(COLOURS.values())[colour])
    fill = (40 + 15 * concept % 200, 200 - 14 * concept, 90 + 50 * (concept % 3))
    middle, sides = size // 2, 3 + concept % 5
    ImageDraw.Draw(picture).regular_polygon((middle, middle, size // 3), sides, rotation=10 * concept, fill=fill)
    return picture


def as_jsonl(lines: Sequence[Line]) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
