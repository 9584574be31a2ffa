"""Results as tables: rows for a terminal, Markdown, CSV, JSON. Published metrics stand under the measured ones."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from altdiffusion.errors import InputError
from altdiffusion.evaluation.paper_results import PublishedRow
from altdiffusion.evaluation.retrieval import RetrievalResult
from altdiffusion.metrics import KS

COLUMNS = [f"{direction}_r{k}" for direction in ("t2i", "i2t") for k in KS] + ["mr"]
_HEADS = [f"{direction} R@{k}" for direction in ("T2I", "I2T") for k in KS] + ["MR"]
_OF_THE_DATA = ("captions", "prompts", "pool", "data")  # what of a protocol is no system's own
_LANGUAGES = {
    "en": "English", "zh": "Chinese", "es": "Spanish", "fr": "French", "ru": "Russian", "ja": "Japanese", "ko": "Korean",
    "ar": "Arabic", "it": "Italian", "de": "German", "pl": "Polish", "pt": "Portuguese", "tr": "Turkish", "vi": "Vietnamese",
    "und": "unknown language",
}  # fmt: skip


class ResultTable(NamedTuple):
    """The results on one data set, in per cent. rows: of equally many cells, headings first. notes: what must be known."""

    title: str
    rows: list[list[str]]
    notes: list[str]


def language_name(language: str) -> str:
    """English's name of a language, or its code."""
    return _LANGUAGES.get(language, language)


def tables(results: Sequence[RetrievalResult]) -> list[ResultTable]:
    """A table for each data set and language."""
    return [
        ResultTable(title, [["", *_HEADS], *_rows(group, indent="  ")], _notes(group))
        for title, group in _by_data(results)
    ]


def render(results: Sequence[RetrievalResult], form: str) -> str:
    """Results as text. form: "markdown", "csv" or "json". Metrics are per cent."""
    if form not in _FORMS:
        raise InputError(f"unknown form of table {form!r}: expected one of {', '.join(_FORMS)}")
    return _FORMS[form](results)


def as_json(results: Sequence[RetrievalResult]) -> dict[str, Any]:
    """One JSON document; recalls unrounded, null where they were not published."""
    return {
        "results": [
            {
                "system": result.system,
                "data": result.data,
                "language": result.language,
                "images": result.images,
                "captions": result.captions,
                "seconds": round(result.seconds, 2),
                "measured": dict(zip(COLUMNS, _measured(result), strict=True)),
                "published": [
                    {
                        "row": row.system,
                        **{name: _known(value) for name, value in zip(COLUMNS, _printed(row), strict=True)},
                        "note": row.note,
                        "about": row.about,
                        "source": row.source,
                    }
                    for row in result.published
                ],
                "source": "; ".join(dict.fromkeys(row.source for row in result.published)) or None,
                "protocol": dict(result.protocol),
                "notes": list(result.notes),
                "problems": [{"where": problem.where, "reason": problem.reason} for problem in result.problems],
            }
            for result in results
        ]
    }


def _markdown(results: Sequence[RetrievalResult]) -> str:
    blocks = []
    for title, group in _by_data(results):
        rows = [["", *_HEADS], ["---", *["---:"] * len(_HEADS)], *_rows(group)]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        notes = [f"- {note}" for note in _notes(group)]
        blocks.append("\n".join([f"**{title}**", "", *lines, *([""] if notes else []), *notes]))
    return "\n\n".join(blocks)


def _csv(results: Sequence[RetrievalResult]) -> str:
    """A line for each row, measured or published, under the names of the JSON document."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["data", "language", "system", "figures", *COLUMNS, "images", "captions", "seconds", "problems", "note"]
    )
    for result in results:
        about = [
            result.images,
            result.captions,
            round(result.seconds, 2),
            len(result.problems),
            "; ".join(result.notes),
        ]
        writer.writerow([result.data, result.language, result.system, "measured", *_measured(result), *about])
        for row in result.published:
            writer.writerow(
                [
                    result.data,
                    result.language,
                    row.system,
                    "published",
                    *map(_known, _printed(row)),
                    "",
                    "",
                    "",
                    "",
                    row.note,
                ]
            )
    return out.getvalue().rstrip("\n")


def _rows(results: Sequence[RetrievalResult], indent: str = "") -> list[list[str]]:
    """indent: before the names of published rows."""
    rows = []
    for result in results:
        rows.append([result.system, *(f"{value:.1f}" for value in _measured(result))])
        for row in result.published:
            cells = ("-" if math.isnan(value) else f"{value:.1f}" for value in _printed(row))
            rows.append([f"{indent}{row.system}, published", *cells])
    return rows


def _measured(result: RetrievalResult) -> list[float]:
    metrics = result.metrics
    return [*metrics.text_to_image, *metrics.image_to_text, metrics.mean]


def _printed(row: PublishedRow) -> list[float]:
    return [*row.metrics.text_to_image, *row.metrics.image_to_text, row.mean]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _by_data(results: Sequence[RetrievalResult]) -> Iterator[tuple[str, list[RetrievalResult]]]:
    """The results by data set and language, each group under a title."""
    groups: dict[tuple[str, str], list[RetrievalResult]] = {}
    for result in results:
        groups.setdefault((result.data, result.language), []).append(result)
    for (name, language), group in groups.items():
        about = f"{group[-1].images} images, {group[-1].captions} captions; per cent"
        yield f"{name}, {language_name(language)}: {about}", group


def _notes(results: Sequence[RetrievalResult]) -> list[str]:
    """What must be known about the metrics above."""
    lines = [f"{row.system}, published: {row.note}" for result in results for row in result.published if row.note]
    lines = [f"published: {row.about}; {row.source}" for result in results for row in result.published] + lines
    lines += [note for result in results for note in result.notes]
    lines += [line for result in results for line in protocol_lines(result.system, result.protocol)]
    if problems := results[-1].problems:
        lines.append(f"{len(problems)} left out, the first: {problems[0].where}: {problems[0].reason}")
    return list(dict.fromkeys(lines))


def protocol_lines(system: str, protocol: Mapping[str, str]) -> Iterator[str]:
    """How a figure was measured: what of it is the same for every system, then this one's."""
    words = {"prompts": "asked with ", "padding": "padded "}
    about = {name: words.get(name, "") + value for name, value in protocol.items()}
    if shared := [about.pop(name) for name in _OF_THE_DATA if name in about]:
        yield f"protocol: {'; '.join(shared)}"
    if about:
        yield f"{system}: {'; '.join(about.values())}"


_FORMS: dict[str, Callable[[Sequence[RetrievalResult]], str]] = {
    "markdown": _markdown,
    "csv": _csv,
    "json": lambda results: json.dumps(as_json(results), ensure_ascii=False, indent=2),
}
