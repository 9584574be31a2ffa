"""HTML of what Gradio has no component for. Jinja escapes whatever a visitor wrote."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, StrictUndefined

from altdiffusion.web.draw_queue import Generating, Loading, Waiting
from altdiffusion.web.service import Scoring
from altdiffusion.web.translations import say

_ENVIRONMENT = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)

_STATUS = _ENVIRONMENT.from_string("""
<div class="status" role="status" aria-live="polite"><span>{{ sentence }}</span>
{%- if total %}<progress value="{{ done }}" max="{{ total }}" aria-label="{{ sentence }}"></progress>
{%- elif waits %}<progress></progress>
{%- endif %}</div>""")

_REFUSAL = _ENVIRONMENT.from_string('<div class="status refused" role="alert"><span>{{ sentence }}</span></div>')

_HEAT_MAP = _ENVIRONMENT.from_string("""
<div class="scroll" tabindex="0" role="region" aria-label="{{ caption }}"><table class="heat"><caption>{{ caption }}</caption>
<thead><tr><td></td>{% for column in columns %}<th scope="col" dir="auto">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for name, cells in rows %}
<tr><th scope="row" dir="auto">{{ name }}</th>
  {%- for value, warmth, best in cells -%}
  <td style="--warmth:{{ warmth }}%">{% if best %}<b>{{ value }}</b>{% else %}{{ value }}{% endif %}</td>
  {%- endfor -%}
</tr>
{% endfor %}
</tbody></table></div>""")

_BARS = _ENVIRONMENT.from_string("""
<div class="bars" role="group" aria-label="{{ caption }}">
{% for name, bars in rows %}
<section aria-label="{{ name }}"><h4 dir="auto">{{ name }}</h4>
  {%- for column, length, value in bars -%}
  <div class="bar"><span dir="auto">{{ column }}</span><i aria-hidden="true" style="--length:{{ length }}%"></i>
  <span>{{ value }}</span></div>
  {%- endfor -%}
</section>
{% endfor %}
</div>""")

_SETTINGS = _ENVIRONMENT.from_string("""
<dl class="found">{% for name, value in pairs %}<dt>{{ name }}</dt><dd dir="auto">{{ value }}</dd>{% endfor %}</dl>
{%- if note %}<p>{{ note }}</p>{% endif %}""")


def status(news: Waiting | Loading | Generating | Scoring, language: str) -> str:
    """What is happening, with a bar; a screen reader hears the sentence."""
    if isinstance(news, Generating):
        seconds = max(1, round(news.seconds))
        sentence = say("drawing", language, done=news.done, total=news.total, seconds=seconds)
        return _STATUS.render(sentence=sentence, done=news.done, total=news.total)
    if isinstance(news, Waiting):
        sentence = say("waiting", language, ahead=news.ahead)
    else:
        sentence = say("loading" if isinstance(news, Loading) else "scoring", language)
    return _STATUS.render(sentence=sentence, total=0, waits=True)


def line(sentence: str) -> str:
    return _STATUS.render(sentence=sentence, total=0, waits=False)


def refusal(sentence: str) -> str:
    """What went wrong; a screen reader says it at once."""
    return _REFUSAL.render(sentence=sentence)


def heat_map(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], caption: str) -> str:
    """A table whose cells are the warmer the higher; best of each column in bold."""
    low, high = min(map(min, values)), max(map(max, values))
    best = [max(column) for column in zip(*values, strict=True)]

    def cells(row: Sequence[float]) -> list[tuple[str, int, bool]]:
        warmth = [round(100 * (value - low) / (high - low)) if high > low else 50 for value in row]
        return [(f"{value:.3f}", warm, value == top) for value, warm, top in zip(row, warmth, best, strict=True)]

    named = [(name, cells(row)) for name, row in zip(rows, values, strict=True)]
    return _HEAT_MAP.render(caption=caption, columns=columns, rows=named)


def bars(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], caption: str, percent: bool = False
) -> str:
    """For each row a group of bars, one a column; their lengths are fractions of the highest value."""
    high = max(1e-9, max(map(max, values)))

    def group(row: Sequence[float]) -> list[tuple[str, int, str]]:
        texts = [f"{100 * value:.1f} %" if percent else f"{value:.3f}" for value in row]
        lengths = [max(0, round(100 * value / high)) for value in row]
        return list(zip(columns, lengths, texts, strict=True))

    named = [(name, group(row)) for name, row in zip(rows, values, strict=True)]
    return _BARS.render(caption=caption, rows=named)


def settings_list(pairs: Sequence[tuple[str, str]], note: str) -> str:
    """A list of names and values."""
    return _SETTINGS.render(pairs=pairs, note=note)
