"""What the command line prints: notes on standard error, results on standard output, on terminals of any encoding."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

from altdiffusion.errors import spelled_out
from altdiffusion.files import as_json, as_utf8

T = TypeVar("T")


def escape_the_unprintable() -> None:
    """From now on both streams print \\u732b for what their encoding lacks, as GBK and ASCII do, and no print raises."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def hide_loading(steps: bool = True) -> None:
    """The libraries' bars and notices while they load; their warnings stay.

    steps: whether the bar of each image's steps stays, on a terminal; in a log it is an endless line.
    """
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    if not (steps and sys.stderr.isatty()):
        diffusers.DiffusionPipeline.set_progress_bar_config(diffusers.DiffusionPipeline, disable=True)  # of all to come
    logging.getLogger("diffusers.utils.deprecation_utils").setLevel(logging.ERROR)
    logging.getLogger("diffusers.loaders.lora_base").addFilter(_is_no_lora_of_the_unet_alone)


def _is_no_lora_of_the_unet_alone(record: logging.LogRecord) -> bool:
    """Most LoRAs have no half for the text encoder, which diffusers warns of."""
    return not record.getMessage().startswith("No LoRA keys associated")


def _shown(line: str) -> str:
    """As a terminal shows it, whatever an image or a file has put into it."""
    return spelled_out(as_utf8(line), but="\n\t")


def say(line: str) -> None:
    """A note for the person, on standard error."""
    with tqdm.external_write_mode():  # above the progress line
        print(_shown(line), file=sys.stderr, flush=True)


def print_line(line: str) -> None:
    """A result, on standard output."""
    with tqdm.external_write_mode():
        print(_shown(line), flush=True)


def print_json(document: Any) -> None:
    """One JSON document on standard output; what the terminal can't show is escaped as JSON has it."""
    print(as_json(document, sys.stdout.encoding or "utf-8"))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Rows of equally many cells as columns, the first to the left, the others to the right, however wide they are."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for index in range(len(rows[0])):
        table.add_column(justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(as_utf8(cell)) for cell in row))
    console = Console(width=10_000)
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), flush=True)


@contextmanager
def counting(total: int, unit: str = "images") -> Iterator[Callable[[int], object]]:
    """A function to be told how many more are done: "3,000 of 100,000 images, 31/s, 52:10 left", in one line on a terminal.

    In a log a line is said every ten seconds.
    """
    if sys.stderr.isatty():
        form = f"{{n_fmt}} of {{total_fmt}} {unit} |{{bar}}| {{rate_fmt}}, {{remaining}} left"
        with tqdm(total=total, unit="", bar_format=form, disable=False, leave=False) as bar:
            yield bar.update
        return
    done, began = 0, time.monotonic()
    said = began

    def update(count: int) -> None:
        nonlocal done, said
        done, now = done + count, time.monotonic()
        if now - said >= _LOG_SECONDS and done:
            said, rate = now, done / (now - began)
            left = tqdm.format_interval((total - done) / rate)
            say(f"{done:,} of {total:,} {unit}, {rate:.3g}/s, {left} left")

    yield update


_LOG_SECONDS = 10  # between the lines of progress in a log


def with_progress(items: Iterable[T], total: int, unit: str = "images") -> Iterator[T]:
    """The same, saying how many are done: "3 of 16 images, 00:41 left", in one line on a terminal, in lines in a log."""
    if not sys.stderr.isatty():
        for count, item in enumerate(items, 1):
            yield item
            say(f"{count} of {total} {unit}")
        return
    form = f"{{n_fmt}} of {{total_fmt}} {unit} |{{bar}}| {{remaining}} left"
    yield from tqdm(items, total=total, bar_format=form, disable=False, leave=False)
