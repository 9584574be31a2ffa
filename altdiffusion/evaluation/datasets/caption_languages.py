"""Which language captions are in: as a file's name says it, or by their script and words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from altdiffusion.files import packaged_toml

_SCRIPTS = {
    "ja": "\u3040-\u30ff",
    "ko": "\uac00-\ud7af",
    "zh": "\u4e00-\u9fff",
    "ru": "\u0400-\u04ff",
    "ar": "\u0600-\u06ff",
}
_LATIN = ("en", "de", "es", "fr", "it", "pl", "pt", "tr", "vi", "cs")
_ENGLISH = re.compile(r"\b(?:the|an?|is|are|in|on|of|with|and)\b", re.IGNORECASE)
_FLORES = re.compile(r"(?<![A-Za-z])[a-z]{3}_[A-Z][a-z]{3}$")  # the codes of FLORES-200, such as deu_Latn
# Of the languages that have a code of two letters in the tables here.
_TWO_LETTERS = {
    "arb_Arab": "ar", "ben_Beng": "bn", "ces_Latn": "cs", "dan_Latn": "da", "deu_Latn": "de", "ell_Grek": "el",
    "eng_Latn": "en", "fin_Latn": "fi", "fra_Latn": "fr", "heb_Hebr": "he", "hin_Deva": "hi", "hrv_Latn": "hr",
    "hun_Latn": "hu", "ind_Latn": "id", "ita_Latn": "it", "jpn_Jpan": "ja", "kor_Hang": "ko", "nld_Latn": "nl",
    "nob_Latn": "no", "pes_Arab": "fa", "pol_Latn": "pl", "por_Latn": "pt", "ron_Latn": "ro", "rus_Cyrl": "ru",
    "spa_Latn": "es", "swe_Latn": "sv", "swh_Latn": "sw", "tel_Telu": "te", "tha_Thai": "th", "tur_Latn": "tr",
    "ukr_Cyrl": "uk", "vie_Latn": "vi", "zho_Hans": "zh", "jp": "ja",
}  # fmt: skip

_FLORES_ALONE = packaged_toml(__package__, "flores_codes.toml")


def has_flores_code(name: str) -> bool:
    """Whether the name of a file, with or without its ending, ends in a code of FLORES-200."""
    return bool(_FLORES.search(name.partition(".")[0]))


def usual_code(language: str) -> str:
    """The code that tables here have: ja for XTD's jp, de for FLORES' deu_Latn; any other as it is."""
    return _TWO_LETTERS.get(language, language)


def flores_code(language: str) -> str | None:
    """The code of FLORES-200, which NLLB has too: deu_Latn for de; one of its own as it is; None where none is known."""
    if _FLORES.fullmatch(language):
        return language
    usual = usual_code(language)
    codes = {code: flores for flores, code in _TWO_LETTERS.items() if _FLORES.fullmatch(flores)} | _FLORES_ALONE
    return codes.get(usual.lower())


def language_in_name(stem: str) -> str | None:
    """The language that a file's name ends in: deu_Latn, xtd10-it, test_1kcaptions_jp, test_2016_flickr.de."""
    if code := _FLORES.search(stem):
        return usual_code(code[0])
    ending = re.split(r"[^a-z]", stem.lower())[-1]
    return usual_code(ending) if ending in (*_LATIN, "jp") else None


def choose_language(present: Sequence[str], language: str | None) -> str | None:
    """The one of several languages that is asked for, in any spelling; without one asked for, the only one there is."""
    if language is None:
        return present[0] if len(present) == 1 else None
    if language in present:
        return language
    wanted = usual_code(language).lower()
    return next((each for each in present if usual_code(each).lower() == wanted), None)


def guess_language(captions: Sequence[str], name: str = "") -> str:
    """By a FLORES code in the file's name; by script; of Latin letters by the name's end, or English words; else "und".

    By hand: only the headings of tables and the published rows depend on it, and --language overrides it.
    """
    if _FLORES.search(name):
        return language_in_name(name) or "und"
    sample = captions[:: max(1, len(captions) // 500)]
    for language, letters in _SCRIPTS.items():
        pattern = re.compile(f"[{letters}]")
        if sum(bool(pattern.search(caption)) for caption in sample) > len(sample) / 2:
            return language
    if named := language_in_name(name):
        return named
    return "en" if sum(bool(_ENGLISH.search(caption)) for caption in sample) > len(sample) / 2 else "und"
