"""Named styles, from a TOML file that people edit."""

import re

import pytest

from altdiffusion import InputError
from altdiffusion.generation.styles import DEFAULT_STYLES, Style, apply_styles, find_styles, read_styles
from altdiffusion.prompt_syntax import check

STYLES = {
    "ink": Style(prompt="{prompt}，水墨画", negative_prompt="照片"),
    "oil": Style(prompt="oil painting of {prompt}, canvas"),
    "soft": Style(negative_prompt="(sharp:1.2)"),
}


@pytest.mark.parametrize(
    ("names", "prompt", "negative", "expected"),
    [
        ([], "一只猫", "狗", ("一只猫", "狗")),
        (["ink"], "一只猫", "", ("一只猫，水墨画", "照片")),
        (["ink"], "قطة", "dog", ("قطة，水墨画", "dog, 照片")),
        (["ink", "oil"], "猫", "", ("oil painting of 猫，水墨画, canvas", "照片")),
        (["oil", "ink"], "猫", "", ("oil painting of 猫, canvas，水墨画", "照片")),
        (["ink", "soft"], "a cat", " ", ("a cat，水墨画", "照片, (sharp:1.2)")),
        (["oil", "ink"], "{prompt} {red|blue}", "", ("oil painting of {prompt} {red|blue}, canvas，水墨画", "照片")),
    ],
)
def test_a_style_stands_around_the_prompt_and_after_the_negative_one(names, prompt, negative, expected):
    assert apply_styles(find_styles(STYLES, names), prompt, negative) == expected


def test_the_packages_own_have_names_in_both_languages_and_sound_prompts():
    styles = read_styles()
    assert len(styles) >= 10
    for style in styles.values():
        english, chinese = style.name
        assert english.isascii()
        assert re.search(r"[一-鿿]", chinese)
        for prompt in apply_styles([style], "一只猫"):
            check(prompt)


def test_an_owners_file_is_read_in_its_order(tmp_path):
    path = tmp_path / "风格.toml"
    path.write_text('[水彩]\nprompt = "水彩画：{prompt}"\n[a]\nname = ["A", "甲"]\nnegative_prompt = "b"\n', "utf-8")
    styles = read_styles(path)
    assert list(styles) == ["水彩", "a"]
    assert apply_styles([styles["水彩"]], "猫") == ("水彩画：猫", "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a\n", "is no TOML"),
        (b"\xff\xfe", "is no TOML"),
        ("a = 3\n", r"a: expected a table \[a\], got 3"),
        ('[a]\nprompt = "x"\n', r"a: prompt: expected \{prompt\} once, got 'x'"),
        ('[a]\nprompt = "{prompt} {prompt}"\n', "a: prompt: expected"),
        ("[a]\nprompt = 3\n", "a: prompt: expected text, got 3"),
        ('[a]\npromt = "{prompt}"\n', "a: promt is no setting: do you mean prompt"),
        ('[a]\nname = ["A"]\n', "a: name: expected"),
        ('[a]\nname = ["A"]\n[b]\nprompt = ""\n', "a: name.*; b: prompt"),
        (None, "can't be read"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(tmp_path, text, problem):
    path = tmp_path / "styles.toml"
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError, match=problem) as error:
        read_styles(path)
    assert str(error.value).startswith(f"--styles {path}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "hint"), [("inc", "do you mean ink"), ("水彩", "expected ink, oil, soft")])
def test_a_style_that_is_not_there_is_told_with_those_that_are(name, hint):
    with pytest.raises(InputError, match=hint):
        find_styles(STYLES, [name])


def test_the_default_file_is_packaged():
    assert DEFAULT_STYLES.is_file()
