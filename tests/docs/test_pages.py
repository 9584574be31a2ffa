"""The pages that people read: their links lead somewhere, their snippets are Python, both READMEs say the same."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "demo/*.md", "altdiffusion/mini/*.md")
    for page in ROOT.glob(pattern)
)
_CODE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"""\]\(([^()\s]+)\)|(?:src|href)="([^"]+)\"""")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def code_blocks(text: str) -> list[tuple[str, str]]:
    """(language, code) of each fenced block."""
    return _CODE.findall(text)


def meaning(language: str, code: str) -> object:
    """What a block does: comments, spaces and broken lines left out."""
    if language == "python":
        return ast.dump(ast.parse(code))
    return shlex.split(code.replace("\\\n", " "), comments=True)


def meaning_of_all(text: str) -> list[object]:
    """Of the blocks whose language is named; the others are for reading."""
    return [meaning(language, code) for language, code in code_blocks(text) if language]


def anchors_of(text: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", _CODE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: str) -> list[str]:
    """Links to files that don't exist, or to headings that their page doesn't have."""
    broken = []
    for match in _LINK.finditer(_CODE.sub("", text_of(page))):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):  # elsewhere on the web
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors_of(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str):
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_compiles(page: str):
    for language, code in code_blocks(text_of(page)):
        if language == "python":
            compile(code, page, "exec")


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_a_readme_is_short(page: str):
    assert len(text_of(page).splitlines()) <= 120


@pytest.mark.parametrize("page", ["README.md", "docs/evaluation.md", "docs/training.md"])
def test_english_and_chinese_have_the_same_code_and_images(page: str):
    english, chinese = text_of(page), text_of(page.replace(".md", ".zh.md"))
    assert meaning_of_all(chinese) == meaning_of_all(english)
    images = re.compile(r'<img src="([^"]+)"')
    assert images.findall(chinese) == images.findall(english)


@pytest.mark.parametrize("page", ["README.zh.md", "docs/cli.zh.md", "docs/evaluation.zh.md", "docs/training.zh.md"])
def test_chinese_pages_have_an_english_one(page: str):
    assert page in PAGES
    assert page.replace(".zh", "") in PAGES


def test_anchors_are_made_as_github_makes_them():
    text = "# A `b` of C: d\n```bash\n# no heading\n```\n## 训练 与 评测\n"
    assert anchors_of(text) == {"a-b-of-c-d", "训练-与-评测"}
