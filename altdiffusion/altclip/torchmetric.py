"""CLIPScore by AltCLIP, as a torchmetrics metric: in any of its languages, on one machine or on many.

    metric = AltCLIPScore("BAAI/AltCLIP-m9")
    metric.update(images, texts)
    metric.compute()                                                  # 0 to 100

    CLIPScore(model_name_or_path=altclip_for_clip_score("mini"))      # the same by torchmetrics' own class

Wants `pip install altdiffusion[metrics]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from altdiffusion.altclip.image_inputs import AnyImages, as_list
from altdiffusion.altclip.model import AltCLIP, AltCLIPProcessor, load_with_processor
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.errors import InputError
from altdiffusion.images import ENDINGS

try:
    from torchmetrics import Metric
except ImportError:
    raise ImportError("AltCLIPScore needs torchmetrics: pip install altdiffusion[metrics]") from None


class AltCLIPScore(Metric):
    """The mean of 100 * cosine over pairs, not below 0: torchmetrics' CLIPScore, with AltCLIP.

    Pairs of an image and a text, in either order, of two images or of two texts. Images as `PromptScorer` takes them, so
    floats lie in [0, 1] (torchmetrics' CLIPScore takes 0 to 255 alone).
    The model stays on the scorer's device, whatever device the metric is moved to. Sums are float64; `set_dtype` changes
    the dtype of the result alone.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 100.0

    total: Tensor
    pairs: Tensor

    def __init__(self, model: PromptScorer | str | Path | None = None, **kwargs: Any) -> None:
        """model: a scorer, or what `PromptScorer.from_pretrained` takes. kwargs: of `torchmetrics.Metric`."""
        super().__init__(**kwargs)
        self.scorer = model if isinstance(model, PromptScorer) else PromptScorer.from_pretrained(model)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("pairs", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, images: AnyImages | Iterable[str], texts: AnyImages | Iterable[str]) -> None:
        """Add pairs: the first of `images` with the first of `texts`, ...

        images: or texts. Strings are the paths of images where each names a file or ends like an image's; else texts.
        texts: or images. Strings are texts; the path of an image is a `pathlib.Path`.
        Raises InputError where their numbers differ, and where images and texts are mixed in one of them.
        """
        source, target = as_list(images), as_list(texts)
        if len(source) != len(target):
            raise InputError(
                f"{len(source)} {_kind(source, True)} and {len(target)} {_kind(target)}, expected pairs, as many of each"
            )
        products = self._features(target, _kind(target)).double() * self._features(source, _kind(source, True))
        self.total += 100 * products.sum().to(self.total.device)
        self.pairs += len(source)

    def compute(self) -> Tensor:
        """A scalar in 0 to 100; higher is better. NaN where nothing was added."""
        return (self.total / self.pairs.to(self.total.device)).clamp(min=0).to(self.dtype)

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """matplotlib's (figure, axes). val: results of `compute` or `forward`, None: the one so far. ax: what to plot on."""
        return self._plot(val, ax)

    def _features(self, items: list[Any], kind: str) -> Tensor:
        return self.scorer.text_features(items) if kind == "texts" else self.scorer.image_features(items)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ()) -> Any:
        """Moves the states. `total` stays float64; on a device without that, Apple's, it stays on the CPU."""
        super()._apply(fn, (*exclude_state, "total"))
        place = "cpu" if self.pairs.device.type == "mps" else self.pairs.device
        self.total, self._defaults["total"] = self.total.to(place), self._defaults["total"].to(place)
        return self


def _kind(items: Sequence[Any], paths: bool = False) -> str:
    """ "images" or "texts". paths: strings may be paths of images. Raises InputError where both are mixed."""
    text = [isinstance(item, str) and not (paths and _is_image_path(item)) for item in items]
    if any(text) and not all(text):
        raise InputError(
            f"got images and texts mixed, a text is {items[text.index(True)][:40]!r}: expected all images or all texts "
            "(a pathlib.Path is always an image, a string among the second ones always a text)"
        )
    return "texts" if any(text) else "images"


def _is_image_path(text: str) -> bool:
    if text.lower().endswith(ENDINGS):
        return True
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # longer than a file's name can be
        return False


def altclip_for_clip_score(
    model: str | Path | None = None, **kwargs: Any
) -> Callable[[], tuple[AltCLIP, AltCLIPProcessor]]:
    """What torchmetrics' `CLIPScore(model_name_or_path=...)` and `clip_score` take to score with AltCLIP.

    model, kwargs: as in `AltCLIP.from_pretrained`. It is loaded when torchmetrics asks for it.
    """
    return lambda: load_with_processor(model, **kwargs)[:2]
