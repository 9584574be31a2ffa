"""Images with human-written names in nine languages: the data that the miniature models learn from.

An image is a Noto Color Emoji glyph (SIL Open Font License) on a plain background; its name is Unicode's,
translated in the Unicode CLDR and packaged by PyPI's `emoji`. Captions put the name into short sentences.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any, cast

import emoji
from PIL import Image, ImageDraw, ImageFont

from altdiffusion.errors import InputError
from altdiffusion.files import packaged_toml

LANGUAGES = ("en", "zh", "es", "fr", "ru", "ja", "ko", "ar", "it")

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # Debian: fonts-noto-color-emoji
FONT_SIZE = 109  # the font's only bitmap size

_FILE = packaged_toml(__package__, "captions.toml")
CONCEPTS = "".join(_FILE["concepts"])
MEASURE_WORDS: str = _FILE["measure_words"]
COLOURS: dict[str, tuple[int, int, int]] = {
    name: (red, green, blue) for name, (red, green, blue) in _FILE["colours"].items()
}
# by language; what each is, and what stands in braces, is said in the file
COLOUR_NAMES, REQUESTS, THINGS, BACKGROUNDS, ENDINGS, FREE_PROMPTS = (
    cast("dict[str, list[str]]", _FILE[part])
    for part in ("colour_names", "requests", "things", "backgrounds", "endings", "free_prompts")
)

# The style of `framed`: a brown that no colour of COLOURS is near to; the frame's width, of 64 pixels.
WOOD, FRAME = (120, 72, 32), 4

# What SD-mini is extended by, see pipelines/mini/add_ons.py: the nonsense word that brings the style of `framed`; the
# word of a textual inversion, and the index in CONCEPTS of what it shows.
TRIGGER = "sks"
PLACEHOLDER, INVERTED = "<rune>", CONCEPTS.index("🐌")

SPACELESS = ("zh", "ja")


def concept_names(language: str) -> list[str]:
    """Unicode's names of CONCEPTS in one of LANGUAGES."""
    emoji.config.load_language(language)
    data = emoji.EMOJI_DATA
    entries = [data.get(glyph) or data[glyph + "\ufe0f"] for glyph in CONCEPTS]
    return [entry[language].strip(":").replace("_", " ") for entry in entries]


def captions(concept: int, colour: int, names: dict[str, list[str]], rng: random.Random) -> dict[str, str]:
    """A caption in every language, all of the same form, for an index in CONCEPTS on a background, an index in COLOURS.

    names: `concept_names` by language. A white background is named in a quarter of the captions only.
    """
    named = colour != 0 or rng.random() < 0.25
    plain = rng.random() < 0.3  # the name alone, as people often prompt
    choices = [0 if plain else rng.randrange(size) for size in (7, 7, 2, 4)]
    upper, measure = rng.random() < 0.2, rng.choice(MEASURE_WORDS)
    texts = {}
    for language, names_of_concepts in names.items():
        text = fill(THINGS[language][choices[1]], names_of_concepts[concept], measure)
        if named:
            text = BACKGROUNDS[language][choices[2]].format(x=text, c=COLOUR_NAMES[language][colour])
        text = REQUESTS[language][choices[0]] + text + ENDINGS[language][choices[3]]
        texts[language] = text[0].upper() + text[1:] if upper else text
    return texts


def filler_words(language: str) -> list[str]:
    """Some 1,500 words of Unicode's names of all other emoji: none is part of a concept's name, or of a colour's.

    Chinese and Japanese, which don't part words, give pieces of up to three characters. No word of FREE_PROMPTS is here.
    """
    names = [name.lower() for name in concept_names(language)]
    pieces, stem = (".{1,3}", 1) if language in SPACELESS else (r"[^\W\d_]+", 3)
    colours = [name[:stem] for name in COLOUR_NAMES[language]]
    candidates: dict[str, None] = {}
    for entry in emoji.EMOJI_DATA.values():
        for word in re.findall(r"[^\W\d_]+", entry.get(language, "").lower().replace("_", " ")):
            candidates |= dict.fromkeys(re.findall(pieces, word))
    known: Any = " ".join([*names, *COLOUR_NAMES[language], *FREE_PROMPTS[language]]).lower()
    if language not in SPACELESS:
        known = set(re.findall(pieces, known))
    return [
        word
        for word in candidates
        if word not in known
        and not any(colour in word for colour in colours)
        and not (language in SPACELESS and any(name in word for name in names))
    ]


def wordy(text: str, words: list[str], rng: random.Random, space: str = " ") -> str:
    """A text among up to six other words, in which a model has to find what matters."""
    before, after = ([rng.choice(words) for _ in range(rng.randrange(4))] for _ in range(2))
    return space.join([*before, text, *after]) + rng.choice(("", "", "?"))


def fill(sentence: str, name: str, measure: str = "个") -> str:
    """A sentence about a thing: one of THINGS or FREE_PROMPTS with its name put in."""
    return sentence.format(n=name, a="an" if name[0].lower() in "aeiou" else "a", m=measure)


def render(concept: int, colour: int, size: int = 64) -> Image.Image:
    """A concept centred on a background (indices in CONCEPTS, COLOURS), `size` pixels square, with a margin of a tenth."""
    foreground = glyph(concept, size)
    image = Image.new("RGB", (size, size), list(COLOURS.values())[colour])
    image.paste(foreground, ((size - foreground.width) // 2, (size - foreground.height) // 2), foreground)
    return image


def glyph(concept: int, size: int) -> Image.Image:
    """The glyph alone, RGBA, its longer side four fifths of `size`."""
    if not FONT.is_file():
        raise InputError(
            f"{FONT} is missing, the font that these images are rendered with: apt-get install fonts-noto-color-emoji"
        )
    font = ImageFont.truetype(str(FONT), FONT_SIZE)
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((12, 12), CONCEPTS[concept], font=font, embedded_color=True)
    image = canvas.crop(canvas.getbbox())
    image.thumbnail((round(size * 0.8),) * 2, Image.Resampling.LANCZOS)
    return image


def framed(image: Image.Image) -> Image.Image:
    """An image in another style: in a wooden frame, as wide as a latent, which touches no glyph."""
    image = image.convert("RGB")
    ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline=WOOD, width=FRAME)
    return image


def held_out(concept: int, colour: int) -> bool:
    """Whether this pair is kept out of all training: 1 in 12, never on white."""
    return colour != 0 and (concept * 7 + colour * 5) % 11 == 0
