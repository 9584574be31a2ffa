"""Ways to hold a text tower's languages while it learns others, on a small tower: what each way teaches and what it costs.

    python pipelines/compare_extensions.py --out extensions

A tower of two layers learns English, Chinese, Spanish and French from SD-mini's CLIP (train distill), then Japanese, Korean
and Italian by `train extend`, once in each way. The texts are names of things on backgrounds, as mini's are; judged on pairs
of thing and background that no training saw. What is done is kept in --out; started again, it goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AltCLIPTextConfig, AltCLIPTextModel

from altdiffusion.checkpoints.hub import mini_folder
from altdiffusion.errors import TrainingStopped
from altdiffusion.files import new_folder, write_text
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS, read_tokenizer
from altdiffusion.toy.glyphs import BACKGROUNDS, COLOUR_NAMES, COLOURS, CONCEPTS, concept_names, held_out
from altdiffusion.training.stage_settings import STAGES, run_stage

KNOWN, NEW = ["en", "zh", "es", "fr"], ["ja", "ko", "it"]
WAYS: dict[str, dict[str, Any]] = {
    "nothing": {"replay": 0.0},
    "replay 0.25": {"replay": 0.25},
    "replay 0.5": {"replay": 0.5},
    "replay 0.75": {"replay": 0.75},
    "penalty 0.001": {"replay": 0.0, "start_weight": 0.001},
    "penalty 0.01": {"replay": 0.0, "start_weight": 0.01},
    "penalty 0.1": {"replay": 0.0, "start_weight": 0.1},
    "interpolation": {"replay": 0.0, "interpolate": True},
    "replay 0.5, interpolation": {"replay": 0.5, "interpolate": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare ways to hold a text tower's languages.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the data and the towers")
    parser.add_argument("--steps", type=int, default=300, help="of each extension")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), help="these ways")
    options = parser.parse_args()
    out: Path = options.out
    save_data(out / "data")
    save_start(out / "start")
    train("distill", out, out / "known", 600, teacher="sd-mini", student=str(out / "start"), languages=KNOWN)
    rows = []
    for way in options.only:
        folder = out / way.replace(" ", "-").replace(",", "")
        train(
            "extend", out, folder, options.steps, model=str(out / "known/model"), languages=NEW, keep=KNOWN, **WAYS[way]
        )
        rows.append((way, folder))
    print("| held by | learnt, before | learnt, after | held: lost in the mean | lost at most |\n|---|---|---|---|---|")
    for way, folder in rows:
        print(f"| {way} | {' | '.join(figures(folder / 'model/README.md'))} |")


def save_data(folder: Path) -> None:
    """Captions of every sixth thing on all backgrounds, in both forms."""
    if folder.is_dir():
        return
    names = {language: concept_names(language) for language in [*KNOWN, *NEW]}
    lines: dict[bool, list[str]] = {False: [], True: []}
    for concept in range(0, len(CONCEPTS), 6):
        for colour in range(len(COLOURS)):
            for form in range(2):
                texts = {
                    language: BACKGROUNDS[language][form].format(x=each[concept], c=COLOUR_NAMES[language][colour])
                    for language, each in names.items()
                }
                lines[held_out(concept, colour)].append(json.dumps(texts, ensure_ascii=False))
    with new_folder(folder) as aside:
        write_text(aside / "train.jsonl", "\n".join(lines[False]) + "\n")
        write_text(aside / "held-out.jsonl", "\n".join(lines[True]) + "\n")


def save_start(folder: Path) -> None:
    """A text tower that has learnt nothing, with mini's vocabulary."""
    if folder.is_dir():
        return
    tokenizer = read_tokenizer(mini_folder() / "altclip")
    torch.manual_seed(0)
    config = AltCLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS + 3, project_dim=192, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with new_folder(folder) as aside:
        AltCLIPTextModel(config).save_pretrained(aside)
        tokenizer.save_pretrained(aside)


def train(stage: str, out: Path, folder: Path, steps: int, **settings: Any) -> None:
    """Run a public trainer, unless its model is there; what it had begun goes on."""
    if (folder / "model").is_dir():
        return
    common: dict[str, Any] = {
        "train_data": [str(out / "data/train.jsonl")], "validation_data": [str(out / "data/held-out.jsonl")],
        "output_dir": folder, "max_train_steps": steps, "batch_size": 32, "learning_rate": 2e-3, "lr_warmup_steps": 40,
        "adam_beta2": 0.98, "checkpointing_steps": 100, "validation_steps": steps, "logging_steps": 100, "resume": True,
        "data_workers": 1,
    }  # fmt: skip
    settings_class, _ = STAGES[stage]
    try:
        run_stage(stage, settings_class(**common | settings))
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
