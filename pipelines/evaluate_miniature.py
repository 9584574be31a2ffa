"""The table of AltCLIP's model card in miniature: what each phase gives, in nine languages.

    python pipelines/evaluate_miniature.py mini-build --format markdown

mini-build: the folder of pipelines/build_mini.py, of which the English teacher, phase 1 and phase 2 are compared on
images of all 316 things, five captions each, as Flickr30k has them.
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
from dataclasses import replace
from pathlib import Path

from altdiffusion.cli.evaluate import print_recalls
from altdiffusion.evaluation.datasets.captioned import read_captions
from altdiffusion.evaluation.retrieval import evaluate_retrieval
from altdiffusion.evaluation.systems.load import load_system
from altdiffusion.toy import glyphs
from altdiffusion.toy.glyphs import CONCEPTS, LANGUAGES

PHASES = {"teacher": "CLIP, English only", "phase-1": "AltCLIP, phase 1", "phase-2": "AltCLIP, phase 2"}


def main() -> None:
    parser = argparse.ArgumentParser(description="The model card's table in miniature.")
    parser.add_argument("build", type=Path, help="folder of pipelines/build_mini.py")
    parser.add_argument(
        "--languages", nargs="+", default=LANGUAGES, help="of en zh es fr ru ja ko ar it (default: all)"
    )
    parser.add_argument("--format", choices=("text", "markdown", "csv", "json"), default="text")
    options = parser.parse_args()
    systems = {title: load_system(options.build / phase / "model") for phase, title in PHASES.items()}
    results = []
    with tempfile.TemporaryDirectory() as folder:
        save_data(Path(folder), options.languages)
        for language in options.languages:
            data = replace(read_captions(Path(folder) / f"{language}.csv", language=language), name="316 things")
            for (title, _), result in zip(systems.items(), evaluate_retrieval(systems.values(), data), strict=True):
                results.append(replace(result, system=title))
    print_recalls(results, options.format)


def save_data(folder: Path, languages: list[str]) -> None:
    """An image of each thing on white, and a file of captions for each language."""
    names = {language: glyphs.concept_names(language) for language in languages}
    for concept in range(len(CONCEPTS)):
        glyphs.render(concept, 0).save(folder / f"{concept:03d}.png")
    for language in languages:
        rng = random.Random(0)
        with (folder / f"{language}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "caption"])
            for concept in range(len(CONCEPTS)):
                for _ in range(5):
                    rows.writerow([f"{concept:03d}.png", glyphs.captions(concept, 0, names, rng)[language]])


if __name__ == "__main__":
    main()
