"""Requests that differ in anything, generated together: each image is the one that it is alone."""

import pytest
from PIL import Image, ImageChops

from altdiffusion import AltDiffusionPipeline, InputError, PromptScorer, generate
from altdiffusion.generation.generate import generate_all
from altdiffusion.generation.settings import ImageSettings

SMALL = {"width": 16, "height": 16}


@pytest.fixture(scope="module")
def pipe(published):
    return AltDiffusionPipeline.from_pretrained(published("m9"))


def settings(prompt, **others):
    return ImageSettings(prompt=prompt, **({"seed": 1, "steps": 1} | SMALL | others))


def by_index(results):
    found = {}
    for index, generated in results:
        found.setdefault(index, []).append(generated)
    return [found[index] for index in sorted(found)]


@pytest.mark.parametrize("batch_size", [1, 3, "auto"])
def test_what_can_share_a_batch_comes_together_and_all_of_it_comes(pipe, batch_size):
    asked = [settings(prompt, steps=steps) for prompt in ("一只猫", "a dog", "قطة") for steps in (1, 2)]
    results = list(generate_all(asked, pipe=pipe, batch_size=batch_size))
    assert [index for index, _ in results] == [0, 2, 4, 1, 3, 5]
    for index, (generated,) in enumerate(by_index(results)):
        assert (generated.settings.prompt, generated.settings.steps) == (asked[index].prompt, asked[index].steps)
        alone = next(generate(asked[index].prompt, model=pipe, seed=1, steps=asked[index].steps, **SMALL))
        difference = ImageChops.difference(generated.image, alone.image).getextrema()
        assert max(high for _, high in difference) <= (0 if batch_size == 1 else 1)


def test_each_request_has_its_numbers_of_images_and_they_share_a_random_seed(pipe):
    asked = [settings("a", seed=5), settings("b", seed=None), settings("c", seed=None, steps=2)]
    found = [[one.settings.seed for one in some] for some in by_index(generate_all(asked, pipe=pipe, num_images=2))]
    assert found[0] == [5, 6]
    assert found[1] == found[2] == [found[1][0], found[1][0] + 1]


def test_init_images_stand_beside_requests_without_any(pipe, tmp_path):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    start = {"init_image": str(tmp_path / "a.png"), "steps": 2}
    (plain,), (changed,), (again,) = by_index(
        generate_all([settings("a"), settings("a", **start), settings("b")], pipe=pipe)
    )
    assert changed.settings.strength == 0.8
    assert plain.settings.strength is again.settings.strength is None


def test_each_model_is_loaded_once(published, monkeypatch):
    from altdiffusion.generation import generate as module

    loaded, load = [], module.load_pipeline

    def note(model, **options):
        loaded.append(model)
        return load(model, **options)

    monkeypatch.setattr(module, "load_pipeline", note)
    models = [str(published("m9")), str(published("m18"))]
    asked = [settings("a", model=models[index]) for index in (0, 1, 0)]
    results = list(generate_all(asked))
    assert loaded == models
    assert [(index, one.settings.model) for index, one in results] == [(0, models[0]), (2, models[0]), (1, models[1])]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_errors_of_requests_stop_no_others_where_they_are_taken(pipe, tmp_path, batch_size):
    (tmp_path / "no.png").write_text("no image")
    asked = [
        settings("a"),
        settings("猫" * 2000),  # more than 510 tokens, as the tokenizer says
        settings("b"),
        settings("a", init_image=str(tmp_path / "no.png"), strength=1),
        settings("a", scheduler="magic"),
    ]
    failed = {}
    done = list(generate_all(asked, pipe=pipe, batch_size=batch_size, failed=failed))
    assert [index for index, _ in done] == [0, 2]
    assert sorted(failed) == [1, 3, 4]
    assert all(isinstance(error, InputError) for error in failed.values())
    with pytest.raises(InputError):
        list(generate_all(asked, pipe=pipe, batch_size=batch_size))


def test_the_best_of_several_are_ranked_for_each_request(pipe):
    asked = [settings("一只猫"), settings("a dog", steps=2)]
    for some in by_index(generate_all(asked, pipe=pipe, best_of=3, num_images=2, scorer="mini", batch_size=2)):
        assert len(some) == 2
        assert some[0].settings.score >= some[1].settings.score


def test_a_loaded_pipeline_takes_no_other_model(pipe):
    with pytest.raises(InputError, match="model mini: a pipeline that is loaded already takes none"):
        list(generate_all([settings("a", model="mini")], pipe=pipe))


@pytest.mark.parametrize(("score_as", "largest"), [("percentile", 100), ("match_percentile", 100), ("probability", 1)])
def test_the_best_are_scored_by_the_calibration_of_their_prompts_language(pipe, score_as, largest):
    pytest.importorskip("py3langid")
    asked, failed = [settings("一只红色的猫"), settings("eine Katze auf einem Tisch im Garten"), settings("a cat")], {}
    options = {"pipe": pipe, "best_of": 2, "num_images": 2, "scorer": "mini", "failed": failed}
    plain, scored = (
        by_index(generate_all(asked, **options)),
        by_index(generate_all(asked, score_as=score_as, **options)),
    )
    for cosines, scores, language in zip([plain[0], plain[2]], [scored[0], scored[1]], ["zh", "en"], strict=True):
        assert [image.settings.seed for image in scores] == [image.settings.seed for image in cosines]
        calibration = PromptScorer.from_pretrained().calibration
        expected = [calibration.convert(image.settings.score, language, score_as) for image in cosines]
        assert [image.settings.score for image in scores] == pytest.approx(expected, abs=0.01 * largest)
    assert list(failed) == [1]
    assert "no calibration for 'de'" in str(failed[1])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"score_as": "percentile"}, "expected best_of with it"),
        ({"score_as": "percent", "best_of": 2, "scorer": "mini"}, "expected cosine, percentile"),
    ],
)
def test_a_kind_of_score_that_can_not_be_told_is_refused(pipe, options, reason):
    with pytest.raises(InputError, match=reason):
        list(generate_all([settings("a cat")], pipe=pipe, **options))
