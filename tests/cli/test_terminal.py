"""What the command line prints: tables of Chinese and English, progress, and no notices of the libraries'."""

import logging

import pytest

from altdiffusion.cli.terminal import hide_loading, print_table, with_progress


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
