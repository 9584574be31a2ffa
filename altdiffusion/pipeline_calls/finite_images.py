"""Which images of a pipeline came out as NaN: they are black once they are saved, and 8 bits don't show why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

ADVICE = "the model's numbers overflowed; take float32 or bfloat16, and where that doesn't help, other weights: these are damaged"


@contextmanager
def watch_finite(pipe: Any) -> Iterator[list[bool]]:
    """While it lasts, the list says of each image that the pipeline gave last whether it is finite."""
    processor = pipe.image_processor
    finite: list[bool] = []
    pipe.image_processor = _Watched(processor, finite)
    try:
        yield finite
    finally:
        pipe.image_processor = processor


class _Watched:
    """A pipeline's image processor that notes in `finite` what it is given."""

    def __init__(self, processor: Any, finite: list[bool]) -> None:
        self._processor, self._finite = processor, finite

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def postprocess(self, image: Tensor, *arguments: Any, **options: Any) -> Any:
        self._finite[:] = image.isfinite().flatten(1).all(1).tolist()
        if not all(self._finite):
            image = image.nan_to_num()  # else NumPy warns
        return self._processor.postprocess(image, *arguments, **options)
