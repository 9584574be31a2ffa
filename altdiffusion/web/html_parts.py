"""HTML of what Gradio has no component for. Jinja escapes whatever a visitor wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined

from altdiffusion.prompts.explain import likely_words
from altdiffusion.web.draw_queue import Generating, Loading, Waiting
from altdiffusion.web.inversion import SavedInversion
from altdiffusion.web.service import Judged, Scoring
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

_JUDGED = _ENVIRONMENT.from_string("""
<section class="judged" aria-label="{{ caption }}"><h4>{{ caption }}</h4>
<ul>{% for line in lines %}<li dir="auto">{{ line }}</li>{% endfor %}</ul></section>""")

_SETTINGS = _ENVIRONMENT.from_string("""
<dl class="found">{% for name, value in pairs %}<dt>{{ name }}</dt><dd dir="auto">{{ value }}</dd>{% endfor %}</dl>
{%- if note %}<p>{{ note }}</p>{% endif %}""")

_TOKEN_LINE = _ENVIRONMENT.from_string("""
<div class="tokens{% if wrong %} wrong{% endif %}" role="status"><span dir="auto">{{ sentence }}</span></div>""")

_PIECES = _ENVIRONMENT.from_string("""
<div class="pieces">
{% for heading, chunks, understood, notes in groups %}
{% if heading %}<h4 dir="auto">{{ heading }}</h4>{% endif %}
  {%- for title, pieces in chunks -%}
  <section aria-label="{{ title }}"><h5>{{ title }}</h5><p dir="auto">
  {%- for text, weight, known in pieces -%}
  <span class="piece{% if not known %} unknown{% endif %}">{{ text }}{% if weight %}<sub>{{ weight }}</sub>{% endif %}</span>
  {%- endfor -%}
  </p></section>
  {%- endfor -%}
  {%- for text, tokens, rest in understood -%}
  <p class="understood"><bdi>{{ text }}</bdi> →
  {%- for words in tokens %} <span class="piece"><bdi>{{ words }}</bdi></span>{% endfor %} <small>{{ rest }}</small></p>
  {%- endfor -%}
  {%- for note in notes -%}<p>{{ note }}</p>{%- endfor -%}
{% endfor %}
</div>""")


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


def judged(rows: Sequence[str], prompts: Sequence[str], judgements: Sequence[Judged], language: str) -> str:
    """A sentence for each prompt and image: whether they belong together, and how good it is. "" without judgements."""
    lines = []
    for prompt, each in zip(prompts, judgements, strict=False):
        spoken = each.language if each.sure else f"{each.language}?"
        if each.probabilities is None or each.percentiles is None:
            lines.append(say("not_judged", language, prompt=prompt, spoken=spoken))
            continue
        for name, probability, percentile in zip(rows, each.probabilities, each.percentiles, strict=True):
            verdict = "judged_right" if probability >= 0.5 else "judged_wrong"
            values = {"probability": _percent(probability), "percentile": round(percentile)}
            lines.append(say(verdict, language, image=name, prompt=prompt, spoken=spoken, **values))
    return _JUDGED.render(caption=say("judged", language), lines=lines) if lines else ""


def _percent(probability: float) -> str:
    """In per cent, to a tenth: nothing is quite sure."""
    if probability > 0.999:
        return "> 99.9"
    return "< 0.1" if probability < 0.001 else f"{100 * probability:.1f}"


def settings_list(pairs: Sequence[tuple[str, str]], note: str) -> str:
    """A list of names and values."""
    return _SETTINGS.render(pairs=pairs, note=note)


def inversion(saved: SavedInversion, language: str) -> str:
    """That a textual inversion is there, what was understood, and what each tool calls it."""
    document = saved.document
    ready = say("inverted", language, file=saved.path.name, vectors=document["vectors"])
    pairs = [(say("inversion_english", language), document["english"])]
    tools: dict[str, list[str]] = {}
    for tool, written in document["triggers"].items():
        tools.setdefault(written, []).append(_TOOLS[tool])
    pairs += [(", ".join(names), written) for written, names in tools.items()]
    note = say("inversion_is_word", language, word=document["name"]) if saved.is_word else ""
    return line(ready) + settings_list(pairs, note)


# What the tools of `triggers` call themselves.
_TOOLS = {"a1111": "A1111", "forge": "Forge", "comfyui": "ComfyUI", "invokeai": "InvokeAI", "diffusers": "diffusers"}


def token_line(sentence: str) -> str:
    return _TOKEN_LINE.render(sentence=sentence, wrong=False)


def token_problem(sentence: str) -> str:
    """What is malformed in a prompt; said politely, as it is still being written."""
    return _TOKEN_LINE.render(sentence=sentence, wrong=True)


def token_counter(read: dict[str, Any], negative: dict[str, Any], language: str) -> str:
    """How full the chunk is that a prompt ends in, what a bridge understood, and what the vocabulary lacks.

    read, negative: of `prompts.explain`.
    """
    sentences = []
    if count := _count(read, language):
        sentences.append(count)
    if count := _count(negative, language):
        sentences.append(say("negative_tokens", language, count=count))
    if texts := "; ".join(_in_english(stretch) for stretch in _stretches(read)):
        sentences.append(say("understood", language, texts=texts))
    if unknown := dict.fromkeys([*_unknown(read), *_unknown(negative)]):
        sentences.append(say("unknown_tokens", language, texts=" ".join(unknown)))
    return token_line(" · ".join(sentences))


def token_pieces(read: dict[str, Any], language: str) -> str:
    """The pieces of a prompt with their weights, a paragraph for each chunk."""
    groups: list[tuple[str, list[Any], list[Any], list[str]]] = []
    for prompt in read["prompts"]:
        for part in prompt["parts"]:
            heading = prompt["prompt"] if len(read["prompts"]) > 1 else ""
            if len(prompt["parts"]) > 1:
                steps = say("part_steps", language, first=part["from_step"], last=part["until_step"])
                heading = f"{steps}: {part['prompt'].strip()}"
            chunks = [
                (_filled_chunk(number, chunk, read["chunk_tokens"], language), [_shown(piece) for piece in chunk])
                for number, chunk in enumerate(part["chunks"], 1)
            ]
            understood = [_doubts(stretch, language) for stretch in part.get("understood", [])]
            groups.append((heading, chunks, understood, []))
        loras = [say("lora_weight", language, name=lora["name"], weight=lora["weight"]) for lora in prompt["loras"]]
        groups[-1][3].extend(loras)
    return _PIECES.render(groups=groups)


def _count(read: dict[str, Any], language: str) -> str:
    """Of the longest of its choices, at the steps where it is longest; "" where nothing is written."""
    chunks = max(
        (part["chunks"] for prompt in read["prompts"] for part in prompt["parts"]),
        key=lambda chunks: (len(chunks), len(chunks[-1])),
    )
    if len(chunks) == 1:
        return say("tokens", language, count=len(chunks[0]), size=read["chunk_tokens"]) if chunks[0] else ""
    return _filled_chunk(len(chunks), chunks[-1], read["chunk_tokens"], language)


def _filled_chunk(number: int, chunk: list[Any], size: int, language: str) -> str:
    return say("chunk_tokens", language, chunk=number, count=len(chunk), size=size)


def _shown(piece: dict[str, Any]) -> tuple[str, str, bool]:
    """Text, weight ("" for 1) and whether the vocabulary has it."""
    weight = "" if piece["weight"] == 1 else f"{piece['weight']:g}"
    return piece["piece"] if piece["known"] else piece["text"], weight, piece["known"]


def _stretches(read: dict[str, Any]) -> list[dict[str, Any]]:
    """What a bridge read, once; a text around literal words has tokens before and behind them."""
    parts = (part for prompt in read["prompts"] for part in prompt["parts"])
    stretches = (stretch for part in parts for stretch in part.get("understood", []))
    return list({(stretch["text"], str(stretch["tokens"])): stretch for stretch in stretches}.values())


def _in_english(stretch: dict[str, Any]) -> str:
    words = " ".join(token["words"][0]["word"] for token in stretch["tokens"]).replace("- ", "")
    return f"{stretch['text'].strip()} → {words}"


def _doubts(stretch: dict[str, Any], language: str) -> tuple[str, list[str], str]:
    """The text, for each of its soft tokens the words that it may mean, and how much of them all is no word."""
    tokens = [
        say("or", language).join(f"{word} {share:.0%}" for word, share in likely_words(token))
        for token in stretch["tokens"]
    ]
    rest = sum(token["rest"] for token in stretch["tokens"]) / len(tokens)
    return stretch["text"].strip(), tokens, say("free_rest", language, share=f"{rest:.0%}")


def _unknown(read: dict[str, Any]) -> list[str]:
    parts = (part for prompt in read["prompts"] for part in prompt["parts"])
    return [piece["text"] for part in parts for chunk in part["chunks"] for piece in chunk if not piece["known"]]
