"""`altdiffusion search`: images of an index that fit a prompt, or look like an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altdiffusion.cli.flags import command
from altdiffusion.cli.options import ExactSettings, JsonSettings
from altdiffusion.cli.sources import check_model
from altdiffusion.cli.terminal import hide_loading, print_json, print_table, say
from altdiffusion.errors import InputError
from altdiffusion.files import local_path
from altdiffusion.settings import setting

if TYPE_CHECKING:
    from altdiffusion.altclip.image_index import Hit, ImageIndex
    from altdiffusion.cli.search_page import Found

SHOWN_CAPTION = 60  # characters in the terminal


class SearchSettings(ExactSettings, JsonSettings):
    """What is looked for, and how it is shown."""

    index: Path = setting(..., "folder that `batch index` wrote", positional="INDEX", source="path")
    prompts: list[str] = setting([], "a search each, in any of the model's languages", positional="PROMPT")
    image: str | None = setting(
        None, "look for images like it; with prompts, for the mean of both", source="image", metavar="F"
    )
    top: int = setting(10, "the N best", minimum=1)
    model: str | None = setting(
        None, "AltCLIP: id on the hub or folder (default: the one of the index)", source="model", metavar="M"
    )
    root: Path | None = setting(
        None, "folder that relative paths of images start from (default: as the index has it)", source="path"
    )
    html: Path | None = setting(None, "write the images found into this page, which needs no file beside it")
    sheet: Path | None = setting(None, "write them as one image, a .png", metavar="F")

    def problems(self) -> list[str]:
        problems = []
        if not self.prompts and self.image is None:
            problems.append("nothing to look for: expected PROMPT, or --image F")
        if any(not prompt.strip() for prompt in self.prompts):
            problems.append("PROMPT is empty: expected words that an image can fit")
        for flag, path, endings in (("--html", self.html, (".html", ".htm")), ("--sheet", self.sheet, (".png",))):
            if path is not None and (path.suffix.lower() not in endings or not path.parent.is_dir()):
                problems.append(f"{flag} {path}: expected a file that ends in {endings[0]}, in a folder that is there")
        if self.html is None and self.sheet is None and (unused := self.changed("root")):
            problems.append(f"{unused}: only with --html or --sheet, as no image is opened else")
        return problems


@command(SearchSettings)
def search(settings: SearchSettings) -> None:
    """Images of an index that fit a prompt, best first; the score is AltCLIP's cosine, -1 to 1.

    altdiffusion search index 一只猫 "a dog on the beach" --html found.html
    altdiffusion search index --image cat.jpg --top 50 --json
    """
    from altdiffusion.altclip.image_index import ImageIndex, query_features

    index = ImageIndex.open(settings.index)
    scorer = _load_scorer(settings, index)
    image = None if settings.image is None else local_path(settings.image)
    found = index.search(query_features(scorer, settings.prompts, image), settings.top)
    names = [f"{prompt} + {image.name}" if image else prompt for prompt in settings.prompts] or [str(settings.image)]
    if settings.as_json:
        _print_json(settings, index, found)
    else:
        _print(names, found)
    if settings.html is not None or settings.sheet is not None:
        _show(settings, index, list(zip(names, found, strict=True)))


def _load_scorer(settings: SearchSettings, index: ImageIndex) -> Any:
    """The AltCLIP of the index, or another one of the same width. Raises InputError."""
    name = settings.model or index.about.model
    check_model(name)
    say("loading ...")
    from altdiffusion.altclip.scorer import PromptScorer

    hide_loading()
    scorer = PromptScorer.from_pretrained(
        name, dtype=settings.dtype, device=settings.device, allow_pickle=settings.allow_pickle
    )
    width = scorer.model.config.projection_dim
    if width != index.about.width:
        raise InputError(
            f"{name} gives features of width {width}, {settings.index} has {index.about.width}: "
            f"search it by the model that computed it, {index.about.model}"
        )
    if name != index.about.model:
        say(f"{settings.index} was computed by {index.about.model}: what {name} finds in it may not fit")
    return scorer


def _print_json(settings: SearchSettings, index: ImageIndex, found: Sequence[Sequence[Hit]]) -> None:
    queries: list[str | None] = [*settings.prompts] or [None]
    print_json(
        {
            "index": str(settings.index),
            "model": settings.model or index.about.model,
            "kind": index.about.kind,
            "searches": [
                {
                    "prompt": prompt,
                    "image": settings.image,
                    "results": [{"row": hit.row, "score": round(hit.score, 6), **_own(hit)} for hit in hits],
                }
                for prompt, hits in zip(queries, found, strict=True)
            ],
        }
    )


def _own(hit: Hit) -> dict[str, Any]:
    return {name: value for name, value in hit.columns.items() if name not in ("row", "score")}


def _print(names: Sequence[str], found: Sequence[Sequence[Hit]]) -> None:
    for name, hits in zip(names, found, strict=True):
        rows = [[place_of(hit), f"{hit.score:.3f}", caption_of(hit)[:SHOWN_CAPTION]] for hit in hits]
        print_table([[name, "cosine", "caption"], *rows])


def place_of(hit: Hit) -> str:
    """Where the image lies; "row 17" where the data set doesn't say it."""
    return str(hit.columns.get("image_path") or f"row {hit.row}")


def caption_of(hit: Hit) -> str:
    """In one line."""
    return " ".join(str(hit.columns.get("caption", "")).split())


def _show(settings: SearchSettings, index: ImageIndex, searches: Sequence[tuple[str, Sequence[Hit]]]) -> None:
    """Read the images found, and write them where they are asked for."""
    from altdiffusion.cli import search_page

    root = settings.root or Path(index.about.root)
    missing: Counter[str] = Counter()
    shown: list[tuple[str, list[Found]]] = []
    for name, hits in searches:
        found = [search_page.read_image(hit.score, place_of(hit), caption_of(hit), root) for hit in hits]
        missing.update(each.defect for each in found if each.image is None)
        shown.append((name, found))
    if missing:
        total = sum(len(found) for _, found in shown)
        reasons = "; ".join(f"{reason} ({count:,})" for reason, count in missing.most_common(5))
        say(f"{missing.total():,} of {total:,} images can't be shown: {reasons}; relative paths start from {root}")
    if settings.html is not None:
        search_page.write_page(settings.html, f"{settings.index}, {index.about.model}", shown)
        say(f"written to {settings.html}")
    if settings.sheet is not None:
        search_page.write_sheet(settings.sheet, str(settings.index), shown)
        say(f"written to {settings.sheet}")
