"""Images drawn together are the images drawn alone, whoever leaves the batch meanwhile."""

import numpy as np
import pytest
import torch
from PIL import Image

from altdiffusion import AltDiffusionPipeline, InputError, generate
from altdiffusion.generation.draw import GenerateRequest, draw_batch
from altdiffusion.generation.result import NotFinite
from altdiffusion.generation.schedulers import SCHEDULERS
from altdiffusion.generation.settings import IN_MEMORY, ImageSettings
from altdiffusion.prompt_syntax import choose

PROMPTS = [("一只猫", "", 1), ("a cat, please", "кошка", 7), ("قطة على خلفية زرقاء", "", 0)]
START, MASK = Image.effect_noise((16, 16), 50).convert("RGB"), Image.new("L", (16, 16), 0)
MASK.paste(255, (4, 4, 12, 12))


@pytest.fixture(scope="module")
def pipe(published):
    pipe = AltDiffusionPipeline.from_pretrained(published("m9"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def requests(*, image=None, mask=None, **common):
    """Three people's, of the same size, steps, ..."""
    common |= {"init_image": image and IN_MEMORY, "mask": mask and IN_MEMORY}
    return [
        GenerateRequest(ImageSettings(prompt=prompt, negative_prompt=negative, seed=seed, **common), image, mask)
        for prompt, negative, seed in PROMPTS
    ]


def alone(pipe, request):
    images = {"init_image": request.image, "mask": request.mask, "model": pipe}
    said = {name: value for name, value in request.settings if name not in (*images, "prompt")}
    return next(generate(request.settings.prompt, **said, **images))


def assert_equal(one, other):
    """Within 1e-3 of the range of colours; what lies between two of the 256 shades may be rounded the other way."""
    apart = np.abs(np.asarray(one.image, np.int16) - np.asarray(other.image, np.int16))
    assert apart.max() <= 1
    assert apart.mean() / 255 < 1e-3
    assert one.settings == other.settings


@pytest.mark.parametrize(
    "scheduler",
    [None, *(name for name in SCHEDULERS if name != "lms"), "DPM++ 2M Karras", "DPM++ 2M SDE", "DPM++ SDE Karras"],
)
def test_together_as_alone(pipe, scheduler):
    three = requests(width=16, height=24, steps=4, guidance_scale=3.0, scheduler=scheduler)
    for request, together in zip(three, draw_batch(pipe, three), strict=True):
        assert_equal(together, alone(pipe, request))


@pytest.mark.parametrize("mask", [None, MASK])
def test_from_pictures_and_with_masks_too(pipe, mask):
    three = requests(image=START, mask=mask, width=16, height=16, steps=4, strength=0.5 if mask is None else 1.0)
    for request, together in zip(three, draw_batch(pipe, three), strict=True):
        assert_equal(together, alone(pipe, request))


@pytest.mark.parametrize("settings", [{}, {"mask_blur": 1}, {"only_masked": 2}, {"width": 24, "height": 16}])
def test_each_of_a_batch_is_pasted_into_its_own_photo(pipe, settings):
    photos = [Image.effect_noise((20, 20), 50).convert("RGB") for _ in range(3)]
    masks = [Image.new("L", (20, 20), 0) for _ in photos]
    for mask, corner in zip(masks, (0, 6, 12), strict=True):
        mask.paste(255, (corner, corner, corner + 8, corner + 8))
    common = {"init_image": IN_MEMORY, "mask": IN_MEMORY, "steps": 2, **settings}
    several = [
        GenerateRequest(ImageSettings(prompt=prompt, seed=1, **common), photo, mask)
        for (prompt, _, _), photo, mask in zip(PROMPTS, photos, masks, strict=True)
    ]
    for request, together in zip(several, draw_batch(pipe, several), strict=True):
        assert_equal(together, alone(pipe, request))
        size = (settings.get("width", 20), settings.get("height", 20))
        assert together.image.size == size
        if not settings.get("mask_blur"):
            photo, mask = request.image.resize(size, Image.Resampling.LANCZOS), request.mask.resize(size, 2)
            black = np.asarray(mask) == 0
            np.testing.assert_array_equal(np.asarray(together.image)[black], np.asarray(photo)[black])


def test_photos_of_other_shapes_are_no_batch(pipe):
    one, other = (
        GenerateRequest(
            ImageSettings(prompt="猫", seed=1, init_image=IN_MEMORY, mask=IN_MEMORY),
            Image.new("RGB", size), Image.new("L", size, 255),
        ).resolved(pipe)
        for size in ((16, 16), (64, 16))
    )  # fmt: skip
    assert one.batch_key != other.batch_key
    assert one.resolved(pipe) is one
    with pytest.raises(InputError, match="requests of a batch may differ"):
        draw_batch(pipe, [one, other])


def test_what_is_not_said_is_the_models_own(pipe):
    (got,) = draw_batch(pipe, [GenerateRequest(ImageSettings(prompt="猫", steps=1))])
    assert (got.settings.guidance_scale, got.settings.scheduler) == (7.5, "PNDM")
    assert got.image.size == (got.settings.width, got.settings.height) == (16, 16)
    assert_equal(got, alone(pipe, GenerateRequest(got.settings.replace(scheduler=None))))


@pytest.mark.parametrize(
    "scheduler", ["ddim", "pndm", "euler-a", "heun", "dpm2", "dpm++", "deis", "unipc", "DPM++ 2M SDE"]
)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_who_leaves_changes_nothing_for_the_others(pipe, scheduler, guidance_scale):
    three = requests(width=16, height=16, steps=6, guidance_scale=guidance_scale, scheduler=scheduler)
    seen = []

    def leaving(step):
        seen.append(len(step.rows))
        return {0, 2} if step.done >= 3 else {0, 1, 2}

    first, gone, last = draw_batch(pipe, three, leaving)
    assert gone is None
    assert seen[:4] == [3, 3, 3, 2]
    for request, together in ((three[0], first), (three[2], last)):
        assert_equal(together, alone(pipe, request))


def test_when_all_have_left_the_drawing_ends_at_that_step(pipe):
    steps = []

    def all_gone(step):
        steps.append(step.done)
        return () if step.done == 2 else None

    own = pipe.scheduler
    assert draw_batch(pipe, requests(width=16, height=16, steps=9), all_gone) == [None] * 3
    assert steps == [1, 2]
    assert pipe.scheduler is own


def test_masked_pictures_are_dropped_too(pipe):
    two = requests(image=START, mask=MASK, width=16, height=16, steps=3)[:2]
    kept, gone = draw_batch(pipe, two, lambda step: {0})
    assert gone is None
    assert_equal(kept, alone(pipe, two[0]))


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "heun", "dpm++"])
def test_previews_are_small_and_change_nothing(pipe, scheduler):
    previews = []

    def look(step):
        previews.append(step.previews())
        assert step.total >= step.done

    two = requests(width=64, height=128, steps=3, scheduler=scheduler)[:2]
    results = draw_batch(pipe, two, look)
    assert all(len(images) == 2 and max(images[0].size) < 128 for images in previews)
    assert previews[0][0].height == 2 * previews[0][0].width
    for request, together in zip(two, results, strict=True):
        assert_equal(together, alone(pipe, request))


def overflow(pipe, part):
    """As an overflow of float16 leaves it."""
    weight = {
        "UNet": pipe.unet.conv_out.bias,
        "VAE": pipe.vae.post_quant_conv.weight,
        "last layer": pipe.vae.decoder.conv_out.bias,
    }[part]
    torch.nn.init.constant_(weight, float("inf") if part == "last layer" else float("nan"))


@pytest.fixture
def own_pipe(published):
    pipe = AltDiffusionPipeline.from_pretrained(published("m9"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("part", ["UNet", "VAE", "last layer"])
@pytest.mark.parametrize("kind", ["text", "image", "mask"])
def test_images_out_of_nan_are_none(own_pipe, part, kind):
    overflow(own_pipe, part)
    images = {"text": {}, "image": {"image": START}, "mask": {"image": START, "mask": MASK}}[kind]
    with pytest.raises(NotFinite, match=r"'一只猫' \(seed 1\) and 2 more came out as NaN.*--dtype float32") as error:
        draw_batch(own_pipe, requests(**images, width=16, height=16, steps=2))
    assert error.value.images == [None] * 3
    assert "\n" not in str(error.value)


def test_the_others_of_a_batch_are_kept(own_pipe):
    three = requests(width=16, height=16, steps=2)
    whole = draw_batch(own_pipe, three)
    decode = own_pipe.vae.decode

    def overflowing(latents, **options):
        (images,) = decode(latents, **options)
        images[1, 0, 0, 0] = float("nan")
        return (images,)

    own_pipe.vae.decode = overflowing
    processor, seen = own_pipe.image_processor, []
    with pytest.raises(NotFinite, match=r"'a cat, please' \(seed 7\) came out as NaN") as error:
        draw_batch(own_pipe, three, lambda step: seen.append(step.previews()))
    assert own_pipe.image_processor is processor
    assert len(seen) > 1
    first, failed, last = error.value.images
    assert failed is None
    assert_equal(first, whole[0])
    assert_equal(last, whole[2])


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_the_number_format_is_said_and_which_to_take(dtype):
    line = str(NotFinite([None], [ImageSettings(prompt="猫", seed=3, dtype=dtype)]))
    assert f"NaN in {dtype or 'float32'} and isn't saved" in line
    assert "take --dtype float32 or bfloat16" in line


def test_kinds_are_not_mixed(pipe):
    with pytest.raises(InputError, match=r"requests of a batch may differ in .*seed.* only"):
        draw_batch(pipe, [requests()[0], requests(image=START)[0]])
    with pytest.raises(InputError, match=r"requests of a batch may differ in .*seed.* only"):
        draw_batch(pipe, [requests(steps=2)[0], requests(steps=3)[0]])
    with pytest.raises(InputError, match="init_image: expected both"):
        GenerateRequest(ImageSettings(prompt="猫"), START)
    with pytest.raises(InputError, match="strength needs an init image"):
        requests(strength=0.5)
    assert draw_batch(pipe, []) == []


@pytest.fixture(scope="module")
def mini():
    """A model whose images depend on their prompts."""
    pipe = AltDiffusionPipeline.from_pretrained("mini")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe, *settings, on_step=None):
    images = draw_batch(pipe, [GenerateRequest(ImageSettings(**each)) for each in settings], on_step)
    return [image and np.asarray(image.image, np.int16) for image in images]


@pytest.mark.parametrize(
    ("prompt", "same"),
    [
        ("(一只猫:1.0)", "一只猫"),
        (r"a cat \(red\)", "a cat (red)"),
        ("{一只猫|一只猫}", "一只猫"),
        ("[一只猫:a dog:2]", "一只猫"),
    ],
)
def test_prompt_syntax_is_read(mini, prompt, same):
    (read,) = draw_batch(mini, [GenerateRequest(ImageSettings(prompt=prompt, seed=3, steps=2))])
    (literal,) = drawn(mini, {"prompt": same, "prompt_syntax": "none", "seed": 3, "steps": 2})
    np.testing.assert_allclose(np.asarray(read.image, np.int16), literal, atol=1)
    assert read.settings.prompt == prompt  # the original spelling, in the PNG too


def test_choices_are_taken_by_the_seed(mini):
    prompt = "{一只猫|a dog|the moon}"
    together = drawn(mini, *({"prompt": prompt, "seed": seed, "steps": 1} for seed in range(4)))
    for seed, image in enumerate(together):
        (alone,) = drawn(mini, {"prompt": choose(prompt, seed), "seed": seed, "steps": 1})
        np.testing.assert_allclose(image, alone, atol=1)


def test_a_prompt_that_changes_in_a_batch_that_shrinks(mini):
    """Rows that leave take their states with them."""
    settings = [{"prompt": prompt, "seed": 1, "steps": 4} for prompt in ("[a:b:1]", "[一只猫:a dog:2]")]
    dropped, stayed = drawn(mini, *settings, on_step=lambda step: [1])
    assert dropped is None
    (alone,) = drawn(mini, settings[1])
    (unchanged,) = drawn(mini, settings[1] | {"prompt": "一只猫"})
    np.testing.assert_allclose(stayed, alone, atol=1)
    assert np.abs(alone - unchanged).max() > 20
