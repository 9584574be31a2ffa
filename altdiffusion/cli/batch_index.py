"""`altdiffusion batch index`: features become an index that `altdiffusion search` reads."""

from __future__ import annotations

from pathlib import Path

from altdiffusion.altclip.image_index import IndexAbout, IndexKind, IndexOf
from altdiffusion.cli.flags import command
from altdiffusion.cli.options import JsonSettings
from altdiffusion.cli.terminal import counting, print_json, print_line, say
from altdiffusion.settings import setting


class IndexSettings(JsonSettings):
    """What is indexed, and how."""

    features: Path = setting(
        ..., "folder that `batch embed` wrote, or clip-retrieval: img_emb, text_emb, metadata", positional="FEATURES",
        source="path",
    )  # fmt: skip
    out: Path = setting(..., "new folder", positional="INDEX")
    kind: IndexKind | None = setting(
        None, "exact compares every row, ivf the nearest lists of them, ivf-sq8 in half the memory, hnsw is a graph "
        "(default: exact to 100,000 rows, ivf to 5,000,000, then ivf-sq8)",
    )  # fmt: skip
    of: IndexOf | None = setting(None, "whose features are searched (default: images, where there are any)")
    model: str | None = setting(
        None, "AltCLIP that computed them, where FEATURES doesn't say it: id on the hub or folder", source="model",
        metavar="M",
    )  # fmt: skip
    root: Path | None = setting(
        None, "folder that relative paths of images start from (default: the one you are in)", source="path"
    )


@command(IndexSettings)
def index(settings: IndexSettings) -> None:
    """An index of features, for `altdiffusion search` and `altdiffusion demo --index`.

    altdiffusion batch index features index
    """
    from altdiffusion.batch.index import as_document, build_index

    about = build_index(
        settings.features, settings.out, kind=settings.kind, of=settings.of, model=settings.model, root=settings.root,
        counting=counting, say=say,
    )  # fmt: skip
    if settings.as_json:
        print_json(as_document(about, settings.out))
    else:
        say(_described(about))
        print_line(str(settings.out))


def _described(about: IndexAbout) -> str:
    line = f"{about.count:,} {about.of} by {about.model}, {about.width} wide; kind {about.kind}"
    if not about.recall:
        return line
    found = ", ".join(f"{recall:.1%} by {name}" for name, recall in about.recall.items())
    return f"{line}, depth {about.depth}: of the 10 best by an exact search, it finds {found}, on a sample"
