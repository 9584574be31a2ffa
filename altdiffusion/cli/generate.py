"""`altdiffusion generate`: images from prompts."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from altdiffusion.checkpoints.hub import MINI
from altdiffusion.cli.flags import command, subset_of
from altdiffusion.cli.options import device_setting
from altdiffusion.cli.terminal import hide_loading, print_json, print_line, say, with_progress
from altdiffusion.errors import InputError
from altdiffusion.files import local_path
from altdiffusion.generation.loras import loras_to_load
from altdiffusion.generation.settings import MAX_SEED, ImageSettings, settings_with
from altdiffusion.images import NOT_WRITTEN, WRITTEN
from altdiffusion.settings import read_settings, setting

MINI_NOTE = (
    "mini: the model inside this package generates small images of 316 things, from nine languages; "
    "for a large one: --model BAAI/AltDiffusion-m9"
)
ImageFlags: Any = subset_of(ImageSettings, settings_with("metavar"), group="Image")


class GenerateSettings(ImageFlags):
    """The flags of an image, those of a run, and the prompts."""

    prompts: list[str] = setting(..., "what to generate, in any of the model's languages", positional="PROMPT")
    size: str | None = setting(
        None, "pixels, multiples of 8 (default: the model's own)",
        pattern=r"^\d+[xX]\d+$", form="WIDTHxHEIGHT, such as 512x512", metavar="WxH",
    )  # fmt: skip
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
    device: str | None = device_setting()
    low_memory: bool = setting(False, "little GPU memory: the text tower stays on the CPU")
    optimize: bool = setting(False, "as fast as the device allows; compiles on a GPU")
    as_json: bool = setting(False, "print one JSON document on standard output", flag="json")

    def problems(self) -> list[str]:
        """What `ImageSettings` finds in a prompt with these flags, and what is wrong with the run."""
        problems = []
        if self.best_of is not None and self.best_of < self.num_images:
            problems.append(f"--best-of {self.best_of}: expected at least --num-images, {self.num_images}")
        if (self.seed or 0) > MAX_SEED - (self.best_of or self.num_images):
            problems.append(f"--seed {self.seed}: expected at most {MAX_SEED} for the last image")
        if self.out.suffix.lower() in NOT_WRITTEN and not self.out.is_dir():
            problems.append(f"--out {self.out}: expected a folder, or a file that ends in {', '.join(WRITTEN)}")
        if self.is_file and self.total > 1:
            problems.append(f"--out {self.out} is one file, but {self.total} images are asked for: give a folder")
        try:
            loras_to_load(self.lora, self.lora_dir, self.prompts, self.prompt_syntax)
        except InputError as error:
            problems.append(str(error))
        return problems + list(dict.fromkeys(line for prompt in self.prompts for line in self._image_problems(prompt)))

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Width and height."""
        if self.size is None:
            return None
        width, height = self.size.lower().split("x")
        return int(width), int(height)

    @property
    def is_file(self) -> bool:
        """Whether one image is written to a name, and not into a folder."""
        return self.out.suffix.lower() in WRITTEN and not self.out.is_dir()

    @property
    def total(self) -> int:
        """Images that are written."""
        return len(self.prompts) * self.num_images

    def _image_problems(self, prompt: str) -> list[str]:
        values: dict[str, Any] = {name: getattr(self, name) for name in ImageFlags.model_fields}
        values["width"], values["height"] = self.pixels or (None, None)
        try:
            return read_settings(ImageSettings, values | {"prompt": prompt}).loading_problems
        except InputError as error:
            return [str(error)]


@command(GenerateSettings)
def generate(settings: GenerateSettings) -> None:
    """Images from prompts, with prompt and settings inside.

    altdiffusion generate "一只猫" "a cat" --num-images 4 --seed 1
    altdiffusion generate "a castle" --model BAAI/AltDiffusion-m9 --allow-pickle --out castle.png
    """
    _check_writable(settings)
    say("loading ...")
    started = time.monotonic()
    from altdiffusion.generation import generate as library
    from altdiffusion.generation.result import free_path, save_image

    hide_loading(steps=settings.total == 1)
    flags = {name: getattr(settings, name) for name in ImageFlags.model_fields}
    flags |= {name: getattr(settings, name) for name in ("num_images", "best_of", "scorer", "device")}
    generated = library.generate(
        settings.prompts,
        size=settings.pixels,
        batch_size="auto" if settings.batch_size == "auto" else int(settings.batch_size),
        low_memory=settings.low_memory,
        optimize=settings.optimize,
        **(flags | {"allow_pickle": bool(settings.allow_pickle)}),
    )
    results: list[dict[str, Any]] = []
    for image in with_progress(generated, settings.total) if settings.total > 1 else generated:
        if not results:
            _say_about(settings.model)
        path = settings.out if settings.is_file else free_path(settings.out, image.settings)
        save_image(image, path)
        results.append({"path": str(path), "filtered": image.filtered, **dict(image.settings)})
        if image.filtered:
            say(f"{path} is black: the safety checker found something in the image")
        if not settings.as_json:
            score = "" if image.settings.score is None else f"  {image.settings.score:.4f}"
            print_line(f"{path}{score}")
    if settings.as_json:
        print_json({"pictures": results, "seconds": round(time.monotonic() - started, 2)})


def _say_about(model: str | None) -> None:
    if model in (None, MINI):
        say(MINI_NOTE)
    elif model.startswith("BAAI/"):
        say("BAAI's weights are under CreativeML OpenRAIL-M, whose use restrictions bind you")


def _check_writable(settings: GenerateSettings) -> None:
    """Say before anything is loaded that images could not be written."""
    folder = local_path(settings.out.parent if settings.is_file else settings.out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file: expected a folder")
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise InputError(
            f"--out {folder} can't be written ({existing}: {error.strerror}): pick another folder"
        ) from None
