"""The best of several images, by a scorer whose taste is known: it likes light images."""

import inspect

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from altdiffusion import AltDiffusionPipeline, InputError, generate
from altdiffusion.altclip.best_of import RankedOutput, load_scorer, rank
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.errors import GenerationFailed
from altdiffusion.generation.infotext import open_info
from altdiffusion.generation.result import save_image

SMALL = {"num_inference_steps": 2, "height": 16, "width": 16}


class Light(PromptScorer):
    """Scores an image by its mean, 0 to 1; with "dark" in the prompt, by the opposite."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def rank(self, images, prompt):
        self.asked.append(prompt)
        means = [float(np.asarray(torch.as_tensor(np.array(each)), dtype=float).mean()) for each in images]
        means = [mean / 255 if mean > 1 else mean for mean in means]
        scores = [1 - mean if "dark" in prompt else mean for mean in means]
        return sorted(enumerate(scores), key=lambda found: -found[1])


@pytest.fixture(scope="module")
def pipe(published):
    pipe = AltDiffusionPipeline.from_pretrained(published("m9"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(count):
    return [torch.Generator().manual_seed(i) for i in range(count)]


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_a_pipeline_returns_each_prompts_pictures_best_first(pipe, output_type):
    settings = SMALL | {"output_type": output_type}
    plain = pipe(["light", "dark"], num_images_per_prompt=3, generator=seeded(6), **settings).images
    ranked = pipe(["light", "dark"], best_of=3, scorer=Light(), generator=seeded(6), **settings)
    assert isinstance(ranked, RankedOutput)
    assert len(ranked.images) == len(ranked.scores) == 6
    assert ranked.scores[:3] == sorted(ranked.scores[:3], reverse=True)
    assert ranked.scores[3:] == sorted(ranked.scores[3:], reverse=True)
    means = [float(torch.as_tensor(np.array(each)).double().mean()) for each in plain]
    found = [float(torch.as_tensor(np.array(each)).double().mean()) for each in ranked.images]
    assert found == sorted(means[:3], reverse=True) + sorted(means[3:])


def test_without_best_of_nothing_changes(pipe):
    assert not hasattr(pipe("cat", generator=seeded(1), **SMALL), "scores")
    stock = inspect.signature(StableDiffusionPipeline.__call__).parameters
    ours = inspect.signature(AltDiffusionPipeline.__call__).parameters
    assert [
        name for name in ours if name not in ("best_of", "scorer", "prompt_syntax", "weighting", "long_prompts")
    ] == list(stock)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"best_of": 0}, "at least 1"),
        ({"best_of": 2, "num_images_per_prompt": 2}, "pass one of them"),
        ({"best_of": 2, "output_type": "latent"}, "expected"),
        ({"best_of": 2, "prompt": None, "prompt_embeds": torch.zeros(1, 77, 768)}, "pass prompt"),
    ],
)
def test_what_best_of_refuses(pipe, arguments, reason):
    with pytest.raises(InputError, match=reason):
        pipe(**({"prompt": "cat", "scorer": Light()} | SMALL | arguments))


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_images_out_of_nan_are_an_error(pipe, output_type):
    latents = torch.randn(3, pipe.unet.config.in_channels, 8, 8, generator=torch.manual_seed(0))
    latents[1] = float("nan")
    processor = pipe.image_processor
    with pytest.raises(
        GenerationFailed, match=r"^1 of 3 images came out as NaN in float32: .* take float32 or bfloat16"
    ):
        pipe("cat", best_of=3, scorer=Light(), latents=latents, num_inference_steps=1, output_type=output_type)
    assert pipe.image_processor is processor


def test_generate_keeps_the_best_and_writes_the_score_into_the_png(pipe, tmp_path):
    options = {"model": pipe, "seed": 3, "steps": 2, "size": (16, 16)}
    every = list(generate("light", num_images=4, **options))
    scorer = Light()
    kept = list(generate("light", best_of=4, num_images=2, scorer=scorer, **options))
    order = sorted(every, key=lambda picture: -np.asarray(picture.image, float).mean())
    assert [each.settings.seed for each in kept] == [each.settings.seed for each in order[:2]]
    assert kept[0].settings.score > kept[1].settings.score
    assert scorer.asked == ["light"]
    save_image(kept[0], tmp_path / "a.png")
    assert open_info(tmp_path / "a.png").score == kept[0].settings.score


def test_fewer_drawn_than_kept(pipe):
    with pytest.raises(InputError, match="at least as many"):
        next(generate("cat", model=pipe, best_of=2, num_images=3))


def test_what_the_safety_checker_blackened_comes_last():
    white, black = np.full((4, 4, 3), 255, np.uint8), np.zeros((4, 4, 3), np.uint8)
    assert [index for index, _ in rank(Light(), [white, black], "light", [True, False])] == [1, 0]


def test_a_model_without_a_known_scorer_asks_for_one():
    with pytest.raises(InputError, match="--scorer"):
        load_scorer(None, "my-own-model", "cpu")
