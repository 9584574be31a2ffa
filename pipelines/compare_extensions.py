"""Ways to hold a text tower's languages while it learns others, on mini: what each way teaches and what it costs.

    python pipelines/compare_extensions.py --out extensions

mini's AltCLIP, which reads nine languages, learns Portuguese and Dutch by `train extend`, once in each way. The texts are names
of things on backgrounds; judged on pairs of thing and background that no training saw. What is done is kept in --out; started
again, it goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from altdiffusion.errors import TrainingStopped
from altdiffusion.files import new_folder, packaged_toml, write_text
from altdiffusion.toy.glyphs import BACKGROUNDS, COLOUR_NAMES, COLOURS, CONCEPTS, LANGUAGES, concept_names, held_out
from altdiffusion.training.stage_settings import STAGES, run_stage

NEW = ["pt", "nl"]
WAYS: dict[str, dict[str, Any]] = {
    "replay 0.5": {"replay": 0.5},
    "nothing": {"replay": 0.0},
    "replay 0.5, bridge": {"replay": 0.5, "bridge": "mini"},
    "penalty 0.01": {"replay": 0.0, "start_weight": 0.01},
    "penalty 0.1": {"replay": 0.0, "start_weight": 0.1},
    "replay 0.25": {"replay": 0.25},
    "replay 0.75": {"replay": 0.75},
    "interpolation": {"replay": 0.0, "interpolate": True},
    "replay 0.5, interpolation": {"replay": 0.5, "interpolate": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare ways to hold a text tower's languages.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the data and the towers")
    parser.add_argument("--steps", type=int, default=300, help="of each extension")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of each extension")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), help="these ways")
    options = parser.parse_args()
    out: Path = options.out
    save_data(out / "data")
    folders = {way: out / way.replace(" ", "-").replace(",", "") for way in options.only}
    for way, folder in folders.items():
        extend(out / "data", folder, max_train_steps=options.steps, learning_rate=options.learning_rate, **WAYS[way])
    print("| held by | learnt, before | learnt, after | held: lost in the mean | lost at most |\n|---|---|---|---|---|")
    for way, folder in folders.items():
        print(f"| {way} | {' | '.join(figures(folder / 'model/README.md'))} |")


def save_data(folder: Path) -> None:
    """Captions of every fourth thing on all backgrounds in both forms; unseen pairs in one, so that no two mean the same."""
    if folder.is_dir():
        return
    further, cldr = (packaged_toml("altdiffusion.toy", f"{name}.toml") for name in ("further_captions", "cldr_names"))
    names = {language: concept_names(language) for language in LANGUAGES} | {new: cldr["names"][new] for new in NEW}
    backgrounds, colours = BACKGROUNDS | further["backgrounds"], COLOUR_NAMES | further["colour_names"]
    lines: dict[bool, list[str]] = {False: [], True: []}
    for concept in range(0, len(CONCEPTS), 4):
        for colour in range(len(COLOURS)):
            unseen = held_out(concept, colour)
            for form in [(concept // 4 + colour) % 2] if unseen else range(2):
                texts = {
                    language: backgrounds[language][form].format(x=each[concept], c=colours[language][colour])
                    for language, each in names.items()
                }
                lines[unseen].append(json.dumps(texts, ensure_ascii=False))
    with new_folder(folder) as aside:
        write_text(aside / "train.jsonl", "\n".join(lines[False]) + "\n")
        write_text(aside / "held-out.jsonl", "\n".join(lines[True]) + "\n")


def extend(data: Path, folder: Path, **settings: Any) -> None:
    """Run the public trainer, unless its model is there; what it had begun goes on."""
    if (folder / "model").is_dir():
        return
    common: dict[str, Any] = {
        "model": "mini", "languages": NEW, "train_data": [str(data / "train.jsonl")],
        "validation_data": [str(data / "held-out.jsonl")], "output_dir": folder, "batch_size": 32, "lr_warmup_steps": 20,
        "adam_beta2": 0.98, "checkpointing_steps": 50, "validation_steps": 10_000, "logging_steps": 50, "resume": True,
        "data_workers": 1,
    }  # fmt: skip
    settings_class, _ = STAGES["extend"]
    try:
        run_stage("extend", settings_class(**common | settings))
    except TrainingStopped as stopped:  # a way that doesn't hold; its model is saved
        print(stopped)


def figures(card: Path) -> list[str]:
    """Of a card's table, in points: R@1 of what was learnt, before and after, and what held languages lost."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.read_text(encoding="utf-8").splitlines()]
    learnt, held = ([list(map(float, row[2:])) for row in rows if row[1:2] == [kind]] for kind in ("learnt", "held"))
    before, after = (sum(row[column] for row in learnt) / len(learnt) for column in (0, 1))
    lost = [row[0] - row[1] for row in held]
    return [f"{value:.1f}" for value in (before, after, sum(lost) / len(lost), max(lost))]


if __name__ == "__main__":
    main()
