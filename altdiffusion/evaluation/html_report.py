"""The report that people look at: one HTML file with the tables, score distributions, best and worst pairs, and all images.

It opens without a network, as images are inside it, small; a browser decodes those that are in sight.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from altdiffusion import files
from altdiffusion.evaluation.certificate import certificate
from altdiffusion.evaluation.pages import html_page, markdown_page
from altdiffusion.evaluation.report import language_name
from altdiffusion.evaluation.text_to_image import read_results
from altdiffusion.images import open_image

THUMBNAIL = 96  # pixels of the longer side, at most
PAIRS = 4  # best ones of each language, and worst
_PLOT = (620, 44)  # pixels of a language's distribution
_OWN, _OTHER = "#2a6fb0", "#b9b9b9"
_STYLE = f"""
img {{ display: inline-block; border: 3px solid #27a054; vertical-align: top; max-width: {THUMBNAIL}px }}
img.bad {{ border-color: #d63031 }}
figure {{ display: inline-block; margin: 0 .6em .6em 0; width: {THUMBNAIL + 20}px; vertical-align: top }}
figure {{ font-size: 12px; overflow-wrap: anywhere }}
.sheet tr {{ content-visibility: auto; contain-intrinsic-size: auto 80px }}
.sheet th, .sheet td {{ text-align: left; padding: 2px 6px; white-space: nowrap }}
.sheet td:first-child {{ white-space: normal; width: 14em }}
svg {{ vertical-align: middle }}
"""


def write_pages(out: Path, made_by: str = "") -> list[Path]:
    """certificate.md, certificate.html and report.html, of a finished evaluation in the same folder.

    made_by: what is said of how they were made, such as a command. Raises InputError.
    """
    title, about, tables = certificate(out)
    about += f" {made_by}" if made_by else ""
    results = read_results(out)
    below = "\n".join([_distributions(results), _best_and_worst(results), _sheet(results)])
    pages = {
        "certificate.md": markdown_page(title, about, tables),
        "certificate.html": html_page(title, about, tables),
        "report.html": html_page(title.replace("Parity certificate", "Report"), about, tables, below, _STYLE),
    }
    for name, text in pages.items():
        files.write_text(out / name, text)
    return [out / name for name in pages]


def _distributions(results: Sequence[Mapping[str, Any]]) -> str:
    """Two histograms for each language, on one axis of cosines; each as high as its highest bar."""
    spans = [result["histogram"] for result in results]
    low = min(span["start"] for span in spans)
    high = max(span["start"] + span["width"] * len(span["own"]) for span in spans)
    rows = []
    for result, span in zip(results, spans, strict=True):
        shapes = [_bars(span, kind, low, high, colour) for kind, colour in (("other", _OTHER), ("own", _OWN))]
        svg = f'<svg width="{_PLOT[0]}" height="{_PLOT[1]}">{"".join(shapes)}</svg>'
        rows.append(f"<tr><td>{escape(language_name(result['language']))}</td><td>{svg}</td></tr>")
    axis = f"<tr><td>cosine</td><td class=words>{low:.2f} <span style='float: right'>{high:.2f}</span></td></tr>"
    note = (
        f'<p class="note"><b style="color: {_OWN}">Blue</b>: of each image with its own prompt. '
        f'<b style="color: {_OTHER}">Grey</b>: with the other prompts of the language.</p>'
    )
    return f"<h2>How scores are spread</h2>\n<table>{''.join(rows)}{axis}</table>{note}"


def _bars(span: Mapping[str, Any], kind: str, low: float, high: float, colour: str) -> str:
    counts, (width, height) = span[kind], _PLOT
    scale, tallest = width / (high - low), (height - 2) / max(*counts, 1)
    bar = max(span["width"] * scale - 0.5, 1)
    path = ""
    for index, count in enumerate(counts):
        left, top = (span["start"] + index * span["width"] - low) * scale, count * tallest
        path += f"M{left:.1f} {height}h{bar:.1f}v-{top:.1f}h-{bar:.1f}z" if count else ""
    return f'<path fill="{colour}" fill-opacity=".75" d="{path}"/>'


def _best_and_worst(results: Sequence[Mapping[str, Any]]) -> str:
    blocks = ["<h2>Best and worst pairs</h2>"]
    for result in results:
        ranked = sorted(result["pictures"], key=lambda image: -image["score"])
        count = min(PAIRS, len(ranked) // 2)
        pairs = {"best": ranked[:count], "worst": ranked[len(ranked) - count :][::-1]}
        for name, images in pairs.items():
            figures = "".join(
                f"<figure>{_thumbnail(image)}<figcaption>{escape(image['prompt'])}<br>{_score(image)}</figcaption></figure>"
                for image in images
            )
            blocks.append(f"<h3>{escape(language_name(result['language']))}, {name}</h3>\n{figures}")
    return "\n".join(blocks)


def _sheet(results: Sequence[Mapping[str, Any]]) -> str:
    """All images: a row for each prompt, headed by its English words where there are any; a column for each language."""
    named = next((result for result in results if result["language"] == "en"), results[0])
    heads = "".join(f"<th>{escape(language_name(result['language']))}</th>" for result in results)
    cells: list[dict[int, str]] = [{} for _ in results]
    for column, result in zip(cells, results, strict=True):
        for image in result["pictures"]:
            column[image["row"]] = column.get(image["row"], "") + _thumbnail(image)
    prompts = {image["row"]: image["prompt"] for image in named["pictures"]}
    rows = (
        f"<tr><td>{escape(prompts.get(row, ''))}</td>"
        + "".join(f"<td>{column.get(row, '')}</td>" for column in cells)
        + "</tr>"
        for row in range(max(result["prompts"] for result in results))
    )
    has_truth = "right" in results[0]["pictures"][0]
    framed = "it is right" if has_truth else "its own prompt fits it best"
    note = f'<p class="note">A green frame: {framed}; else it is red. Point at an image for its prompt and score.</p>'
    body = "\n".join(rows)
    return f'<h2>All images</h2>{note}\n<table class="sheet"><tr><th></th>{heads}</tr>\n{body}</table>'


def _thumbnail(image: Mapping[str, Any], opened: Callable[[str], Image.Image] = open_image) -> str:
    """An `img` with the image inside, small."""
    small = opened(image["path"])
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=60, method=4)
    data = base64.b64encode(buffer.getvalue()).decode()
    bad = "" if image.get("right", image["own_prompt_first"]) else ' class="bad"'
    return (
        f'<img{bad} loading="lazy" decoding="async" width="{small.width}" height="{small.height}" '
        f'title="{escape(image["prompt"])}: {_score(image)}" src="data:image/webp;base64,{data}">'
    )


def _score(image: Mapping[str, Any]) -> str:
    """The cosine, and where it stands among right pairs, or wrong ones, of the language."""
    if "match_percentile" in image:
        return f"{image['score']:.2f}, better than {image['match_percentile']:.0f} % of right pairs"
    if "percentile" in image:
        return f"{image['score']:.2f}, better than {image['percentile']:.1f} % of wrong pairs"
    return f"{image['score']:.2f}"
