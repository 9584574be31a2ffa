"""Tables as a page: Markdown, or HTML that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from altdiffusion.evaluation.report import ResultTable

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 76em; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; margin: .5em 0 1em }
th, td { border-bottom: 1px solid #ddd; padding: .25em .7em; text-align: right; font-variant-numeric: tabular-nums }
td { white-space: nowrap }
th:first-child, td:first-child, td.words { text-align: left; white-space: normal }
p.note { color: #666; font-size: 13px; margin: .2em 0 }
"""


def markdown_page(title: str, about: str, tables: Sequence[ResultTable]) -> str:
    """A heading, a line on what was measured, the tables with their notes."""
    blocks = [f"# {title}", about]
    for name, rows, notes in tables:
        head, *others = [[cell.replace("|", "\\|") for cell in row] for row in rows]
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *others]
        blocks += [f"## {name}", "\n".join(f"| {' | '.join(row)} |" for row in lines), *(f"{note}." for note in notes)]
    return "\n\n".join(blocks) + "\n"


def html_page(title: str, about: str, tables: Sequence[ResultTable], more: str = "", style: str = "") -> str:
    """The same; more: HTML that stands below, style: CSS of it."""
    body = "\n".join(html_table(table) for table in tables)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}{style}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n<p>{escape(about)}</p>\n{body}\n{more}</body></html>\n"
    )


def html_table(table: ResultTable) -> str:
    head, *others = table.rows
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    rows = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in others)
    notes = "".join(f'<p class="note">{escape(note)}.</p>' for note in table.notes)
    return f"<h2>{escape(table.title)}</h2>\n<table><tr>{heads}</tr>\n{rows}</table>\n{notes}"


def _cell(text: str) -> str:
    kind = ' class="words"' if any(character.isalpha() for character in text) else ""
    return f"<td{kind}>{escape(text)}</td>"
