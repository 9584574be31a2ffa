"""AltDiffusion at the published scale: a Stable Diffusion learns AltCLIP in three stages.

    python pipelines/train_altdiffusion.py out --model stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --text-encoder altclip/phase-2/model --images "pairs/{000..199}.tar"
    accelerate launch --multi_gpu --num_machines 8 --num_processes 64 ... pipelines/train_altdiffusion.py out ...

K and V at 256², the whole UNet at 512², then with captions dropped for guidance: the settings are in
pipelines/settings/align-*.toml. Run the same line again to go on after a stop.
"""

import argparse
from pathlib import Path

from altdiffusion.settings import read_settings
from altdiffusion.training.stage_settings import AlignSettings, run_stage

SETTINGS = Path(__file__).parent / "settings"

parser = argparse.ArgumentParser(description="AltDiffusion, in three stages.")
parser.add_argument("out", type=Path, help="folder for the stages")
parser.add_argument("--model", required=True, help="the Stable Diffusion to start from")
parser.add_argument("--text-encoder", required=True, help="the AltCLIP that it learns")
parser.add_argument("--images", "--pictures", nargs="+", required=True, help="images with captions")
parser.add_argument("--languages", nargs="+", default=[], help="columns to read, with weights: en zh=2; all by default")

if __name__ == "__main__":
    given = parser.parse_args()
    start = {"model": given.model, "text_encoder": given.text_encoder}
    for stage in ("align-1-concepts", "align-2-quality", "align-3-guidance"):
        out = given.out / stage
        settings = {"train_data": given.images, "languages": given.languages, "output_dir": out, "resume": True}
        if not (out / "model").is_dir():
            run_stage("align", read_settings(AlignSettings, settings | start, SETTINGS / f"{stage}.toml"))
        start = {"model": str(out / "model")}
    print(start["model"])
