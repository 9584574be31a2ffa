"""`altdiffusion score`: how well each image fits each prompt."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import model_validator

from altdiffusion.cli.flags import command
from altdiffusion.cli.options import ExactSettings, JsonSettings
from altdiffusion.cli.sources import check_image, check_some
from altdiffusion.cli.terminal import hide_loading, print_json, print_table, say
from altdiffusion.errors import InputError
from altdiffusion.files import local_path
from altdiffusion.images import ENDINGS, image_files
from altdiffusion.settings import setting


class ScoreSettings(ExactSettings, JsonSettings):
    """What is scored, and how the scores are printed."""

    images: list[str] = setting(
        ..., "image files, or folders with their subfolders, before --prompt", positional="IMAGE", source="images"
    )
    prompt: list[str] = setting(..., "in any of the model's languages", metavar="P")
    model: str | None = setting(None, "AltCLIP: id on the hub or folder (default: mini)", source="model", metavar="M")
    sort: bool = setting(False, "best image first, by the first prompt")
    as_csv: bool = setting(False, "print comma-separated values, a line an image", flag="csv")

    @model_validator(mode="before")
    @classmethod
    def _images_after_prompts(cls, values: Any) -> Any:
        """`--prompt P IMAGE`: --prompt takes all that follows it, so of those behind the first the images are IMAGE.

        Folders as well, where no other image is given.
        """
        images, prompts = values.get("images") or [], values.get("prompt") or []
        if not isinstance(prompts, list):
            return values
        behind = [word for word in prompts[1:] if _is_image(word) or (not images and _is_folder(word))]
        if not behind:
            return values
        left = [word for index, word in enumerate(prompts) if not index or word not in behind]
        return values | {"images": [*images, *behind], "prompt": left}

    def problems(self) -> list[str]:
        """Standard output takes one of them."""
        return ["--csv: not allowed with --json"] if self.as_csv and self.as_json else []


@command(ScoreSettings)
def score(settings: ScoreSettings) -> None:
    """How well images fit prompts: AltCLIP's cosines, -1 to 1.

    altdiffusion score pictures/ --prompt 猫 --prompt "a dog" --sort
    """
    for prompt in filter(_is_image, settings.prompt):
        say(f"--prompt {prompt}: read as words, though there is an image of that name")
    images = _with_folders(settings.images)
    check_some(images, check_image)
    say("loading ...")
    from altdiffusion.altclip.scorer import PromptScorer
    from altdiffusion.devices import DTYPES

    hide_loading()
    dtype = None if settings.dtype is None else DTYPES[settings.dtype]
    scorer = PromptScorer.from_pretrained(
        settings.model, dtype=dtype, device=settings.device, allow_pickle=settings.allow_pickle
    )
    bad: dict[int, str] = {}
    scores = scorer.score(images, settings.prompt, bad).tolist()
    order = [index for index in range(len(scores)) if index not in bad]
    if settings.sort:
        order.sort(key=lambda index: -scores[index][0])
    if settings.as_json:
        results = [{"image": images[index], "scores": [round(score, 6) for score in scores[index]]} for index in order]
        failed = [{"image": images[index], "reason": reason} for index, reason in bad.items()]
        print_json({"prompts": settings.prompt, "results": results, "failed": failed})
    elif not order:
        pass  # a heading without rows says nothing
    elif settings.as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["image", *settings.prompt])
        writer.writerows([images[index], *(f"{score:.6f}" for score in scores[index])] for index in order)
    else:
        rows = [[images[index], *(f"{score:.4f}" for score in scores[index])] for index in order]
        print_table([["", *settings.prompt], *rows])
    if bad:
        for index, reason in bad.items():
            say(reason if images[index] in reason else f"{images[index]}: {reason}")
        rest = "; the others were scored" if order else ""
        raise InputError(f"{len(bad)} of {len(scores)} images can't be used (above){rest}")


def _with_folders(names: list[str]) -> list[str]:
    """The same with the images of each folder in its place. Raises InputError where one holds none."""
    files: list[str] = []
    for name in names:
        if _is_folder(name):
            inside = image_files(local_path(name), deep=True)
            if not inside:
                raise InputError(f"{local_path(name)} holds no images: expected files that end in {', '.join(ENDINGS)}")
            files += map(str, inside)
        else:
            files.append(name)
    return files


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in ENDINGS and _is(Path.is_file, name)


def _is_folder(name: str) -> bool:
    return _is(Path.is_dir, name)


def _is(kind: Callable[[Path], bool], name: str) -> bool:
    try:
        return kind(local_path(name))
    except InputError:  # what no file system could hold is named with the bad images
        return False
