"""The words and flags of `altdiffusion generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from altdiffusion.altclip.score_kinds import ScoreAs
from altdiffusion.cli.sources import missing
from altdiffusion.errors import InputError
from altdiffusion.generation.flags import ImageFlags, LabelSettings
from altdiffusion.generation.grid import Axis, parse_grid
from altdiffusion.generation.loras import loras_to_load
from altdiffusion.generation.settings import MAX_SEED, ImageSettings
from altdiffusion.images import NOT_WRITTEN, WRITTEN
from altdiffusion.prompt_syntax import expand_choices
from altdiffusion.settings import device_setting, read_settings, setting


class GenerateSettings(ImageFlags, LabelSettings):
    """The flags of an image, those of a run, and the prompts."""

    prompts: list[str] = setting(
        [], "what to generate, in any of the model's languages; {a|b}: every choice", positional="PROMPT"
    )
    prompts_file: Path | None = setting(
        None, "more prompts: .txt, a line each; .csv, .tsv or .jsonl, with any setting of an image as a column",
        source="path", metavar="F",
    )  # fmt: skip
    grid: str | None = setting(
        None, 'every combination, and a contact sheet of them: "steps=10,20 guidance_scale=3,7"', metavar="AXES"
    )
    resume: bool = setting(False, "go on with an interrupted run into the same --out")
    out: Path = setting(Path("pictures"), "folder, or for one image a .png, .jpg or .webp file")
    num_images: int = setting(1, "images of each prompt", minimum=1, maximum=10000)
    batch_size: str = setting(
        "1", "images generated together, 1 to 64; auto: as many as pay off",
        pattern=r"^(auto|[1-9]|[1-5]\d|6[0-4])$", form="1 to 64, or auto", metavar="N|auto",
    )  # fmt: skip
    best_of: int | None = setting(
        None, "generate N of each prompt, keep the --num-images that AltCLIP scores best", minimum=1, maximum=10000
    )
    scorer: str | None = setting(
        None, "that AltCLIP (default: the one that belongs to the model)", source="model", metavar="M"
    )
    score_as: ScoreAs = setting(
        "cosine", "what their scores are: cosine; by the language's calibration percentile, match_percentile, probability",
        metavar="KIND",
    )  # fmt: skip
    device: str | None = device_setting()
    low_memory: bool = setting(False, "little GPU memory: the text tower stays on the CPU")
    optimize: bool = setting(False, "as fast as the device allows; compiles on a GPU")
    as_json: bool = setting(False, "print one JSON document on standard output", flag="json")

    def problems(self) -> list[str]:
        """What `ImageSettings` finds in a prompt with these flags, and what is wrong with the run."""
        problems = []
        if not self.prompts and self.prompts_file is None:
            about = "what to generate, in any of the model's languages; or name a --prompts-file"
            problems.append(f"PROMPT is missing: {about}")
        if self.best_of is not None and self.best_of < self.num_images:
            problems.append(f"--best-of {self.best_of}: expected at least --num-images, {self.num_images}")
        if self.best_of is None and self.score_as != "cosine":
            problems.append("--score-as: says how the best of several are scored, give --best-of N with it")
        if (self.seed or 0) > MAX_SEED - (self.best_of or self.num_images):
            problems.append(f"--seed {self.seed}: expected at most {MAX_SEED} for the last image")
        if self.out.suffix.lower() in NOT_WRITTEN and not self.out.is_dir():
            problems.append(f"--out {self.out}: expected a folder, or a file that ends in {', '.join(WRITTEN)}")
        if self.is_file and self.total > 1:
            problems.append(f"--out {self.out} is one file, but {self.total} images are asked for: give a folder")
        if not missing(type(self), {"lora": self.lora, "lora_dir": self.lora_dir}):  # which is told anyway
            try:
                loras_to_load(self.lora, self.lora_dir, self.prompts, self.prompt_syntax)
            except InputError as error:
                problems.append(str(error))
        try:
            if both := self.said.keys() & {name for axis in self.axes for name in axis.sets}:
                problems.append(f"--grid: {', '.join(sorted(both))} is an axis and a flag: leave one out")
        except InputError as error:
            problems.append(f"--grid: {error}")
        return problems + list(dict.fromkeys(line for prompt in self.prompts for line in self._image_problems(prompt)))

    @property
    def of_run(self) -> dict[str, Any]:
        """Arguments of `generate` that aren't an image's."""
        return {
            "num_images": self.num_images,
            "batch_size": "auto" if self.batch_size == "auto" else int(self.batch_size),
            **{
                name: getattr(self, name)
                for name in ("best_of", "scorer", "score_as", "device", "low_memory", "optimize")
            },
        }

    @property
    def axes(self) -> list[Axis]:
        """Of the grid. Raises InputError."""
        return [] if self.grid is None else parse_grid(self.grid)

    @property
    def is_file(self) -> bool:
        """Whether one image is written to a name, and not into a folder."""
        return self.out.suffix.lower() in WRITTEN and not self.out.is_dir()

    @property
    def total(self) -> int:
        """Images of the prompts, if these have no choices."""
        return len(self.prompts) * self.num_images

    @property
    def is_planned(self) -> bool:
        """Whether the run has a manifest, as what it generates isn't seen from the command alone, or can be resumed."""
        if self.prompts_file or self.grid or self.resume:
            return True
        return self.prompt_syntax != "none" and any(
            len(expand_choices(prompt, lenient=True)) > 1 for prompt in self.prompts
        )

    def _image_problems(self, prompt: str) -> list[str]:
        try:
            return read_settings(ImageSettings, self.of_image | {"prompt": prompt}).loading_problems
        except InputError as error:
            return [str(error)]
