"""Parallel text for distillation and for the bridge: a student's tokens in any language, its teacher's in English."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from tqdm.auto import tqdm

from altdiffusion.data.caption_like import CaptionTable
from altdiffusion.data.open_tables import open_tables
from altdiffusion.data.table import SkipLog, Table
from altdiffusion.errors import InputError
from altdiffusion.text_encoder.tokenizer import tokens
from altdiffusion.training.inputs.sampling import Mixture, Records, language_weights, say_columns


@dataclass(frozen=True)
class Pair:
    """One text in two languages. record: its index over all tables."""

    record: int
    language: str
    ids: list[int]
    teacher_ids: list[int]


class ParallelText:
    """A sample's index -> Pair; see `Mixture` for the order.

    languages: as `language_weights` takes them; the teacher's language is one of them by default, as the student must
    not forget it. caption_like: whether only records are read whose text in the teacher's language, English, reads like a
    caption. reweigh: gives other weights to the languages; those that it leaves out are not read.
    Raises InputError where a table has no column `teacher_language`, or nothing to go with it, or nothing like a caption.
    """

    def __init__(
        self,
        paths: Sequence[Any],
        languages: Sequence[str],
        teacher_language: str,
        tokenizer: Any,
        teacher_tokenizer: Any,
        seed: int,
        max_skipped: float,
        caption_like: bool = False,
        reweigh: Callable[[dict[str, float]], dict[str, float]] = dict,
    ) -> None:
        skipped = SkipLog(max_skipped)
        asked = [language.partition("=")[0] for language in languages]
        columns = list(dict.fromkeys([*asked, teacher_language])) if asked else []
        tables = open_tables(paths, columns, images=False, skipped=skipped)
        for table in tables:
            if teacher_language not in table.columns:
                raise InputError(
                    f"{table.path} has no column {teacher_language!r} for the teacher, only {', '.join(table.columns)}: "
                    "say which one it reads with --teacher-language"
                )
        self.records = Records([_captions(table, teacher_language) for table in tables] if caption_like else tables)
        self.languages = reweigh(language_weights(tables, languages))
        say_columns(tables, self.languages)
        self.teacher_language = teacher_language
        self._mixture = Mixture(self.records, self.languages, seed)
        self._tokenizer, self._teacher_tokenizer = tokenizer, teacher_tokenizer

    def __len__(self) -> int:
        return len(self.records)

    def texts(self, indices: Sequence[int]) -> list[tuple[int, str, str, str]]:
        """(record, language, text, the teacher's text) of some samples."""
        samples = [(sample, self.records[sample.record]) for sample in map(self._mixture.__getitem__, indices)]
        return [
            (sample.record, sample.language, record[sample.language], record[self.teacher_language])
            for sample, record in samples
        ]

    def read(self, indices: Sequence[int]) -> list[Pair]:
        """The pairs of some samples, tokenized together."""
        records, languages, texts, english = zip(*self.texts(indices), strict=True)
        ids, teacher_ids = tokens(self._tokenizer, texts), tokens(self._teacher_tokenizer, english)
        return list(map(Pair, records, languages, ids, teacher_ids))

    def english(self, records: Sequence[int]) -> list[list[int]]:
        """The teacher's tokens of records."""
        return tokens(self._teacher_tokenizer, [self.records[record][self.teacher_language] for record in records])

    def of_language(self, language: str, limit: int) -> list[tuple[list[int], list[int]]]:
        """(student's tokens, teacher's tokens) of the first `limit` records that have this language."""
        texts, english = self.texts_of(language, limit)
        return list(zip(tokens(self._tokenizer, texts), tokens(self._teacher_tokenizer, english), strict=True))

    def texts_of(self, language: str, limit: int) -> tuple[list[str], list[str]]:
        """(texts, the teacher's texts) of the same."""
        records = [self.records[place] for place in islice(chain(*self.records.ranges(language)), limit)]
        return [record[language] for record in records], [record[self.teacher_language] for record in records]


def _captions(table: Table, english: str) -> CaptionTable:
    """The records that read like captions; says how many are left out."""
    captions = CaptionTable(table, english)
    tqdm.write(captions.summary(), sys.stderr)
    if not len(captions):
        raise InputError(
            f"{table.path} has no record that reads like a caption: leave out this table or --caption-like"
        )
    return captions
