"""Ctrl+Up and Ctrl+Down in a prompt, in a browser without a server. In the cases ‹ › is what is selected, | the cursor."""

from pathlib import Path

import pytest
from helpers import chromium

import altdiffusion.web

SCRIPT = (Path(altdiffusion.web.__file__).parent / "prompt_weights.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page():
    with chromium.started() as browser:
        page = browser.new_page()
        page.set_content('<div class="weights"><textarea></textarea></div><input>')
        page.add_script_tag(content=SCRIPT)
        yield page


def write(page, marked, field="textarea"):
    """Put a text into the field, with the cursor or the selection where it is marked."""
    text = marked.replace("‹", "").replace("›", "").replace("|", "")
    places = [marked.index("|")] * 2 if "|" in marked else [marked.index("‹"), marked.index("›") - 1]
    page.fill(field, text)
    page.eval_on_selector(field, "(each, places) => { each.focus(); each.setSelectionRange(...places); }", places)


def written(page, field="textarea"):
    """The text with its mark."""
    text, start, end = page.eval_on_selector(field, "(each) => [each.value, each.selectionStart, each.selectionEnd]")
    return f"{text[:start]}|{text[end:]}" if start == end else f"{text[:start]}‹{text[start:end]}›{text[end:]}"


@pytest.mark.parametrize(
    ("before", "up", "down"),
    [
        # a selection, or the word at the cursor
        ("a ‹cat› x", "a (‹cat›:1.1) x", "a (‹cat›:0.9) x"),
        ("a c|at x", "a (‹cat›:1.1) x", "a (‹cat›:0.9) x"),
        ("a cat|", "a (‹cat›:1.1)", "a (‹cat›:0.9)"),
        ("‹ a cat, ›x", " (‹a cat,›:1.1) x", " (‹a cat,›:0.9) x"),
        ("don't|", "(‹don't›:1.1)", "(‹don't›:0.9)"),
        # brackets that are there
        ("a (‹cat›:1.1) x", "a (‹cat›:1.2) x", "a ‹cat› x"),
        ("a ‹(cat:0.9)› x", "a ‹cat› x", "a (‹cat›:0.8) x"),
        ("a (cat:1.1|) x", "a (‹cat›:1.2) x", "a ‹cat› x"),
        ("(style: an|ime)", "(‹style: anime›:1.2)", "‹style: anime›"),
        ("((c|at))", "((‹cat›:1.2))", "(‹cat›)"),
        ("(a (b|:1.3):1.2)", "(a (‹b›:1.4):1.2)", "(a (‹b›:1.2):1.2)"),
        ("‹(a:1.2) b›", "(‹(a:1.2) b›:1.1)", "(‹(a:1.2) b›:0.9)"),
        ("[from|:to:0.5]", "[(‹from›:1.1):to:0.5]", "[(‹from›:0.9):to:0.5]"),
        # Chinese, Japanese, Korean, Arabic, Thai
        ("黑暗精|灵公主，月光", "(‹黑暗精灵公主›:1.1)，月光", "(‹黑暗精灵公主›:0.9)，月光"),
        ("黑暗‹精灵›公主", "黑暗(‹精灵›:1.1)公主", "黑暗(‹精灵›:0.9)公主"),
        ("（黑暗|精灵：1.2），月光", "（‹黑暗精灵›:1.3），月光", "（‹黑暗精灵›:1.1），月光"),
        ("(x|：１．３)", "(‹x›:1.4)", "(‹x›:1.2)"),
        ("青い|花、空", "(‹青い花›:1.1)、空", "(‹青い花›:0.9)、空"),
        ("cat猫|", "cat(‹猫›:1.1)", "cat(‹猫›:0.9)"),
        ("빨간 하|트", "빨간 (‹하트›:1.1)", "빨간 (‹하트›:0.9)"),
        ("قطة| جميلة", "(‹قطة›:1.1) جميلة", "(‹قطة›:0.9) جميلة"),
        ("แม|วสีส้ม", "(‹แมวสีส้ม›:1.1)", "(‹แมวสีส้ม›:0.9)"),
        # from 0 to 10, in hundredths
        ("(x|:9.95)", "(‹x›:10)", "(‹x›:9.85)"),
        ("(x|:.05)", "(‹x›:0.15)", "(‹x›:0)"),
        ("(x|:0.3)", "(‹x›:0.4)", "(‹x›:0.2)"),
        # what is left alone
        ("  |  ", "  |  ", "  |  "),
        ("(a ‹b) c›", "(a ‹b) c›", "(a ‹b) c›"),
        ("<lora:in|k:0.8>", "<lora:in|k:0.8>", "<lora:in|k:0.8>"),
    ],
)
def test_weights_by_keys(page, before, up, down):
    for key, expected in (("ArrowUp", up), ("ArrowDown", down)):
        write(page, before)
        page.keyboard.press(f"Control+{key}")
        assert written(page) == expected


@pytest.mark.parametrize("before", [r"a \(b c|\) d", r"a \\(c|at:1.1)"])
def test_brackets_that_are_text_are_no_brackets(page, before):
    write(page, before)
    page.keyboard.press("Control+ArrowUp")
    expected = r"a \(b (‹c›:1.1)\) d" if "b c" in before else r"a \\(‹cat›:1.2)"
    assert written(page) == expected


@pytest.mark.parametrize("key", ["Control", "Meta"])
def test_undone_and_redone_by_the_browser_and_told_to_the_page(page, key):
    page.evaluate("window.told = 0; document.addEventListener('input', () => window.told++)")
    write(page, "a |cat")
    for _ in range(3):
        page.keyboard.press(f"{key}+ArrowUp")
    assert written(page) == "a (‹cat›:1.3)"
    assert page.evaluate("window.told") >= 3
    for expected in ("a (cat:1.2)", "a (cat:1.1)", "a cat"):
        page.keyboard.press("Control+z")
        assert page.input_value("textarea") == expected
    page.keyboard.press("Control+y")
    assert page.input_value("textarea") == "a (cat:1.1)"


@pytest.mark.parametrize("keys", ["ArrowUp", "Control+Shift+ArrowUp", "Control+Alt+ArrowUp", "Control+ArrowLeft"])
def test_other_keys_are_the_browsers(page, keys):
    write(page, "a c|at")
    page.keyboard.press(keys)
    assert page.input_value("textarea") == "a cat"


def test_other_fields_are_left_alone(page):
    write(page, "a c|at", "input")
    page.keyboard.press("Control+ArrowUp")
    assert page.input_value("input") == "a cat"
