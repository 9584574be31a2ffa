"""Languages found: of the nine that AltCLIP-m9 reads, of others, and of what is too short to tell."""

import pytest

from altdiffusion import InputError
from altdiffusion.altclip import text_languages
from altdiffusion.altclip.text_languages import find_language

pytest.importorskip("py3langid")
NINE = ("en", "zh", "es", "fr", "ru", "ja", "ko", "ar", "it")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("a cat on a red background", "en"), ("cat", "en"), ("masterpiece, 8k", "en"), ("1girl, solo", "en"),
        ("红色背景上的一只猫", "zh"), ("猫", "zh"), ("赤い背景の猫", "ja"), ("ねこ", "ja"), ("빨간 배경의 고양이", "ko"),
        ("un gato sobre un fondo rojo", "es"), ("une image de chat sur un fond rouge", "fr"),
        ("кот на красном фоне", "ru"), ("قطة على خلفية حمراء", "ar"), ("un gatto su sfondo rosso, per favore", "it"),
        ("12345", "en"), ("🐱", "en"),
    ],
)  # fmt: skip
def test_texts_of_the_nine_languages(text, language):
    found = find_language(text, NINE)
    assert (found.language, found.known) == (language, True)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("eine Katze auf einem Tisch", "de"), ("een kat zit op de bank", "nl"), ("một con mèo trên bàn", "vi"),
        ("แมวบนโต๊ะ", "th"), ("ein Hund spielt im Garten mit einem Ball", "de"),
    ],
)  # fmt: skip
def test_a_language_that_is_not_known_is_named_and_found_where_it_is(text, language):
    assert find_language(text, NINE) == (language, False, True)
    assert find_language(text, [*NINE, language])[:2] == (language, True)


@pytest.mark.parametrize("text", ["gato", "un gatto", "кот"])
def test_a_word_or_two_are_a_guess_that_says_so(text):
    found = find_language(text, NINE)
    assert found.known
    assert not found.sure


@pytest.mark.parametrize(("text", "known"), [("a cat", ["zh", "ja"]), ("猫", ["en"]), ("猫", ["en", "fr"])])
def test_of_few_languages_one_is_found_or_another_named(text, known):
    found = find_language(text, known)
    assert found.known == (found.language in known)


def test_without_the_package_a_line_says_what_to_do(monkeypatch):
    monkeypatch.setattr(text_languages, "is_there", lambda: False)
    with pytest.raises(InputError, match=r"py3langid.*name the language"):
        text_languages.check()
