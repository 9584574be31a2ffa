"""The words for nine languages more have the form of those that mini learns from, and the names are of the same things."""

from __future__ import annotations

import string

import pytest

from altdiffusion.files import packaged_toml
from altdiffusion.toy import glyphs

PARTS = ("colour_names", "requests", "things", "backgrounds", "endings", "free_prompts")
WORDS, FURTHER, CLDR = (
    packaged_toml("altdiffusion.toy", name) for name in ("captions.toml", "further_captions.toml", "cldr_names.toml")
)
NEW = ("th", "hi", "uk", "tr", "vi", "pl", "nl", "pt", "de")


def fields(sentence: str) -> set[str | None]:
    return {field for _, field, _, _ in string.Formatter().parse(sentence)} - {None}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("language", NEW)
def test_each_list_has_as_many_entries_with_the_same_gaps(part, language):
    given, english = FURTHER[part][language], WORDS[part]["en"]
    assert len(given) == len(english)
    for entry, model in zip(given, english, strict=True):
        assert fields(entry) == fields(model) - {"a"}


@pytest.mark.parametrize("part", PARTS)
def test_no_language_is_in_both_files(part):
    assert set(FURTHER[part]) == set(NEW)
    assert not set(FURTHER[part]) & set(WORDS[part])


def test_the_colours_of_a_language_are_different_words():
    assert all(len(set(words)) == len(glyphs.COLOURS) for words in FURTHER["colour_names"].values())


@pytest.mark.parametrize("language", [*glyphs.LANGUAGES, *NEW, "zh-Hant"])
def test_there_is_a_name_and_there_are_keywords_for_every_thing(language):
    names, keywords = (CLDR[part][language] for part in ("names", "keywords"))
    assert len(names) == len(keywords) == len(glyphs.CONCEPTS)
    assert all(names)
    assert not any(name in words for name, words in zip(names, keywords, strict=True))


@pytest.mark.parametrize(
    ("glyph", "language", "word"),
    [("🚗", "zh", "汽车"), ("🚗", "en", "car"), ("🐈", "th", "แมว"), ("🌈", "de", "Regenbogen")],
)
def test_everyday_words_are_among_them(glyph, language, word):
    place = glyphs.CONCEPTS.index(glyph)
    assert word in [CLDR["names"][language][place], *CLDR["keywords"][language][place]]
