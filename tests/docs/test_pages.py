"""The pages that people read: their links lead somewhere, their snippets are Python, both READMEs say the same."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from urllib.parse import unquote

import pytest

from altdiffusion.toy.glyphs import concept_names

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "demo/*.md", "comfyui/*.md", "altdiffusion/mini/*.md")
    for page in ROOT.glob(pattern)
)
GENERAL_FLAGS = {"--help", "--version", "--install-completion"}
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


def commands_of(text: str) -> list[tuple[str, ...]]:
    """The words after `altdiffusion`, or after `-m altdiffusion.cli`, of each command in a page's bash blocks."""
    commands = []
    for language, code in code_blocks(text):
        lines = code.replace("\\\n", " ").splitlines() if language == "bash" else []
        for words in (shlex.split(part, comments=True) for line in lines for part in line.split("&&")):
            start = next((at for at, word in enumerate(words) if word in ("altdiffusion", "altdiffusion.cli")), None)
            if start is not None:
                commands.append(tuple(words[start + 1 :]))
    return commands


def flags_of_commands() -> dict[tuple[str, ...], set[str]]:
    """("train", "bridge"): its flags, as docs/cli.md has them."""
    _, *sections = re.split(r"^## altdiffusion ", text_of("docs/cli.md"), flags=re.MULTILINE)
    named = (section.partition("\n") for section in sections)
    return {tuple(name.split()): GENERAL_FLAGS | set(re.findall(r"--[a-z][a-z0-9-]*", rest)) for name, _, rest in named}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str):
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_compiles(page: str):
    for language, code in code_blocks(text_of(page)):
        if language == "python":
            compile(code, page, "exec")


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/cli.md"])
def test_every_command_has_flags_that_exist(page: str):
    flags = flags_of_commands()
    for words in commands_of(text_of(page)):
        command = next((name for name in flags if words[: len(name)] == name), None)
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= flags.get(command, GENERAL_FLAGS), (
            f"{shlex.join(words)}: {used - flags.get(command, GENERAL_FLAGS)}"
        )


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


@pytest.mark.parametrize("page", ["docs/training.md", "docs/training.zh.md"])
def test_the_subject_of_the_laptop_guide_is_what_its_prompt_says(page: str):
    """`--instance-prompt "一只 <斑斑> 猫"`, of a framed image that is called by its number in CONCEPTS."""
    (number,) = re.findall(r"framed/(\d+)-\*\.png", text_of(page))
    (prompt,) = re.findall(r'try/pictures --instance-prompt "([^"]+)"', text_of(page))
    assert prompt.split()[-1] == concept_names("zh")[int(number)]
