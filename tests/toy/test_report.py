"""`evaluate mini`: what mini is prompts, and how its answers are counted."""

from __future__ import annotations

import random

import pytest
from PIL import Image

from altdiffusion.toy import judged, report
from altdiffusion.toy.glyphs import (
    COLOURS,
    CONCEPTS,
    FONT,
    LANGUAGES,
    captions,
    concept_names,
    framed,
    held_out,
    render,
)
from altdiffusion.toy.judge import Judge

needs_font = pytest.mark.skipif(not FONT.is_file(), reason="needs Debian's fonts-noto-color-emoji")


class FakePipeline:
    """A pipeline whose image for prompt prompt is given."""

    def __init__(self, images: dict[str, Image.Image]) -> None:
        self.images = images

    def set_progress_bar_config(self, **kwargs: object) -> None:
        pass

    def __call__(self, prompt: list[str], **kwargs: object) -> object:
        return type("Output", (), {"images": [self.images[text] for text in prompt]})


def perfect_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {render(i, c).tobytes(): i for i in range(0, len(CONCEPTS), 40) for c in range(len(COLOURS))}
    monkeypatch.setattr(judged, "judge_concepts", lambda judge, images: [known.get(p.tobytes(), -1) for p in images])


@needs_font
def test_right_pictures_are_right_and_others_are_not(monkeypatch):
    perfect_judge(monkeypatch)
    prompts = report.name_prompts("zh", 40)
    images = {prompt.text: render(prompt.concept, prompt.colour) for prompt in prompts}
    images[prompts[0].text] = render(prompts[1].concept, 3)  # another thing, on another background
    metrics = list(report.image_metrics("it", FakePipeline(images), Judge(), ["zh"], 40, 2, kinds=["names"]))
    expected = 100 * (len(prompts) - 1) / len(prompts)
    assert [(metric.what, metric.language) for metric in metrics] == [
        ("it: names, right thing", "zh"),
        ("it: names, right background", "zh"),
    ]
    assert [metric.value for metric in metrics] == pytest.approx([expected, expected])


@needs_font
@pytest.mark.parametrize("in_frame", [True, False])
def test_a_style_is_taken_off_before_it_is_judged(monkeypatch, in_frame):
    perfect_judge(monkeypatch)
    prompts = judged.name_prompts("en", 40)
    plain = [render(prompt.concept, prompt.colour) for prompt in prompts]
    images = [framed(image) for image in plain] if in_frame else plain
    outcomes = judged.judge_images(Judge(), images, prompts, in_frame)
    assert [(criterion, all(right)) for criterion, right in outcomes.items()] == [
        ("style kept" if in_frame else "without the style", True),
        ("right thing", True),
        ("right background", True),
    ]


@needs_font
@pytest.mark.parametrize("in_frame", [True, False])
def test_a_picture_in_the_other_style_is_wrong(monkeypatch, in_frame):
    perfect_judge(monkeypatch)
    prompts = judged.name_prompts("en", 40)
    images = [render(prompt.concept, prompt.colour) for prompt in prompts]
    images = images if in_frame else [framed(image) for image in images]
    style, *_ = judged.judge_images(Judge(), images, prompts, in_frame).values()
    assert not any(style)


class FakeScorer:
    """A scorer that likes best the image with the index that it is told."""

    def __init__(self, liked: int) -> None:
        self.liked = liked

    def rank(self, images: list[Image.Image], prompt: str) -> list[tuple[int, float]]:
        return [(min(self.liked, len(images) - 1), 1.0)]


@needs_font
@pytest.mark.parametrize(("liked", "values"), [(0, [0, 0, 0]), (1, [0, 100, 100]), (7, [0, 100, 100]), (2, [0, 0, 0])])
def test_the_best_of_several_is_the_one_that_the_scorer_likes(monkeypatch, liked, values):
    """Of 8 images, every second one is right."""
    prompts = report.unseen_pair_prompts("en", 40)
    monkeypatch.setattr(report, "generate_images", lambda pipe, prompts, **options: list(range(len(prompts))))
    monkeypatch.setattr(
        report, "judge_concepts", lambda judge, images: [prompts[i // 8].concept if i % 2 else -1 for i in images]
    )
    metrics = report.best_of_metrics(FakePipeline({}), FakeScorer(liked), Judge(), ["en"], 40)
    assert [metric.value for metric in metrics] == values


@pytest.mark.parametrize("language", LANGUAGES)
def test_pairs_never_seen_together_are_those_held_out_of_training(language):
    prompts = report.unseen_pair_prompts(language, 1)
    assert {(prompt.concept, prompt.colour) for prompt in prompts} == {
        (i, c) for i in range(len(CONCEPTS)) for c in range(len(COLOURS)) if held_out(i, c)
    }
    assert len({prompt.text for prompt in prompts}) == len(prompts)


def test_free_prompts_are_sentences_that_no_caption_is():
    names = {language: concept_names(language) for language in LANGUAGES}
    rng = random.Random(0)
    seen = {caption for _ in range(300) for caption in captions(4, 0, names, rng).values()}
    prompts = {prompt.text for language in LANGUAGES for prompt in report.free_prompts(language, 1)}
    assert len(seen) > 1000
    assert not seen & prompts
