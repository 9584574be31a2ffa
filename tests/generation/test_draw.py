"""Images drawn together are the images drawn alone, whoever leaves the batch meanwhile."""

import numpy as np
import pytest
from PIL import Image

from altdiffusion import AltDiffusionPipeline, InputError, generate
from altdiffusion.generation.draw import Order, Recipe, draw_together
from altdiffusion.generation.schedulers import SCHEDULERS

ORDERS = [Order("一只猫", seed=1), Order("a cat, please", "кошка", seed=7), Order("قطة على خلفية زرقاء", seed=0)]
START, MASK = Image.effect_noise((16, 16), 50).convert("RGB"), Image.new("L", (16, 16), 0)
MASK.paste(255, (4, 4, 12, 12))


@pytest.fixture(scope="module")
def pipe(published):
    pipe = AltDiffusionPipeline.from_pretrained(published("m9"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def alone(pipe, order, **options):
    return next(generate(order.prompt, model=pipe, negative_prompt=order.negative_prompt, seed=order.seed, **options))


def assert_equal(one, other):
    """Within 1e-3 of the range of colours; what lies between two of the 256 shades may be rounded the other way."""
    apart = np.abs(np.asarray(one.image, np.int16) - np.asarray(other.image, np.int16))
    assert apart.max() <= 1
    assert apart.mean() / 255 < 1e-3
    assert one.settings == other.settings


@pytest.mark.parametrize("scheduler", [None, *(name for name in SCHEDULERS if name != "lms")])
def test_together_as_alone(pipe, scheduler):
    recipe = Recipe(16, 24, steps=4, guidance_scale=3.0, scheduler=scheduler)
    for order, picture in zip(ORDERS, draw_together(pipe, ORDERS, recipe), strict=True):
        assert_equal(picture, alone(pipe, order, size=(16, 24), steps=4, guidance_scale=3.0, scheduler=scheduler))


@pytest.mark.parametrize("mask", [None, MASK])
def test_from_pictures_and_with_masks_too(pipe, mask):
    strength = 0.5 if mask is None else 1.0
    orders = [Order(each.prompt, each.negative_prompt, each.seed, START, mask) for each in ORDERS]
    drawn = draw_together(pipe, orders, Recipe(16, 16, steps=4, strength=strength))
    for order, picture in zip(orders, drawn, strict=True):
        options = {"init_image": START, "mask": mask, "strength": strength}
        assert_equal(picture, alone(pipe, order, size=(16, 16), steps=4, **options))


@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "euler-a", "heun", "dpm2", "dpm++", "deis", "unipc"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_who_leaves_changes_nothing_for_the_others(pipe, scheduler, guidance_scale):
    recipe = Recipe(16, 16, steps=6, guidance_scale=guidance_scale, scheduler=scheduler)
    seen = []

    def leaving(step):
        seen.append(len(step.rows))
        return {0, 2} if step.done >= 3 else {0, 1, 2}

    first, gone, last = draw_together(pipe, ORDERS, recipe, leaving)
    assert gone is None
    assert seen[:4] == [3, 3, 3, 2]
    for order, picture in ((ORDERS[0], first), (ORDERS[2], last)):
        options = {"size": (16, 16), "steps": 6, "guidance_scale": guidance_scale, "scheduler": scheduler}
        assert_equal(picture, alone(pipe, order, **options))


def test_when_all_have_left_the_drawing_ends_at_that_step(pipe):
    steps = []

    def all_gone(step):
        steps.append(step.done)
        return () if step.done == 2 else None

    own = pipe.scheduler
    assert draw_together(pipe, ORDERS, Recipe(16, 16, steps=9), all_gone) == [None] * 3
    assert steps == [1, 2]
    assert pipe.scheduler is own


def test_masked_pictures_are_dropped_too(pipe):
    orders = [Order("猫", seed=seed, image=START, mask=MASK) for seed in range(2)]
    kept, gone = draw_together(pipe, orders, Recipe(16, 16, steps=3, strength=1.0), lambda step: {0})
    assert gone is None
    assert_equal(kept, alone(pipe, orders[0], size=(16, 16), steps=3, init_image=START, mask=MASK))


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "heun", "dpm++"])
def test_sketches_are_small_and_change_nothing(pipe, scheduler):
    sketches = []

    def look(step):
        sketches.append(step.sketches())
        assert step.total >= step.done

    recipe = Recipe(64, 128, steps=3, scheduler=scheduler)
    drawn = draw_together(pipe, ORDERS[:2], recipe, look)
    assert all(len(each) == 2 and max(each[0].size) < 128 for each in sketches)
    assert sketches[0][0].height == 2 * sketches[0][0].width
    for order, picture in zip(ORDERS, drawn, strict=False):
        assert_equal(picture, alone(pipe, order, size=(64, 128), steps=3, scheduler=scheduler))


def test_kinds_are_not_mixed(pipe):
    with pytest.raises(InputError, match="not mixed"):
        draw_together(pipe, [ORDERS[0], Order("猫", image=START)], Recipe(16, 16))
    with pytest.raises(InputError, match="strength"):
        draw_together(pipe, [Order("猫", image=START)], Recipe(16, 16))
