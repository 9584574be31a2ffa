"""AltCLIP at the published scale: phase 1 on parallel text, phase 2 on images with captions.

    python pipelines/train_altclip.py altclip --texts "texts/*.tsv" --images "pairs/{000..199}.tar"
    accelerate launch --multi_gpu --num_machines 4 --num_processes 32 --machine_rank 0 --main_process_ip host-0 \
        pipelines/train_altclip.py altclip --texts "texts/*.tsv" --images "pairs/{000..199}.tar"

The settings are in pipelines/settings/distill.toml and contrast.toml. Run the same line again to go on after a stop.
"""

import argparse
from pathlib import Path

from altdiffusion.settings import read_settings
from altdiffusion.training.stage_settings import ContrastSettings, DistillSettings, run_stage

SETTINGS = Path(__file__).parent / "settings"

parser = argparse.ArgumentParser(description="AltCLIP, phase 1 and phase 2.")
parser.add_argument("out", type=Path, help="folder for both phases")
parser.add_argument("--texts", nargs="+", required=True, help="parallel text")
parser.add_argument("--images", "--pictures", nargs="+", required=True, help="images with captions")
parser.add_argument("--languages", nargs="+", default=["en", "zh"], help="columns to read, with weights: en zh=2")

if __name__ == "__main__":
    given = parser.parse_args()
    common = {"languages": given.languages, "resume": True}

    phase_1 = common | {"train_data": given.texts, "output_dir": given.out / "phase-1"}
    if not (given.out / "phase-1/model").is_dir():
        phase_1 |= {"teacher_cache": given.out / "teacher-vectors"}
        run_stage("distill", read_settings(DistillSettings, phase_1, SETTINGS / "distill.toml"))

    phase_2 = common | {"train_data": given.images, "output_dir": given.out / "phase-2"}
    phase_2 |= {"model": str(given.out / "phase-1/model"), "image_cache": given.out / "image-features"}
    run_stage("contrast", read_settings(ContrastSettings, phase_2, SETTINGS / "contrast.toml"))
    print(given.out / "phase-2/model")
