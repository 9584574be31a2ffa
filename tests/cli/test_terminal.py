"""What the command line prints: tables of Chinese and English, progress, and no notices of the libraries'."""

import io
import json
import logging
import sys

import pytest

from altdiffusion.cli.terminal import (
    escape_the_unprintable,
    hide_loading,
    print_json,
    print_line,
    print_table,
    say,
    with_progress,
)

SCRIPTS = ["一只猫", "café", "кошка", "قطة", "😀", "한국어", "plain"]


@pytest.mark.parametrize(
    ("message", "is_shown"), [("No LoRA keys associated to CLIPTextModel found", False), ("x", True)]
)
def test_a_lora_of_the_unet_alone_is_nothing_to_warn_of(message, is_shown):
    hide_loading()
    logger = logging.getLogger("diffusers.loaders.lora_base")
    assert bool(logger.filter(logger.makeRecord(logger.name, logging.WARNING, "", 0, message, (), None))) == is_shown


def test_a_chinese_character_is_two_columns_wide(capsys):
    print_table([["", "R@1"], ["太乙", "100.0"], ["[CLIP]", "2.2"], ["  CLIP, published" + "x" * 100, "2"]])
    assert capsys.readouterr().out.splitlines() == [
        " " * 119 + "  R@1",
        "太乙" + " " * 115 + "100.0",
        "[CLIP]" + " " * 115 + "2.2",
        "  CLIP, published" + "x" * 100 + "      2",
    ]


def test_progress_in_a_log_is_a_line_for_each(capsys):
    assert list(with_progress("ab", 2)) == ["a", "b"]
    assert capsys.readouterr().err == "1 of 2 images\n2 of 2 images\n"


def test_progress_on_a_terminal_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert list(with_progress("ab", 2)) == ["a", "b"]
    told = capsys.readouterr().err
    assert "0 of 2 images" in told
    assert "left" in told
    assert "\n" not in told


ENCODINGS = pytest.mark.parametrize("encoding", ["ascii", "gbk", "latin-1", "utf-8"])


def written(encoding, monkeypatch, write):
    """What `write` wrote to standard output and standard error, in this encoding."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n") for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        escape_the_unprintable()
        write()
    for stream in streams:
        stream.flush()
    return [stream.buffer.getvalue().decode(encoding) for stream in streams]


@ENCODINGS
def test_json_is_valid_in_every_encoding(monkeypatch, encoding):
    document = {"prompts": SCRIPTS, "path": "猫.png".encode().decode("ascii", "surrogateescape")}
    out, _ = written(encoding, monkeypatch, lambda: print_json(document))
    assert json.loads(out) == {"prompts": SCRIPTS, "path": "猫.png"}


@ENCODINGS
@pytest.mark.parametrize("word", SCRIPTS)
def test_what_a_terminal_cannot_show_is_escaped(monkeypatch, encoding, word):
    def write():
        print_line(word)
        say(word)
        print_table([[word, "1"]])

    out, err = written(encoding, monkeypatch, write)
    shown = word.encode(encoding, "backslashreplace").decode(encoding)
    assert (out, err) == (f"{shown}\n{shown}  1\n", f"{shown}\n")
