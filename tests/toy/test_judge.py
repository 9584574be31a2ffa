"""The judge: what it learns from renderings, and what it reads off an edge."""

from __future__ import annotations

import pytest

from altdiffusion.toy.glyphs import COLOURS, CONCEPTS, FONT, render
from altdiffusion.toy.judge import judge_background, judge_concepts, own_accuracy, train_judge

needs_font = pytest.mark.skipif(not FONT.is_file(), reason="needs Debian's fonts-noto-color-emoji")
pytestmark = pytest.mark.long


@needs_font
@pytest.mark.parametrize("colour", range(len(COLOURS)))
def test_the_background_is_read_off_the_edge(colour):
    assert judge_background(render(17, colour)) == colour


@needs_font
def test_the_judge_learns_from_renderings_alone():
    judge = train_judge(steps=200, batch=32)
    assert own_accuracy(judge, 500) > 0.02  # chance is 0.003
    assert all(0 <= each < len(CONCEPTS) for each in judge_concepts(judge, [render(3, 1), render(8, 0)]))
