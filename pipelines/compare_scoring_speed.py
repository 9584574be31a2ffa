"""Scoring speed beside the usual ways, on the same model in one run.

    python pipelines/compare_scoring_speed.py text       # 5,000 captions, half of them Chinese, through XLM-R large
    python pipelines/compare_scoring_speed.py images     # JPEG files of 640 x 480 through ViT-L/14, against 10 prompts

The same as `altdiffusion benchmark --cases captions` and `--cases scoring`, whose flags can follow: `--captions 640`,
`--layers 1 --width 64` for a quick look. On two CPU cores `text` takes most of an hour.
"""

from __future__ import annotations

import sys

from altdiffusion.cli.main import main

CASES = {"text": "captions", "images": "scoring"}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in CASES:
        sys.exit(f"expected one of {', '.join(CASES)}")
    sys.exit(main(["benchmark", "--cases", CASES[sys.argv[1]], *sys.argv[2:]]))
