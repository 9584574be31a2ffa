"""What mini learns from: images of things on backgrounds, and captions of them in nine languages, plain and wordy."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image, ImageDraw

from altdiffusion.files import new_folder, write_text
from altdiffusion.toy.glyphs import (
    COLOURS,
    LANGUAGES,
    SPACELESS,
    captions,
    concept_names,
    filler_words,
    framed,
    held_out,
    wordy,
)


def save_data(out: Path, concepts: Iterable[int], draw: Callable[[int, int], Image.Image]) -> None:
    """Images of `concepts` on all backgrounds, plain and framed, and lines {"image": ..., "en": ..., "en-wordy": ...,
    "zh-named": ...}.

    The English teacher reads "en" alone. All that learns from it sees the wordy ones too, so that what people write
    around the name of a thing does not change what is shown. The bridge sees captions with the thing's English name, too, as
    people put a word that must stay as it is into a sentence of their own language.
    draw: makes the image of indices in CONCEPTS and COLOURS.
    """
    names = {language: concept_names(language) for language in LANGUAGES}
    words = {language: filler_words(language) for language in LANGUAGES}
    rng, word_rng = random.Random(0), random.Random(1)
    train, unseen = [], []
    with new_folder(out) as folder:
        (folder / "pictures").mkdir()
        (folder / "framed").mkdir()
        for concept in concepts:
            for colour in range(len(COLOURS)):
                name = f"pictures/{concept:03d}-{colour}.png"
                image = draw(concept, colour)
                image.save(folder / name)
                framed(image).save(folder / name.replace("pictures", "framed"))
                lines = unseen if held_out(concept, colour) else train
                # plain captions mean white, so white comes oftener
                for _ in range(16 if colour == 0 else 4):
                    named_rng = random.Random()
                    named_rng.setstate(rng.getstate())
                    plain = captions(concept, colour, names, rng)
                    named = captions(concept, colour, dict.fromkeys(LANGUAGES, names["en"]), named_rng)
                    among = {
                        f"{language}-wordy": wordy(
                            text, words[language], word_rng, "" if language in SPACELESS else " "
                        )
                        for language, text in plain.items()
                    }
                    with_name = {f"{language}-named": text for language, text in named.items() if language != "en"}
                    lines.append({"image": name, **plain, **among, **with_name})
        for file, lines in (("train.jsonl", train), ("held-out.jsonl", unseen)):
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write_text(folder / file, text)
            write_text(folder / f"framed-{file}", text.replace('"pictures/', '"framed/'))


def shape(concept: int, colour: int) -> Image.Image:
    """What stands for a concept in a smoke run: a polygon, so that no font is needed."""
    image = Image.new("RGB", (64, 64), list(COLOURS.values())[colour])
    fill = (40 + 15 * concept % 200, 200 - 14 * concept, 90 + 50 * (concept % 3))
    ImageDraw.Draw(image).regular_polygon((32, 32, 22), n_sides=3 + concept % 5, rotation=10 * concept, fill=fill)
    return image
