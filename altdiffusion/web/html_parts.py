"""HTML of what Gradio has no component for. Whatever a visitor wrote is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from altdiffusion.web.draw_queue import Drawing, Loading, Waiting
from altdiffusion.web.service import Scoring
from altdiffusion.web.translations import say


def status(news: Waiting | Loading | Drawing | Scoring, language: str) -> str:
    """What is happening, with a bar; a screen reader hears the sentence."""
    if isinstance(news, Drawing):
        seconds = max(1, round(news.seconds))
        sentence = say("drawing", language, done=news.done, total=news.total, seconds=seconds)
        return line(
            sentence, f'<progress value="{news.done}" max="{news.total}" aria-label="{escape(sentence)}"></progress>'
        )
    if isinstance(news, Waiting):
        return line(say("waiting", language, ahead=news.ahead), "<progress></progress>")
    return line(say("loading" if isinstance(news, Loading) else "scoring", language), "<progress></progress>")


def line(sentence: str, bar: str = "") -> str:
    return f'<div class="status" role="status" aria-live="polite"><span>{escape(sentence)}</span>{bar}</div>'


def refusal(sentence: str) -> str:
    """What went wrong; a screen reader says it at once."""
    return f'<div class="status refused" role="alert"><span>{escape(sentence)}</span></div>'


def heat_map(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], caption: str) -> str:
    """A table whose cells are the warmer the higher; best of each column in bold."""
    flat = [value for row in values for value in row]
    low, high = min(flat), max(flat)
    best = [max(range(len(rows)), key=lambda r, c=c: values[r][c]) for c in range(len(columns))]  # type: ignore[misc]
    head = "".join(f'<th scope="col" dir="auto">{escape(column)}</th>' for column in columns)
    body = ""
    for number, (name, row) in enumerate(zip(rows, values, strict=True)):
        cells = ""
        for column, value in enumerate(row):
            warmth = round(100 * (value - low) / (high - low)) if high > low else 50
            text = f"{value:.3f}"
            cells += f'<td style="--warmth:{warmth}%">{f"<b>{text}</b>" if best[column] == number else text}</td>'
        body += f'<tr><th scope="row" dir="auto">{escape(name)}</th>{cells}</tr>'
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="heat">'
        f"<caption>{escape(caption)}</caption><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def bars(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], caption: str, percent: bool = False
) -> str:
    """For each row a group of bars, one a column; their lengths are shares of the highest value."""
    high = max(1e-9, max(value for row in values for value in row))
    groups = ""
    for name, row in zip(rows, values, strict=True):
        lines = ""
        for column, value in zip(columns, row, strict=True):
            length = max(0, round(100 * value / high))
            text = f"{100 * value:.1f} %" if percent else f"{value:.3f}"
            lines += (
                f'<div class="bar"><span dir="auto">{escape(column)}</span>'
                f'<i aria-hidden="true" style="--length:{length}%"></i><span>{text}</span></div>'
            )
        groups += f'<section aria-label="{escape(name)}"><h4 dir="auto">{escape(name)}</h4>{lines}</section>'
    return f'<div class="bars" role="group" aria-label="{escape(caption)}">{groups}</div>'


def found_settings(pairs: Sequence[tuple[str, str]], note: str) -> str:
    """A list of names and values."""
    items = "".join(f'<dt>{escape(name)}</dt><dd dir="auto">{escape(value)}</dd>' for name, value in pairs)
    return f'<dl class="found">{items}</dl>' + (f"<p>{escape(note)}</p>" if note else "")
