"""Other languages beside English: the same prompts in every one, and what is counted of their images."""

from __future__ import annotations

import pytest

from altdiffusion.toy import judged, parity, report
from altdiffusion.toy.glyphs import FONT, LANGUAGES, PLACEHOLDER, TRIGGER, render
from altdiffusion.toy.judge import Judge

needs_font = pytest.mark.skipif(not FONT.is_file(), reason="needs Debian's fonts-noto-color-emoji")

KINDS = {
    "names": judged.name_prompts,
    "pairs": judged.unseen_pair_prompts,
    "mixed": judged.mixed_prompts("{x}, {c} background"),
    "trigger": judged.triggered_prompts,
    "inversion": judged.inversion_prompts,
}


@pytest.mark.parametrize("prompts", KINDS.values(), ids=KINDS)
def test_every_language_is_asked_for_the_same_images(prompts):
    expected = [(prompt.concept, prompt.colour) for prompt in prompts("en", 7)]
    for language in LANGUAGES:
        assert [(prompt.concept, prompt.colour) for prompt in prompts(language, 7)] == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_stays_english_is_the_same_in_every_language(language):
    for english, prompt in zip(KINDS["mixed"]("en", 20), KINDS["mixed"](language, 20), strict=True):
        assert english.text.partition(", ")[2] == prompt.text.rpartition(", ")[2]
    assert all(prompt.text.endswith(f", {TRIGGER}") for prompt in judged.triggered_prompts(language, 20))
    assert all(PLACEHOLDER in prompt.text for prompt in judged.inversion_prompts(language, 1))


class Pipeline:
    """Makes the image of the prompt's thing, or where it is in `wrong` one of another thing. called: the prompts it got."""

    def __init__(self, wrong: tuple[str, ...] = ()) -> None:
        self.wrong, self.called = wrong, []
        known = [prompt for language in LANGUAGES for prompt in judged.name_prompts(language, 40)]
        self.shown = {prompt.text: prompt for prompt in known}

    def set_progress_bar_config(self, **kwargs: object) -> None:
        pass

    def __call__(self, prompt: list[str], **kwargs: object) -> object:
        self.called += prompt
        images = [render(0 if text in self.wrong else self.shown[text].concept, 0) for text in prompt]
        return type("Output", (), {"images": images})


def compare(monkeypatch, bridged, languages, prompts=judged.name_prompts, own=None, **about):
    own = own or Pipeline()
    known = {render(i, 0).tobytes(): i for i in range(0, 316, 40)}
    monkeypatch.setattr(judged, "judge_concepts", lambda judge, images: [known[image.tobytes()] for image in images])
    monkeypatch.setattr(parity, "load_diffusion", lambda model: own)
    monkeypatch.setattr(parity, "swap_text_encoder", lambda pipe, model, bridge, **options: bridged)
    subject = parity.Subject("it", "sd-mini", {"names": parity.Kind(prompts, **about)})
    return list(parity.parity_metrics(subject, None, "mini", Judge(), languages, 40, 2))


@needs_font
def test_each_language_is_measured_against_english_by_the_own_encoder(monkeypatch):
    missed = judged.name_prompts("zh", 40)[2].text
    results = compare(monkeypatch, Pipeline((missed,)), ["en", "zh"], targets={"right thing": 98})
    metrics = {(m.what, m.language): m for m in results if isinstance(m, judged.Metric)}
    assert metrics["it, own encoder: names, right thing", "en"].value == 100
    chinese = metrics["it + bridge: names, right thing", "zh"]
    assert (chinese.value, chinese.target) == (87.5, 98)
    assert chinese.low < 87.5 < chinese.high
    assert metrics["it + bridge: images as without it, bit for bit", "en"].value == 100
    ratios = {p.language: p.ratio for p in results if isinstance(p, parity.Parity)}
    assert ratios == {"en": 1, "zh": 0.875}


@needs_font
def test_an_english_image_that_changes_by_the_bridge_is_counted(monkeypatch):
    missed = judged.name_prompts("en", 40)[1].text
    results = compare(monkeypatch, Pipeline((missed,)), ["en"])
    assert (results[-1].value, results[-1].target) == (87.5, 100)


@needs_font
def test_a_target_is_so_many_points_below_english(monkeypatch):
    first, second, *_ = (prompt.text for prompt in judged.name_prompts("en", 40)[1:])
    results = compare(monkeypatch, Pipeline(), ["zh"], own=Pipeline((first, second)), within=3)
    targets = {m.what: m.target for m in results if isinstance(m, judged.Metric)}
    assert targets["it + bridge: names, right thing"] == 100 * 6 / 8 - 3
    assert targets["it + bridge: names, right background"] == 97


@needs_font
def test_backquotes_are_for_the_bridge_alone(monkeypatch):
    def prompts(language, every):
        return [judged.JudgedPrompt(f"`{prompt.text}`", prompt.concept, 0) for prompt in judged.name_prompts("en", 160)]

    own, bridged = Pipeline(), Pipeline()
    bridged.shown |= {f"`{text}`": prompt for text, prompt in bridged.shown.items()}
    compare(monkeypatch, bridged, ["zh"], prompts, own=own)
    assert not [text for text in own.called if "`" in text]
    assert bridged.called == [f"`{text}`" for text in own.called]


def test_the_table_has_a_row_for_each_kind_and_a_column_for_each_language():
    results = [
        judged.Metric("else", "zh", 3.0),
        parity.Parity("names", "zh", 0.98, 0.96, 1.0),
        parity.Parity("names", "ja", 1.0, 1.0, 1.0),
        parity.Parity("pairs", "ja", 0.5, 0.25, 0.754),
    ]
    _, *rows = report.parity_table(results)
    assert rows == [["names", "98 [96, 100]", "100 [100, 100]"], ["pairs", "", "50 [25, 75]"]]
    assert report.parity_table(results[:1]) == []
