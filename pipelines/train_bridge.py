"""A bridge from AltCLIP to any Stable Diffusion, from parallel text alone.

    python pipelines/train_bridge.py bridge-sd15 --model stable-diffusion-v1-5/stable-diffusion-v1-5 --texts "texts/*.tsv"
    accelerate launch --multi_gpu --num_processes 8 pipelines/train_bridge.py bridge-sd15 --model ... --texts ...

First AltCLIP's states become soft tokens that CLIP reads as the English text, then the error counts as the frozen UNet sees
it, too: the settings are in pipelines/settings/bridge-*.toml. The texts should look like prompts: captions with their
translations. Run the same line again to go on after a stop.
"""

import argparse
from pathlib import Path

from altdiffusion.settings import read_settings
from altdiffusion.training.stage_settings import BridgeSettings, run_stage

SETTINGS = Path(__file__).parent / "settings"

parser = argparse.ArgumentParser(description="A bridge from AltCLIP to a Stable Diffusion, in two stages.")
parser.add_argument("out", type=Path, help="folder for the stages")
parser.add_argument("--model", required=True, help="Stable Diffusion 1.x, 2.x or XL")
parser.add_argument("--texts", nargs="+", required=True, help="parallel text")
parser.add_argument("--languages", nargs="+", default=[], help="columns to read, with weights: en zh=2; all by default")

if __name__ == "__main__":
    given = parser.parse_args()
    settings = {"model": given.model, "train_data": given.texts, "languages": given.languages, "resume": True}
    trained = {}
    for stage in ("bridge-1-states", "bridge-2-unet"):
        out = given.out / stage
        if not (out / "model").is_dir():
            own = settings | trained | {"output_dir": out}
            run_stage("bridge", read_settings(BridgeSettings, own, SETTINGS / f"{stage}.toml"))
        trained = {"bridge": str(out / "model")}
    print(trained["bridge"])
