"""docs/layout.md is what the code says."""

from pathlib import Path

from helpers import layout_page


def test_the_page_is_what_the_code_says():
    written = layout_page.PAGE.read_text(encoding="utf-8")
    assert written == layout_page.page(), "run: PYTHONPATH=tests python -m helpers.layout_page"


def test_a_module_without_a_docstring_has_an_empty_line(tmp_path: Path):
    module = tmp_path / "module.py"
    module.write_text("x = 1\n")
    assert layout_page.first_line(module) == ""
    module.write_text('"""One line.\n\nAnother."""\n')
    assert layout_page.first_line(module) == "One line."
