"""mini's parity certificate and report, beside the truth: a judge that was trained apart says which images are right.

    python pipelines/mini_certificate.py certificate --languages en zh ja ru ar it --every 20

Weakened, as mini leaves nothing to tell apart by itself: sentences that no caption is made of, few steps, no guidance.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import sys
from pathlib import Path

import torch

from altdiffusion import files
from altdiffusion.evaluation.html_report import write_pages
from altdiffusion.evaluation.text_to_image import evaluate_generation, read_results
from altdiffusion.images import open_image
from altdiffusion.toy.glyphs import LANGUAGES
from altdiffusion.toy.judge import Judge, judge_concepts, own_accuracy, train_judge
from altdiffusion.toy.report import PROMPT_KINDS


def main() -> None:
    parser = argparse.ArgumentParser(description="mini's parity certificate, with the judge's truth.")
    parser.add_argument("out", type=Path, help="folder for images, certificate.md, certificate.html and report.html")
    parser.add_argument("--languages", nargs="+", choices=LANGUAGES, default=list(LANGUAGES), help="(default: all)")
    parser.add_argument(
        "--kind", choices=PROMPT_KINDS, default="free prompts", help="of prompts (default: free prompts)"
    )
    parser.add_argument("--every", type=int, default=20, help="every n-th thing only (default: 20)")
    parser.add_argument("--num-images", type=int, default=2, help="of each prompt (default: 2)")
    parser.add_argument("--steps", type=int, default=10, help="denoising steps (default: 10)")
    parser.add_argument("--guidance-scale", type=float, default=1.0, help="1 is none (default: 1)")
    parser.add_argument(
        "--judge", type=Path, help="file of a trained judge, kept there after training (default: OUT/judge.pt)"
    )
    options = parser.parse_args()
    prompts = {language: PROMPT_KINDS[options.kind](language, options.every) for language in options.languages}
    options.out.mkdir(parents=True, exist_ok=True)
    table, truth = options.out / "prompts.csv", options.out / "results.jsonl"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(prompts)
        rows.writerows([prompt.text for prompt in row] for row in zip(*prompts.values(), strict=True))

    settings = {"steps": options.steps, "guidance_scale": options.guidance_scale, "device": "cpu"}
    of_mini = {"languages": options.languages, "num_images": options.num_images, "scorer": "mini"}
    for result in evaluate_generation("mini", table, options.out, **of_mini, **settings):
        print(f"{result.language}: similarity {result.similarity:.4f}, R-precision {result.r_precision}", flush=True)

    judge = load_judge(options.judge or options.out / "judge.pt")
    print(f"the judge names {100 * own_accuracy(judge):.1f} % of unseen renderings right")
    with truth.open("w", encoding="utf-8") as file:
        for result in read_results(options.out):
            paths = [image["path"] for image in result["pictures"]]
            shown = judge_concepts(judge, [open_image(path) for path in paths])
            for image, concept in zip(result["pictures"], shown, strict=True):
                right = concept == prompts[result["language"]][image["row"]].concept
                file.write(json.dumps({"filename": image["path"], "correct": right}) + "\n")
    for _ in evaluate_generation("mini", table, options.out, **of_mini, **settings, truth=[truth]):
        pass
    command = f"python pipelines/mini_certificate.py {shlex.join(sys.argv[1:])}"
    made_by = f"Right: it shows the right thing, by a judge that was trained apart. Made by: {command}"
    print("\n".join(map(str, write_pages(options.out, made_by))))


def load_judge(path: Path) -> Judge:
    """The judge in a file; where there is none it is trained, which takes a minute or two on idle cores."""
    if path.is_file():
        judge = Judge()
        judge.load_state_dict(torch.load(path, weights_only=True))
        return judge.eval()
    judge = train_judge()
    with files.new_file(path) as aside:
        torch.save(judge.state_dict(), aside)
    return judge


if __name__ == "__main__":
    main()
