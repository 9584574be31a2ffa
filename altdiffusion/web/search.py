"""A visitor's search in the index that the owner named. Visitors see thumbnails, captions and scores; no path, and no file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from altdiffusion.altclip.image_index import Hit, ImageIndex, query_features
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.data.image_places import thumbnail
from altdiffusion.errors import InputError
from altdiffusion.images import BadImage
from altdiffusion.web import request as checks
from altdiffusion.web import uploads
from altdiffusion.web.limits import Limits
from altdiffusion.web.translations import Refused

SIDE = 320  # of a thumbnail, in pixels
_CAPTION = 300  # characters


@dataclass(frozen=True)
class FoundImage:
    """row: in the index. score: the cosine. path: of its thumbnail, for some hours; None where it can't be opened any more."""

    row: int
    score: float
    caption: str
    path: Path | None


class IndexSearch:
    """An index, the AltCLIP that computed it, and the folder that thumbnails are saved below."""

    def __init__(self, index: ImageIndex, scorer: PromptScorer, folder: Path) -> None:
        self._index, self._scorer, self._folder = index, scorer, folder
        self._root = Path(index.about.root)
        width = scorer.model.config.projection_dim
        if width != index.about.width:
            raise InputError(f"{index.about.model} gives features of width {width}, the index has {index.about.width}")

    @classmethod
    def load(cls, index: Path, folder: Path, device: str | None, allow_pickle: bool) -> IndexSearch:
        """Raises InputError: no index there, its model can't be loaded."""
        opened = ImageIndex.open(index)
        scorer = PromptScorer.from_pretrained(opened.about.model, device=device, allow_pickle=allow_pickle)
        return cls(opened, scorer, folder)

    def __len__(self) -> int:
        return len(self._index)

    def search(self, prompt: Any, image: str | None, top: Any, limits: Limits) -> list[FoundImage]:
        """The best first. image: an uploaded one.

        Raises Refused: neither prompt nor image, a prompt that is too long, too many results, no image that can be read.
        """
        prompt = checks.clean_text(prompt, limits).strip()
        top = checks.check_whole("results", top, 1, limits.results)
        if not prompt and image is None:
            raise Refused("no_search")
        opened = None if image is None else uploads.open_upload(image, limits)
        features = query_features(self._scorer, [prompt] if prompt else [], opened)
        return self._saved(self._index.search(features, top)[0])

    def _saved(self, hits: Sequence[Hit]) -> list[FoundImage]:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        found = []
        for number, hit in enumerate(hits):
            path = folder / f"{number:03}.webp"
            with suppress(BadImage):
                thumbnail(str(hit.columns.get("image_path") or ""), self._root, SIDE).save(path, "WEBP", quality=85)
            caption = " ".join(str(hit.columns.get("caption") or "").split())[:_CAPTION]
            found.append(FoundImage(hit.row, hit.score, caption, path if path.exists() else None))
        return found
