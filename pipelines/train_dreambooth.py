"""DreamBooth on AltDiffusion, with prior preservation: a subject from a few images.

    python pipelines/train_dreambooth.py naruto --instance-dir images --instance-prompt "<鸣人>男孩" --class-prompt "男孩"

The settings are in pipelines/settings/dreambooth.toml; add --lora-rank 16 for a LoRA of a few megabytes.
"""

import argparse
from pathlib import Path

from altdiffusion.settings import read_settings
from altdiffusion.training.stage_settings import DreamBoothSettings, run_stage

SETTINGS = Path(__file__).parent / "settings"

parser = argparse.ArgumentParser(description="DreamBooth on AltDiffusion.")
parser.add_argument("out", type=Path, help="folder for the log, the images of the class and the model")
parser.add_argument("--instance-dir", required=True, help="folder with images of the subject")
parser.add_argument("--instance-prompt", required=True, help="names the subject")
parser.add_argument("--class-prompt", required=True, help="names its class alone")
parser.add_argument("--lora-rank", type=int, default=0, help="0: the whole UNet")

if __name__ == "__main__":
    given = parser.parse_args()
    settings = {name: value for name, value in vars(given).items() if name != "out"}
    if given.lora_rank:
        settings["learning_rate"] = 1e-4  # few weights, which begin at zero
    settings |= {"output_dir": given.out, "class_dir": given.out / "class", "resume": True}
    run_stage("dreambooth", read_settings(DreamBoothSettings, settings, SETTINGS / "dreambooth.toml"))
    print(given.out / "model")
