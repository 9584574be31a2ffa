"""A bridge from AltCLIP to any Stable Diffusion, from parallel text alone.

    python pipelines/train_bridge.py bridge-sd15 --model stable-diffusion-v1-5 --texts "texts/*.tsv"
    accelerate launch --multi_gpu --num_processes 8 pipelines/train_bridge.py bridge-sd15 --model ... --texts ...

The settings are in pipelines/settings/bridge.toml. The texts should look like prompts: captions with their translations.
"""

import argparse
from pathlib import Path

from altdiffusion.training.settings import read_settings
from altdiffusion.training.stages import BridgeSettings, run_stage

SETTINGS = Path(__file__).parent / "settings"

parser = argparse.ArgumentParser(description="A bridge from AltCLIP to a Stable Diffusion.")
parser.add_argument("out", type=Path, help="folder for the log, the checkpoints and the bridge")
parser.add_argument("--model", required=True, help="Stable Diffusion 1.x, 2.x or XL")
parser.add_argument("--texts", nargs="+", required=True, help="parallel text")
parser.add_argument("--languages", nargs="+", default=[], help="columns to read, with weights: en zh=2; all by default")

if __name__ == "__main__":
    given = parser.parse_args()
    settings = {"model": given.model, "train_data": given.texts, "languages": given.languages, "output_dir": given.out}
    run_stage("bridge", read_settings(BridgeSettings, settings | {"resume": True}, SETTINGS / "bridge.toml"))
    print(given.out / "model")
