"""What stays literal: all of an English prompt, and of others what is English, a given name or in backquotes."""

import random
import time
from itertools import pairwise
from pathlib import Path

import pytest

from altdiffusion import InputError
from altdiffusion.files import parse_toml
from altdiffusion.prompt_syntax import Stretch, stretches
from altdiffusion.prompt_syntax.languages import readings

CLAUSES = parse_toml(Path(__file__).with_name("clauses.toml").read_text("utf-8"))
ENGLISH = [clause for clauses in CLAUSES["english"].values() for clause in clauses]


def marked(prompt, route="auto", literal_words=()):
    """The texts of a prompt's stretches, those for the bridge in « »."""
    return "|".join(part.text if part.literal else f"«{part.text}»" for part in stretches(prompt, route, literal_words))


@pytest.mark.parametrize("category", CLAUSES["english"])
def test_no_english_clause_is_taken_for_another_language(category):
    clauses = CLAUSES["english"][category]
    assert [clause for clause in clauses if readings([clause])[0] == "other"] == []


@pytest.mark.parametrize("joint", [", ", ",", ". ", "，", "\n", " | ", ": "])
def test_an_english_prompt_is_one_literal_stretch_as_it_is_written(joint):
    rng = random.Random(joint)
    for _ in range(100):
        prompt = joint.join(rng.sample(ENGLISH, 8)) + rng.choice(["", " ", ".", "，", " (cat:1.2)", " 😀"])
        assert stretches(prompt) == [Stretch(0, len(prompt), prompt, literal=True)]


@pytest.mark.parametrize("language", CLAUSES["other"])
def test_nearly_all_clauses_of_another_language_are_recognized_above_all_beside_others_of_it(language):
    clauses = CLAUSES["other"][language]
    alone = [readings([clause])[0] for clause in clauses]
    beside = [readings([clause, clauses[0]])[0] for clause in clauses]
    assert alone.count("other") >= 34  # of 40
    assert beside.count("other") >= max(37, alone.count("other"))


@pytest.mark.parametrize(
    "prompt",
    [
        "一只猫",
        "猫",
        "ねこ",
        "고양이",
        "개",
        "кошка",
        "قطة",
        "แมว",
        "बिल्ली",
        "γάτα",
        "חתול",
        "კატა",
        "3D-модель",
        "AIイラスト",
        "cat 猫",
        "UNA MUJER EN EL BOSQUE",
        "Un gato",
        "mo\u0323\u0302t con me\u0300o",
    ],
)
def test_words_of_other_languages_go_through_the_bridge(prompt):
    assert marked(prompt) == f"«{prompt}»"


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " ",
        "，。",
        "8k",
        "1girl",
        "--ar 16:9",
        "😀",
        "☕️⚡️❤️‍🔥",
        ":)",
        "(ﾟДﾟ)",
        "¯\\_(ツ)_/¯",
        "Δt",
        "é",
        "µm",
        "blue_eyes",
        "Ｋａｗａｉｉ",
        "𝓬𝓪𝓽",
        "kim jong un",
        "una",
        "Un",
        "una_mujer",
        "Día de los Muertos",
        "a poster that says fröhlich",
    ],
)
def test_names_numbers_emoticons_and_single_letters_stay_literal(prompt):
    assert stretches(prompt) == [Stretch(0, len(prompt), prompt, literal=True)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (
            "一只猫，masterpiece，best quality，背景是红色的。",
            "«一只猫»|, masterpiece, best quality, |«背景是红色的。»",
        ),
        ("masterpiece、猫、8k、", "masterpiece, |«猫»|, 8k, "),
        ("قطة، 8k", "«قطة»|, 8k"),
        ("猫。a dog! 鸟！", "«猫»|. a dog! |«鸟！»"),
        ("una mujer, ojos azules, masterpiece, 8k", "«una mujer, ojos azules»|, masterpiece, 8k"),
        ("photo, un gato en la nieve\nbokeh", "photo, |«un gato en la nieve»|\nbokeh"),
        ("照片：猫; 8k", "«照片：猫»|; 8k"),
        ("1.5倍，1,000只猫", "«1.5倍，1,000只猫»"),
        ("retrato de J. R. R. Tolkien, by artstation.com", "«retrato de J. R. R. Tolkien»|, by artstation.com"),
        ("(una mujer:1.2), best quality", "«(una mujer:1.2)»|, best quality"),
    ],
)
def test_clauses_are_cut_at_commas_sentence_ends_and_line_breaks(prompt, expected):
    assert marked(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("une femme, rouge", "«une femme, rouge»"),
        ("a woman, rouge", "a woman, rouge"),
        ("une femme, Henri de Toulouse-Lautrec", "«une femme»|, Henri de Toulouse-Lautrec"),
        ("ein Haus, Vogel im Käfig", "«ein Haus, Vogel im Käfig»"),
        ("Vogel im Käfig", "Vogel im Käfig"),
    ],
)
def test_a_prompt_in_a_language_needs_less_for_its_other_clauses(prompt, expected):
    assert marked(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "words", "expected"),
    [
        ("sks风格的猫", ["SKS"], "sks|«风格的猫»"),
        ("一只猫，sks", ["sks"], "«一只猫»|, sks"),
        ("un gato sks, perros", ["sks"], "«un gato»| sks, |«perros»"),
        ("un gato sksx", ["sks"], "«un gato sksx»"),
        ("桌上的<cat-toy>", ["<cat-toy>", "cat"], "«桌上的»|<cat-toy>"),
        ("猫 sks-zwx", ["sks", "zwx"], "«猫»| sks-zwx"),
        ("水墨风格的猫", ["水墨"], "«水墨风格的猫»"),
        ("una, gato", ["gato"], "una, gato"),
        ("a cat", ["cat", "", " "], "a cat"),
    ],
)
def test_given_names_are_literal_where_they_stand_whole(prompt, words, expected):
    assert marked(prompt, literal_words=words) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("`猫`", "猫"),
        ("a photo of `sks` dog", "a photo of sks dog"),
        ("一只`sks, red，x`狗", "«一只»|sks, red，x|«狗»"),
        ("猫``", "«猫`»"),
        ("猫\\`咪", "«猫`咪»"),
        ("`a``b\\`c` 猫", "a`b`c |«猫»"),
        ("rock \\`n\\` roll", "rock `n` roll"),
    ],
)
def test_backquotes_make_literal(prompt, expected):
    assert marked(prompt) == expected


@pytest.mark.parametrize(("prompt", "at"), [("`", 1), ("一只`猫", 3), ("`a` `b", 5), ("a\\`b`", 5)])
def test_a_backquote_left_open_is_refused_by_its_place(prompt, at):
    for route in ("auto", "all"):
        with pytest.raises(InputError, match=rf"character {at}, .*isn't closed.*write `` ") as refusal:
            stretches(prompt, route)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("prompt", ["a cat", "一只猫，`sks`", "`", ""])
def test_none_leaves_a_prompt_alone(prompt):
    assert stretches(prompt, "none", ["cat"]) == [Stretch(0, len(prompt), prompt, literal=True)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a cat, a dog", "«a»| cat, |«a dog»"), ("`a cat`，8k", "a cat, |«8k»"), ("...", "..."), ("😀, 1.5", "«😀, 1.5»")],
)
def test_all_leaves_only_names_and_backquotes_literal(prompt, expected):
    assert marked(prompt, "all", ["cat"]) == expected


@pytest.mark.parametrize(
    ("prompt", "cuts", "expected"),
    [
        ("黑暗精灵, 月光", [4], [("黑暗精灵", False), (", ", True), ("月光", False)]),
        ("黑暗精灵, 月光", [6], [("黑暗精灵", False), (", ", True), ("月光", False)]),
        ("红色的猫", [2], [("红色", False), ("的猫", False)]),
        ("红色的猫", [3, 2, 2], [("红色", False), ("的", False), ("猫", False)]),
        ("一只猫 一只狗", [4], [("一只猫", False), (" ", True), ("一只狗", False)]),
        ("`sks`风格的猫", [5, 7], [("sks", True), ("风格", False), ("的猫", False)]),
        ("猫", [0, 1, 9], [("猫", False)]),
        ("a red cat", [2, 5], [("a red cat", True)]),
    ],
)
def test_stretches_for_the_bridge_end_at_cuts_and_literal_ones_do_not(prompt, cuts, expected):
    assert [(part.text, part.literal) for part in stretches(prompt, cuts=cuts)] == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("蓝色背景上的<rune>", [("蓝色背景上的\ufffc", "<rune>")]),
        ("<rune>在蓝色背景上。", [("\ufffc在蓝色背景上", "<rune>"), (". ", None)]),
        ("картинка: <rune> на синем фоне, 8k", [("картинка: \ufffc на синем фоне", "<rune>"), (", 8k", None)]),
        ("画<rune>，橙色背景", [("画\ufffc", "<rune>"), (", ", None), ("橙色背景", None)]),
        ("画<rune>，橙色背景上的sks", [("画\ufffc", "<rune>"), (", ", None), ("橙色背景上的\ufffc", "sks")]),
        ("一只`cat, red` 狗", [("一只\ufffc 狗", "cat, red")]),
        ("桌上的<rune> <rune> 猫", [("桌上的\ufffc 猫", "<rune> <rune>")]),
        ("一只猫`on a red hill`", [("一只猫", None), ("on a red hill", None)]),
        ("一只猫 ` With a hat`。", [("一只猫", None), ("  With a hat. ", None)]),
        ("`one red` 猫", [("\ufffc 猫", "one red")]),
        ("<rune>和sks猫", [("<rune>", None), ("和", None), ("sks", None), ("猫", None)]),
        ("<rune>，蓝色背景", [("<rune>, ", None), ("蓝色背景", None)]),
        ("a <rune> cat, 猫", [("a <rune> cat, ", None), ("猫", None)]),
        ("猫\ufffc和<rune>", [("猫 和\ufffc", "<rune>")]),
    ],
)
def test_one_literal_part_of_a_clause_is_a_hole_in_it(prompt, expected):
    found = stretches(prompt, literal_words=["<rune>", "sks"], holes=True)
    assert [(part.text, part.inner and part.inner.text) for part in found] == expected
    assert "".join(prompt[part.start : part.end] for part in found) == prompt
    for part in found:
        if part.inner is not None:
            assert prompt[part.inner.start : part.inner.end].strip(" `") == part.inner.text


@pytest.mark.parametrize(("cut", "whole"), [(6, False), (3, False), (0, True), (12, True), (13, True)])
def test_a_clause_with_a_cut_inside_has_no_hole(cut, whole):
    found = stretches("蓝色背景上的<rune>，猫", literal_words=["<rune>"], cuts=[cut], holes=True)
    assert (found[0].inner is not None) == whole


def test_another_route_is_refused():
    with pytest.raises(InputError, match="route: expected auto, all, none, got 'some'"):
        stretches("a cat", "some")


@pytest.mark.parametrize("seed", range(20))
def test_stretches_cover_any_text_in_order_by_turns(seed):
    rng = random.Random(seed)
    pieces = [*"ab猫ñé я\u0301,.，。:\n`\\\x00\ud800ﾟ😀(<", "``", "un gato", "sks", "the"]
    for _ in range(50):
        text = "".join(rng.choices(pieces, k=rng.randrange(30)))
        for route in ("auto", "all", "none"):
            try:
                found = stretches(text, route, ["sks", "猫"])
            except InputError:
                continue
            assert [part.start for part in found] == [0, *(part.end for part in found[:-1])]
            assert found[-1].end == len(text)
            assert all(part.literal != behind.literal for part, behind in pairwise(found))
            if "`" not in text:
                assert all(
                    part.text == text[part.start : part.end] for part in found if not part.literal or len(found) == 1
                )
            with_holes = stretches(text, route, ["sks", "猫"], holes=True)
            assert [part.start for part in with_holes] == [0, *(part.end for part in with_holes[:-1])]
            assert with_holes[-1].end == len(text)
            assert all(part.text.count("\ufffc") == (part.inner is not None) for part in with_holes)


@pytest.mark.parametrize("piece", ["a,", "猫，", "é", "``", "un gato, ", " ", "\n", ".,", "ñ́", None])
def test_ten_thousand_characters_take_less_than_50_ms(piece):
    text = (piece or "".join(random.Random(0).choices("ab猫ñé,. \nя", k=97))) * 10_000
    text = text[:10_000]
    stretches("un")  # reads the words

    def seconds():
        start = time.process_time()
        stretches(text, literal_words=["sks"])
        return time.process_time() - start

    assert min(seconds() for _ in range(5)) < 0.05
