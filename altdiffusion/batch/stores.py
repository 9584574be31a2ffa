"""Files that lie in stores, such as S3, read by fsspec (each store needs a library of its own), and parquet files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from altdiffusion.errors import InputError, first_line
from altdiffusion.images import BadImage

MAX_IMAGE = 2**28  # bytes of one that is fetched


def is_url(name: str) -> bool:
    """Whether a name is for fsspec: s3://bucket/0001.tar."""
    return "://" in name


@contextmanager
def local_copy(name: str) -> Iterator[Path]:
    """A file of a store beside us, as long as it is read; a local one is itself. Raises InputError."""
    if not is_url(name):
        yield Path(name)
        return
    import fsspec

    with tempfile.TemporaryDirectory(prefix="altdiffusion-") as folder:
        copy = Path(folder) / (name.rpartition("/")[2].partition("?")[0] or "file")
        try:
            with fsspec.open(name, "rb") as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target, 2**22)
        except Exception as error:  # whatever a store's own library raises
            raise InputError(f"{name} can't be fetched: {first_line(error)}") from None
        yield copy


def fetch_image(url: str, allowed: Collection[str]) -> bytes:
    """The bytes that a URL in the data names. Raises BadImage: its kind isn't among those allowed, it can't be had."""
    kind = url.partition("://")[0].lower()
    if kind not in allowed:
        raise BadImage(f"{kind}:// isn't fetched unless --fetch {kind} says so")
    import fsspec

    try:
        with fsspec.open(url, "rb") as source:
            content: bytes = source.read(MAX_IMAGE + 1)
    except Exception as error:  # whatever a store's own library raises
        raise BadImage(f"can't be fetched ({type(error).__name__})") from None
    if len(content) > MAX_IMAGE:
        raise BadImage(f"larger than {MAX_IMAGE >> 20} MB")
    return content


@contextmanager
def parquet_file(path: Path) -> Iterator[Any]:
    """A pyarrow.parquet.ParquetFile. Raises InputError where pyarrow is missing, or the file isn't whole."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError('parquet is read and written by pyarrow: pip install "altdiffusion[batch]"') from None
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is no parquet file that is whole: {first_line(error)}") from None
