"""`altdiffusion score --pairs`: a score for each row of a table, written beside the row. Memory stays flat."""

from __future__ import annotations

import csv
import heapq
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altdiffusion.altclip import text_languages
from altdiffusion.altclip.score_kinds import DECIMALS
from altdiffusion.cli.row_files import WRITERS, row_file
from altdiffusion.cli.terminal import counting, print_json, print_table, say
from altdiffusion.data.columns import is_language
from altdiffusion.data.open_tables import open_tables
from altdiffusion.data.table import SkipLog, Table
from altdiffusion.errors import InputError

if TYPE_CHECKING:
    from altdiffusion.cli.score import ScoreSettings

LANGUAGE_COLUMNS = ("language", "lang")  # of a row's language, where the table has one


@dataclass
class Row:
    """table, index: where it stands. source: its columns as they stand there. language: "" where none is known."""

    table: Table
    index: int
    source: dict[str, Any]
    caption: str
    image: Any
    language: str = ""
    score: float = float("nan")

    @property
    def scored(self) -> dict[str, Any]:
        """Its columns, with the score, and the language that was found, behind them."""
        found = {} if not self.language or self.own_language else {"language": self.language}
        return self.source | found | {"score": round(self.score, 6)}

    @property
    def own_language(self) -> str:
        """What the row itself says."""
        return next((str(self.source[name]).strip() for name in LANGUAGE_COLUMNS if self.source.get(name)), "")


def score_table(settings: ScoreSettings, load_scorer: Callable[[], Any]) -> None:
    """Score the rows, and write or print them. Raises InputError: nothing to score, or, at the end, that rows were bad."""
    if settings.out is not None:
        _check_out(settings.out)
    skipped = _SkippedRows(limit=1, what="rows")
    columns = [settings.caption] if settings.caption else []
    tables = open_tables([settings.pairs or ""], columns, images=True, skipped=skipped)
    for table in tables:
        if len(table.columns) > 1:
            raise InputError(
                f"{table.path} has several captions, {', '.join(table.columns)}: name one of them, --caption {table.columns[0]}"
            )
    if settings.score_as != "cosine" and settings.language is None and not all(map(_says_language, tables)):
        text_languages.check()
    total = sum(map(len, tables))
    say(f"{total:,} pairs: column {tables[0].columns[0]!r} of {settings.pairs}")
    job = _Job(settings, load_scorer(), skipped, tables)
    with counting(total, "pairs") as done:
        rows = job.rows(done)
        _write(settings, rows if settings.top is None else _best(rows, settings.top), job)
    if settings.plot is not None and job.histogram is not None and job.count:
        job.histogram.save(settings.plot)
    _report(settings, job)


class _SkippedRows(SkipLog):
    """The same, with all of them for `--json`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.all: list[dict[str, str]] = []

    def add(self, where: str, reason: str) -> bool:
        is_new = super().add(where, reason)
        if is_new:
            self.all.append({"row": where, "reason": reason})
        return is_new


class _Job:
    """The rows as they are scored, and what is to be said of them."""

    def __init__(self, settings: ScoreSettings, scorer: Any, skipped: _SkippedRows, tables: list[Table]) -> None:
        self.settings, self.scorer, self.skipped, self.tables = settings, scorer, skipped, tables
        self.count, self.sum, self.kept, self.duplicates = 0, 0.0, 0, 0
        self.first_duplicate = ""
        self.languages: Counter[str] = Counter()
        self.histogram = None
        if settings.plot is not None:
            from altdiffusion.cli.score_plot import Histogram

            self.histogram = Histogram(settings.score_as)

    def rows(self, done: Callable[[int], object]) -> Iterator[Row]:
        """Those that can be scored and score at least --min."""
        waiting: deque[Row] = deque()
        bad: dict[int, str] = {}
        pairs = self._pairs(waiting, done)
        scores = self.scorer.score_pairs(pairs, bad, as_=self.settings.score_as)
        for index, score in enumerate(scores):
            row = waiting.popleft()
            done(1)
            if (reason := bad.pop(index, None)) is not None:
                self.skipped.add(row.table.where(row.index), reason.removeprefix(f"{_place(row)}: "))
                continue
            row.score = score
            self.count, self.sum = self.count + 1, self.sum + score
            self.languages[row.language] += 1
            if self.histogram is not None:
                self.histogram.add(score, row.language)
            if self.settings.minimum is None or score >= self.settings.minimum:
                self.kept += 1
                yield row

    def _pairs(self, waiting: deque[Row], done: Callable[[int], object]) -> Iterator[tuple[Any, ...]]:
        """(image, caption) or (image, caption, language) of each row; the row itself waits for its score."""
        seen: set[bytes] = set()
        for table in self.tables:
            (column,) = table.columns
            for index, record in enumerate(table):
                image, caption = record["image"], record[column]
                pair = f"{image.where}\0{caption}".encode("utf-8", "surrogatepass")
                if (key := blake2b(pair, digest_size=8).digest()) in seen:
                    self.duplicates += 1
                    self.first_duplicate = self.first_duplicate or table.where(index)
                    done(1)
                    continue
                seen.add(key)
                row = Row(table, index, table.source_row(index), caption, image)
                row.language = self._language(row, column)
                waiting.append(row)
                shown = image if image.member else image.path
                yield (shown, caption, row.language) if row.language else (shown, caption)

    def _language(self, row: Row, column: str) -> str:
        """As --language, the row, or the column's name has it, or as it is found."""
        if self.settings.score_as == "cosine":
            return ""
        if said := self.settings.language or row.own_language or (column if is_language(column) else ""):
            return said
        return text_languages.find_language(row.caption, self.scorer.calibration.languages).language


def _says_language(table: Table) -> bool:
    """Whether a table says the language of its captions, in a column or by the name of theirs."""
    return is_language(table.columns[0]) or any(name in table.present for name in LANGUAGE_COLUMNS)


def _best(rows: Iterable[Row], top: int) -> list[Row]:
    """The N best, best first, equal ones in their order."""
    return heapq.nsmallest(top, rows, key=lambda row: -row.score)


def _check_out(path: Path) -> None:
    if path.suffix.lower() not in WRITERS or not path.parent.is_dir():
        raise InputError(f"--out {path}: expected a file that ends in {', '.join(WRITERS)}, in a folder that is there")


def _write(settings: ScoreSettings, rows: Iterable[Row], job: _Job) -> None:
    decimals = DECIMALS[settings.score_as]
    if settings.out is not None:
        with row_file(settings.out) as write:
            for row in rows:
                write(row.scored)
    elif settings.as_json:
        results = [row.scored for row in rows]
        print_json({"pairs": settings.pairs, "as": settings.score_as, "results": results, "failed": job.skipped.all})
    elif settings.as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["image", "caption", "score"])
        for row in rows:
            writer.writerow([_place(row), row.caption, f"{row.score:.6f}"])
    elif cells := [[_place(row), row.caption, f"{row.score:.{decimals}f}"] for row in rows]:
        print_table([["", "caption", settings.score_as], *cells])


def _place(row: Row) -> str:
    return str(row.image.where)


def _report(settings: ScoreSettings, job: _Job) -> None:
    bad = job.skipped.count
    where = "" if settings.out is None else f", written to {settings.out}"
    if job.count:
        limit = "" if settings.minimum is None else f"; {job.kept:,} score at least {settings.minimum:g}"
        say(f"{job.count:,} pairs scored, mean {job.sum / job.count:.{DECIMALS[settings.score_as]}f}{limit}{where}")
    if len(job.languages) > 1 or any(job.languages):
        say("languages: " + ", ".join(f"{name} {count:,}" for name, count in job.languages.most_common(12)))
    if job.duplicates:
        first = job.first_duplicate
        say(f"left out, as they repeat an earlier image and caption: {job.duplicates:,} rows, the first is {first}")
    if bad:
        reasons = "; ".join(f"{reason} ({count:,})" for reason, count in job.skipped.counts.most_common(5))
        rest = "; the others were scored" if job.count else ""
        raise InputError(f"{bad:,} of {job.count + job.duplicates + bad:,} rows can't be used: {reasons}{rest}")
