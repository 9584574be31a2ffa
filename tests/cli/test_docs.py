"""docs/cli.md is what the code says."""

from pathlib import Path

from altdiffusion.cli.docs import document


def test_the_page_is_written_by_the_code():
    page = Path(__file__).parents[2] / "docs/cli.md"
    assert page.read_text(encoding="utf-8") == document(), "python -m altdiffusion.cli.docs > docs/cli.md"
