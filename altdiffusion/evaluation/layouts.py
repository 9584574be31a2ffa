"""The prompts that images are generated from, and what the images are called: our way, CoCo-CroLa's or GenEval's.

folders     LANGUAGE/0000.png; of several images of a prompt 0000-1.png and so on beside it
cococrola   0-en-eye-0.png: row of concepts.csv from 0, language, the concept as its first column has it, image (Saxon and Wang
            2023, github.com/michaelsaxon/CoCoCroLa, scripts/generate_images_to_dir.py)
geneval     LANGUAGE/00000/metadata.jsonl and LANGUAGE/00000/samples/0000.png: LANGUAGE is a folder that GenEval's detector reads
            (Ghosh et al. 2023, github.com/djghosh13/geneval, README)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from altdiffusion import files
from altdiffusion.data.columns import is_language
from altdiffusion.data.open_tables import open_tables
from altdiffusion.data.table import SkipLog, Table
from altdiffusion.errors import InputError, first_line
from altdiffusion.files import local_path

Layout = Literal["folders", "cococrola", "geneval"]
PLACES = ("$$$", "###")  # of the concept in a template: in CoCo-CroLa's files, and in its README
_GENEVAL = {"tag", "include", "prompt"}  # keys of a line of evaluation_metadata.jsonl


@dataclass(frozen=True)
class PromptSet:
    """Prompts in each language, and how their images are called.

    texts: by language. concepts: what the images of each row are named by, for CoCo-CroLa. metadata: the line of each row, for
    GenEval.
    """

    texts: dict[str, list[str]]
    layout: Layout
    concepts: Sequence[str] = ()
    metadata: Sequence[dict[str, Any]] = ()

    def path(self, out: Path, language: str, row: int, number: int) -> Path:
        """Where an image lies. row, number: of its prompt, and among the images of it, from 0."""
        if self.layout == "cococrola":
            return out / f"{row}-{language}-{self.concepts[row]}-{number}.png"
        if self.layout == "geneval":
            return out / language / f"{row:05d}" / "samples" / f"{number:04d}.png"
        return out / language / (f"{row:04d}-{number}.png" if number else f"{row:04d}.png")

    def write_metadata(self, out: Path, language: str) -> None:
        """What GenEval's detector reads beside the images; nothing in the other layouts."""
        for row, line in enumerate(self.metadata if self.layout == "geneval" else ()):
            path = out / language / f"{row:05d}" / "metadata.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(path, json.dumps(line, ensure_ascii=False) + "\n")


def read_prompts(
    prompts: str | Path,
    languages: Sequence[str] = (),
    layout: Layout | None = None,
    templates: str | Path | None = None,
    max_skipped: float = 0.01,
) -> PromptSet:
    """The prompts of a table with a column for each language, CoCo-CroLa's concepts.csv among them, or of GenEval's file.

    prompts: a path, or a pattern of some, as in training. languages: columns; by default as in training. Of GenEval's file
        "en" is what it calls prompt; columns of other languages may stand beside it.
    layout: None: "geneval" for GenEval's file, "cococrola" with templates, else "folders".
    templates: CoCo-CroLa's prompts.json, a sentence for each language in which $$$ stands for the concept.
    max_skipped: as in `evaluate_generation`. Raises InputError.
    """
    skipped = SkipLog(max_skipped)
    is_geneval = _is_geneval(prompts)
    asked = _geneval_columns(prompts, languages) if is_geneval else list(languages)
    tables = open_tables([prompts], asked, images=False, skipped=skipped)
    columns = asked or list(dict.fromkeys(name for table in tables for name in table.columns))
    texts = {name: [record[name] for table in tables if name in table.columns for record in table] for name in columns}
    if is_geneval:
        texts = {"en" if name == "prompt" else name: lines for name, lines in texts.items()}
    layout = layout or ("geneval" if is_geneval else "cococrola" if templates is not None else "folders")
    if layout == "geneval" and not is_geneval:
        raise InputError(
            f"{prompts} holds no lines of GenEval's evaluation_metadata.jsonl, which --layout geneval needs"
        )
    if layout != "folders" and skipped.count:
        raise InputError(
            f"{prompts}: {skipped.count} rows can't be read, but --layout {layout} names images by their row: complete them"
        )
    metadata = [table.source_row(index) for table in tables for index in range(len(table))] if is_geneval else []
    concepts = _concepts(tables) if layout == "cococrola" else []
    if templates is not None:
        texts = _filled(texts, local_path(templates))
    return PromptSet(texts, layout, concepts, metadata)


def _is_geneval(prompts: str | Path) -> bool:
    """Whether a file's first line is one of evaluation_metadata.jsonl."""
    return _GENEVAL.issubset(_first_record(prompts))


def _first_record(prompts: str | Path) -> dict[str, Any]:
    """The keys of the first line of a JSON lines file; {} for anything else, which `open_tables` judges."""
    path = local_path(prompts)
    if path.suffix.lower() != ".jsonl" or not path.is_file():
        return {}
    with path.open(encoding="utf-8", errors="replace") as file:
        try:
            record = json.loads(file.readline())
        except ValueError:
            return {}
    return record if isinstance(record, dict) else {}


def _geneval_columns(prompts: str | Path, languages: Sequence[str]) -> list[str]:
    if languages:
        return ["prompt" if name == "en" else name for name in languages]
    return ["prompt", *(name for name in _first_record(prompts) if is_language(name) and name != "en")]


def _concepts(tables: Sequence[Table]) -> list[str]:
    """The first column of each row. Raises InputError for one that no file can be named by."""
    concepts = [str(table.source_row(index)[table.present[0]]) for table in tables for index in range(len(table))]
    for row, concept in enumerate(concepts):
        if "/" in concept or "\\" in concept or "\0" in concept:
            raise InputError(
                f"row {row}: images are named by their concept in --layout cococrola, and no file can be called {concept!r}"
            )
    return concepts


def _filled(texts: dict[str, list[str]], path: Path) -> dict[str, list[str]]:
    """Each concept put into its language's template. Raises InputError where there is none, or no place in it."""
    try:
        templates = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as JSON: {first_line(error)}") from None
    filled = {}
    for language, lines in texts.items():
        template = str(templates.get(language, "")) if isinstance(templates, dict) else ""
        place = next((place for place in PLACES if place in template), None)
        if place is None:
            raise InputError(
                f"{path} has no sentence with $$$ for {language!r}: expected a photograph of $$$, or the like"
            )
        filled[language] = [template.replace(place, line) for line in lines]
    return filled
