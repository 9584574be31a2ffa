"""`evaluate mini`: what is asked, and how the answers are counted."""

from __future__ import annotations

import random
import re

import pytest
import torch
from PIL import Image

from altdiffusion.toy import report
from altdiffusion.toy.glyphs import (
    COLOUR_NAMES,
    COLOURS,
    CONCEPTS,
    FONT,
    FREE_PROMPTS,
    LANGUAGES,
    SPACELESS,
    captions,
    concept_names,
    filler_words,
    framed,
    held_out,
    render,
    wordy,
)
from altdiffusion.toy.judge import Judge, judge_background, judge_concepts, own_accuracy, train_judge

needs_font = pytest.mark.skipif(not FONT.is_file(), reason="needs Debian's fonts-noto-color-emoji")


class Painter:
    """A pipeline that draws what it is told, whatever the prompt."""

    def __init__(self, pictures: dict[str, Image.Image]) -> None:
        self.pictures = pictures

    def set_progress_bar_config(self, **kwargs: object) -> None:
        pass

    def __call__(self, prompts: list[str], **kwargs: object) -> object:
        return type("Output", (), {"images": [self.pictures[prompt] for prompt in prompts]})


def perfect_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {render(i, c).tobytes(): i for i in range(0, len(CONCEPTS), 40) for c in range(len(COLOURS))}
    monkeypatch.setattr(
        report, "judge_concepts", lambda judge, pictures: [known.get(p.tobytes(), -1) for p in pictures]
    )


@needs_font
def test_right_pictures_are_right_and_others_are_not(monkeypatch):
    perfect_judge(monkeypatch)
    asked = report._names("zh", 40)
    pictures = {each.prompt: render(each.concept, each.colour) for each in asked}
    pictures[asked[0].prompt] = render(asked[1].concept, 3)  # another thing, on another background
    figures = list(report.drawing_figures("it", Painter(pictures), Judge(), ["zh"], 40, 2, kinds=["names"]))
    share = 100 * (len(asked) - 1) / len(asked)
    assert [(each.what, each.language) for each in figures] == [
        ("it: names, right thing", "zh"),
        ("it: names, right background", "zh"),
    ]
    assert [each.value for each in figures] == pytest.approx([share, share])


@needs_font
def test_a_style_is_taken_off_before_it_is_judged(monkeypatch):
    perfect_judge(monkeypatch)
    pictures = {each.prompt: framed(render(each.concept, each.colour)) for each in report._names("en", 40)}
    figures = report.drawing_figures("it", Painter(pictures), Judge(), ["en"], 40, 2, in_frame=True, kinds=["names"])
    assert [(each.what, each.value) for each in figures] == [
        ("it: names, style kept", 100),
        ("it: names, right thing", 100),
        ("it: names, right background", 100),
    ]


@needs_font
def test_a_picture_in_the_old_style_has_lost_it(monkeypatch):
    perfect_judge(monkeypatch)
    pictures = {each.prompt: render(each.concept, each.colour) for each in report._names("en", 40)}
    kept, *_ = report.drawing_figures("it", Painter(pictures), Judge(), ["en"], 40, 2, in_frame=True, kinds=["names"])
    assert kept.value == 0


class Rising:
    """Every second drawing of a prompt shows another thing; the scorer likes the one that it is told."""

    def __init__(self, liked: int) -> None:
        self.liked = liked

    def rank(self, images: list[Image.Image], prompt: str) -> list[tuple[int, float]]:
        return [(min(self.liked, len(images) - 1), 1.0)]


@needs_font
@pytest.mark.parametrize(("liked", "shares"), [(0, [0, 0, 0]), (1, [0, 100, 100]), (7, [0, 100, 100]), (2, [0, 0, 0])])
def test_the_best_of_several_is_the_one_that_the_scorer_likes(monkeypatch, liked, shares):
    """Of 8 drawings, every second one is right."""
    asked = report._unseen_pairs("en", 40)
    monkeypatch.setattr(report, "draw", lambda pipe, prompts, **options: list(range(len(prompts))))
    monkeypatch.setattr(
        report, "judge_concepts", lambda judge, drawn: [asked[i // 8].concept if i % 2 else -1 for i in drawn]
    )
    figures = report.best_of_figures(Painter({}), Rising(liked), Judge(), ["en"], 40)
    assert [each.value for each in figures] == shares


@pytest.mark.parametrize("language", LANGUAGES)
def test_pairs_never_seen_together_are_those_held_out_of_training(language):
    asked = report._unseen_pairs(language, 1)
    assert {(each.concept, each.colour) for each in asked} == {
        (i, c) for i in range(len(CONCEPTS)) for c in range(len(COLOURS)) if held_out(i, c)
    }
    assert len({each.prompt for each in asked}) == len(asked)


def test_free_prompts_are_sentences_that_no_caption_is():
    names = {language: concept_names(language) for language in LANGUAGES}
    rng = random.Random(0)
    seen = {caption for _ in range(300) for caption in captions(4, 0, names, rng).values()}
    asked = {each.prompt for language in LANGUAGES for each in report._free_prompts(language, 1)}
    assert len(seen) > 1000
    assert not seen & asked


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_around_a_caption_name_nothing_and_are_in_no_free_prompt(language):
    words = filler_words(language)
    assert len(set(words)) == len(words) > 1000
    known = " ".join([*concept_names(language), *COLOUR_NAMES[language], *FREE_PROMPTS[language]]).lower()
    if language in SPACELESS:
        assert not [word for word in words if word in known]
        assert not [word for word in words for name in concept_names(language) if name in word]
    else:
        assert not set(words) & set(re.findall(r"[^\W\d_]+", known))


def test_a_wordy_caption_holds_the_plain_one_among_up_to_six_words():
    rng, words = random.Random(0), ["um", "dois", "três"]
    texts = [wordy("a cat", words, rng) for _ in range(500)]
    assert all("a cat" in text and set(text.replace("a cat", "").strip("?").split()) <= set(words) for text in texts)
    assert {len(text.strip("?").split()) - 2 for text in texts} == set(range(7))
    assert all(" " not in wordy("猫", ["见", "面"], rng, "") for _ in range(20))


@needs_font
@pytest.mark.parametrize("colour", range(len(COLOURS)))
def test_the_background_is_read_off_the_edge(colour):
    assert judge_background(render(17, colour)) == colour


@needs_font
def test_the_judge_learns_from_renderings_alone():
    judge = train_judge(steps=200, batch=32)
    assert own_accuracy(judge, 500) > 0.02  # chance is 0.003
    assert all(0 <= each < len(CONCEPTS) for each in judge_concepts(judge, [render(3, 1), render(8, 0)]))


@needs_font
def test_every_concept_has_a_picture_and_nine_different_captions():
    names = {language: concept_names(language) for language in LANGUAGES}
    assert len(CONCEPTS) >= 300
    assert all(len(set(each)) == len(CONCEPTS) for each in names.values())
    pictures = torch.stack(
        [torch.frombuffer(bytearray(render(i, 0).tobytes()), dtype=torch.uint8) for i in range(len(CONCEPTS))]
    )
    assert len(pictures.unique(dim=0)) == len(CONCEPTS)
