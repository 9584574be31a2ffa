"""Settings and images: checked first, drawn alike alone and in a row, saved whole."""

import os
import shutil

import pytest
from helpers import bridges, layouts, tiny
from PIL import Image, ImageChops

from altdiffusion import AltDiffusionPipeline, InputError, generate, swap_text_encoder
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.generation.infotext import open_info, to_command
from altdiffusion.generation.result import NotFinite, free_path, save_image
from altdiffusion.generation.settings import ImageSettings


@pytest.fixture(scope="module")
def folder(published):
    return published("m9")


@pytest.fixture(scope="module")
def pipe(folder):
    return AltDiffusionPipeline.from_pretrained(folder)


def draw(pipe, prompts="一只猫", **options):
    return list(generate(prompts, model=pipe, **({"steps": 2, "size": (16, 16)} | options)))


def same(one, other):
    return ImageChops.difference(one.image, other.image).getbbox() is None


def test_picture_i_has_seed_plus_i_and_comes_out_the_same_alone(pipe):
    pictures = draw(pipe, ["一只猫", "a cat"], seed=5, num_images=3)
    assert [(p.settings.prompt, p.settings.seed) for p in pictures] == [
        (prompt, seed) for prompt in ("一只猫", "a cat") for seed in (5, 6, 7)
    ]
    assert same(pictures[4], draw(pipe, "a cat", seed=6)[0])


def test_seed_0_is_a_seed(pipe):
    assert draw(pipe, seed=0)[0].settings.seed == 0
    assert same(draw(pipe, seed=0)[0], draw(pipe, seed=0)[0])
    assert not same(draw(pipe, seed=0)[0], draw(pipe, seed=1)[0])


def test_random_seed_is_recorded_and_draws_again(pipe):
    picture = draw(pipe)[0]
    assert same(picture, draw(pipe, seed=picture.settings.seed)[0])


def test_every_setting_reaches_the_picture(pipe):
    plain = draw(pipe, seed=1)[0]
    for change in ({"negative_prompt": "狗"}, {"guidance_scale": 2.0}, {"steps": 3}, {"scheduler": "ddpm"}):
        assert not same(plain, draw(pipe, seed=1, **change)[0]), change


def test_guidance_of_one_ignores_the_negative_prompt(pipe):
    assert same(
        draw(pipe, seed=1, guidance_scale=1.0)[0], draw(pipe, seed=1, guidance_scale=1.0, negative_prompt="x")[0]
    )


def test_init_image_and_mask(folder, tmp_path):
    Image.new("RGB", (64, 16), "red").save(tmp_path / "start.png")
    Image.new("L", (64, 16), 255).save(tmp_path / "mask.png")
    options = {"model": folder, "steps": 2, "seed": 1, "init_image": tmp_path / "start.png"}
    changed = next(generate("一只猫", **options))
    assert changed.settings.strength == 0.8
    assert changed.image.size == (changed.settings.width, changed.settings.height) == (32, 8)
    filled = next(generate("一只猫", **options, mask=tmp_path / "mask.png"))
    assert filled.settings.strength == 1.0
    assert filled.settings.mask == str(tmp_path / "mask.png")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mask_blur": 3},
        {"only_masked": 4},
        {"size": (24, 16)},
        {"only_masked": 0, "size": (16, 16), "mask_blur": 1},
    ],
)
def test_what_is_inpainted_is_generated_again_by_its_settings(pipe, tmp_path, settings):
    photo, mask = Image.effect_noise((50, 30), 60).convert("RGB"), Image.new("L", (50, 30), 0)
    mask.paste(255, (10, 8, 30, 20))
    photo.save(tmp_path / "photo.png")
    mask.save(tmp_path / "mask.png")
    images = {"init_image": tmp_path / "photo.png", "mask": tmp_path / "mask.png"}
    first = next(generate("一只猫", model=pipe, steps=2, seed=1, **images, **settings))
    save_image(first, tmp_path / "x.png")
    read = open_info(tmp_path / "x.png")
    assert read == first.settings
    assert (read.width, read.height) == settings.get("size", (None, None))
    assert first.image.size == ((24, 16) if settings == {"size": (24, 16)} else photo.size)
    said = {name: value for name, value in read if value is not None and name not in ("prompt", "model", "scheduler")}
    assert same(next(generate(read.prompt, model=pipe, **said)), first)


def test_from_memory_it_starts_as_from_a_file(pipe, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    start, mask = Image.effect_noise((24, 16), 60).convert("RGBA"), Image.new("I;16", (16, 24), 0)
    start.putalpha(Image.linear_gradient("L").resize((24, 16)))
    mask.paste(65535, (4, 4, 12, 16))
    start.save(tmp_path / "start.png", exif=exif)
    mask.save(tmp_path / "mask.png")
    by_path = {"init_image": tmp_path / "start.png", "mask": tmp_path / "mask.png"}
    in_memory = {name: Image.open(path) for name, path in by_path.items()}
    one, other = (draw(pipe, seed=1, size=None, **images)[0] for images in (by_path, in_memory))
    assert one.image.size == (16, 24)
    assert same(one, other)


def test_a_black_image_of_the_safety_checker_is_black_in_the_photo_too(folder, tmp_path):
    offended = shutil.copytree(folder, tmp_path / "offended")
    layouts.save_safety_checker(offended / "safety_checker", True, finds=True)
    photo, mask = Image.new("RGB", (50, 30), "red"), Image.new("L", (50, 30), 255)
    black = next(generate("猫", model=offended, steps=1, seed=1, init_image=photo, mask=mask))
    assert black.filtered
    assert black.image.size == photo.size
    assert black.image.getbbox() is None


@pytest.mark.parametrize("value", [0, 1, 127])
def test_a_black_mask_is_refused(pipe, value):
    with pytest.raises(InputError, match=f"the mask is black.*expected white.*at most {value}$"):
        draw(pipe, init_image=Image.new("RGB", (16, 16)), mask=Image.new("L", (16, 16), value))


def test_safety_checker_is_on_where_the_checkpoint_has_one(folder, tmp_path):
    offended = shutil.copytree(folder, tmp_path / "offended")
    layouts.save_safety_checker(offended / "safety_checker", True, finds=True)
    clean, black = (next(generate("猫", model=model, steps=1, seed=1)) for model in (folder, offended))
    assert not clean.filtered
    assert clean.image.getbbox() is not None
    assert black.filtered
    assert black.image.getbbox() is None


def test_a_loaded_pipeline_serves_pictures_and_masks_too(pipe):
    picture, mask = Image.new("RGB", (16, 16), "red"), Image.new("L", (16, 16), 255)
    assert draw(pipe, init_image=picture, size=None)[0].settings.strength == 0.8
    assert draw(pipe, init_image=picture, mask=mask, size=None)[0].settings.strength == 1.0
    with pytest.raises(InputError, match="lora is for loading"):
        draw(pipe, lora="x.safetensors")


@pytest.mark.parametrize(
    ("prompts", "options", "line"),
    [
        ([], {}, "no prompt"),
        (["a", " "], {}, "no prompt"),
        ("a", {"steps": 0}, "steps: expected 1 to 999, got 0"),
        ("a", {"steps": 1000}, "steps: expected 1 to 999, got 1000"),
        ("a", {"num_images": 0}, "num_images: expected 1 to 10000, got 0"),
        ("a", {"num_images": 2, "seed": 2**63 - 1}, "seed: expected 0 to"),
        ("a", {"stepz": 3}, "stepz is no setting: do you mean steps"),
        ("a", {"num_images": 3, "best_of": 2}, "the best 3 of 2"),
        ("a", {"seed": -1}, "seed: expected 0 to 9223372036854775807, got -1"),
        ("a", {"seed": 2**63}, "seed: expected 0 to"),
        ("a", {"guidance_scale": float("nan")}, "guidance_scale: expected at least 0, got nan"),
        ("a", {"guidance_scale": -1.0}, "guidance_scale: expected at least 0, got -1"),
        ("a", {"size": (65, 64)}, "width: expected a multiple of 8, got 65"),
        ("a", {"size": (0, 64)}, "width: expected 8 to 4096, got 0"),
        ("a", {"size": (64, 8192)}, "height: expected 8 to 4096, got 8192"),
        ("a", {"strength": 0.5}, "init image"),
        ("a", {"mask": "m.png"}, "init image"),
        ("a", {"init_image": "no.png", "strength": 0.0}, "strength: expected above 0, at most 1, got 0"),
        ("a", {"init_image": "no.png", "strength": 1.5}, "strength: expected above 0, at most 1, got 1.5"),
        ("a", {"init_image": "no.png", "strength": 0.01}, "no step"),
        ("a", {"init_image": "no.png"}, "no such image"),
        ("a", {"scheduler": "magic"}, "ddim, ddpm, pndm"),
        ("a", {"device": "cuda:7"}, "this machine has"),
        ("a", {"device": "toaster"}, "this machine has"),
        ("a", {"dtype": "int3"}, "float32, float16, bfloat16"),
        ("a", {"model": "no/such/model"}, "unknown model"),
        ("a", {"lora": "no/such/lora.safetensors"}, "LoRA"),
    ],
)
def test_bad_input_is_one_clear_line(folder, prompts, options, line):
    with pytest.raises(InputError, match=line) as error:
        next(generate(prompts, **({"model": folder} | options)))
    assert "\n" not in str(error.value)


def test_mask_of_another_size_is_refused(folder, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "start.png")
    Image.new("L", (8, 16)).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="8 x 16"):
        next(generate("a", model=folder, init_image=tmp_path / "start.png", mask=tmp_path / "mask.png"))


def test_saved_picture_carries_its_settings(pipe, tmp_path):
    picture = draw(pipe, seed=0, negative_prompt="模糊")[0]
    save_image(picture, tmp_path / "new" / "x.png")
    assert open_info(tmp_path / "new" / "x.png") == picture.settings
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.png"]


def test_full_disk_leaves_no_partial_file(pipe, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        save_image(draw(pipe)[0], tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("prompt", ["一只猫", "a/b\\c:d", "猫" * 300, "...", "../../etc/passwd", "a\nb", "🐈"])
def test_file_names_are_safe_and_never_taken(tmp_path, prompt):
    path = free_path(tmp_path, ImageSettings(prompt=prompt, seed=1))
    assert path.parent == tmp_path
    path.touch()
    other = free_path(tmp_path, ImageSettings(prompt=prompt, seed=1))
    assert other != path
    assert not other.exists()


def test_any_stable_diffusion_draws_through_a_bridge(published, tmp_path):
    sd = bridges.stock()
    sd.register_modules(tokenizer=tiny.clip_tokenizer())
    sd.save_pretrained(tmp_path / "sd")
    bridges.small_bridge().save_pretrained(tmp_path / "bridge")
    names = {"text_encoder": published("m9"), "bridge": tmp_path / "bridge"}
    drawn = next(generate("一只猫", model=tmp_path / "sd", **names, seed=1, steps=2, size=(16, 16)))
    swapped = AltDiffusionPipeline.from_pretrained(tmp_path / "sd")
    swap_text_encoder(swapped, names["text_encoder"], bridge=names["bridge"])
    assert same(drawn, draw(swapped, seed=1)[0])
    save_image(drawn, tmp_path / "cat.png")
    read = open_info(tmp_path / "cat.png")
    assert (read.text_encoder, read.bridge) == (str(names["text_encoder"]), str(names["bridge"]))
    assert f"--bridge {names['bridge']}" in to_command(read)


def overflowing(pipe, monkeypatch, *seeds):
    """The pipeline's images of these seeds are NaN."""
    whole = pipe.prepare_latents

    def prepare(count, channels, height, width, dtype, device, generator, *latents):
        start = whole(count, channels, height, width, dtype, device, generator, *latents)
        start[[one.initial_seed() in seeds for one in generator]] = float("nan")
        return start

    monkeypatch.setattr(pipe, "prepare_latents", prepare)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_an_image_out_of_nan_ends_it_after_those_that_are_whole(pipe, monkeypatch, batch_size):
    overflowing(pipe, monkeypatch, 6)
    kept = []
    with pytest.raises(NotFinite, match="'一只猫' \\(seed 6\\) came out as NaN in float32"):
        kept.extend(
            generated.settings.seed
            for generated in generate(
                "一只猫", model=pipe, steps=1, size=(16, 16), seed=5, num_images=3, batch_size=batch_size
            )
        )
    assert kept == ([5, 7] if batch_size == 3 else [5])


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_the_best_is_not_chosen_among_images_out_of_nan(pipe, monkeypatch, batch_size):
    judge = PromptScorer.from_pretrained()
    options = {"steps": 1, "size": (16, 16), "best_of": 2, "scorer": judge, "batch_size": batch_size}
    whole = next(generate("a cat", model=pipe, seed=5, **options))
    overflowing(pipe, monkeypatch, 8)
    images = generate(["a cat", "a dog"], model=pipe, seed=5, **options)
    assert next(images).settings == whole.settings
    assert next(images).settings.prompt == "a dog"
    images = generate(["a cat", "a dog"], model=pipe, seed=7, **options)
    with pytest.raises(NotFinite, match="'a cat' \\(seed 8\\)"):
        next(images)


def test_a_bridge_is_for_loading(pipe):
    with pytest.raises(InputError, match="bridge is for loading"):
        draw(pipe, bridge="mini")
