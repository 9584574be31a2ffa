"""The settings of one image: their ranges, what they need of each other, what they are where nothing is said."""

import subprocess
import sys

import pytest

from altdiffusion import InputError
from altdiffusion.generation.settings import ImageSettings, settings_with
from altdiffusion.settings import read_settings, type_of


def test_neither_torch_nor_diffusers_nor_pillow_is_imported():
    script = "import sys, altdiffusion.generation.settings; assert not {'torch', 'diffusers', 'PIL'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"steps": "0"}, "--steps: expected 1 to 999, got 0"),
        ({"steps": "many"}, "--steps: expected a whole number or none, got 'many'"),
        ({"guidance_scale": "nan"}, "--guidance-scale: expected at least 0, got nan"),
        ({"strength": "2", "init_image": "x.png"}, "--strength: expected above 0, at most 1, got 2"),
        ({"dtype": "int3"}, "--dtype: expected one of float32, float16, bfloat16, got 'int3'"),
        ({"width": "64"}, "one of width and height"),
        ({"width": "65", "height": "64"}, "--size: expected a multiple of 8, got 65"),
        ({"width": "50", "height": "50"}, "^--size: expected a multiple of 8, got 50$"),
        ({"strength": "0.5"}, "strength needs an init image: give one, or leave strength out"),
        ({"mask": "m.png"}, "mask needs an init image"),
        ({"mask_blur": "4"}, "mask blur needs a mask: give one, or leave mask blur out"),
        ({"mask_blur": "0", "init_image": "x.png"}, "mask blur needs a mask"),
        ({"only_masked": "32", "init_image": "x.png"}, "only masked needs a mask"),
        ({"mask_blur": "65", "init_image": "x.png", "mask": "m.png"}, "--mask-blur: expected 0 to 64, got 65"),
        ({"only_masked": "-1", "init_image": "x.png", "mask": "m.png"}, "--only-masked: expected 0 to 256, got -1"),
        ({"init_image": "x.png", "strength": "0.1", "steps": "9"}, "strength 0.1 of 9 steps leaves no step"),
        ({"prompt": " "}, "no prompt: expected at least one"),
        ({"steps": "0", "seed": "-1"}, "--steps.*; --seed"),
    ],
)
def test_what_is_wrong_is_named(flags, line):
    with pytest.raises(InputError, match=line):
        read_settings(ImageSettings, {"prompt": "猫"} | flags)


def test_what_is_not_said_is_the_default():
    got = ImageSettings(prompt="猫").resolved("BAAI/AltDiffusion-m9")
    assert (got.steps, got.guidance_scale, got.strength, got.scheduler) == (25, 7.5, None, None)
    assert 0 <= got.seed < 2**32
    assert got.resolved("mini") == got
    assert ImageSettings(prompt="猫").resolved("mini").guidance_scale == 4
    assert ImageSettings(prompt="猫", init_image="x.png").resolved(None).strength == 0.8
    masked = ImageSettings(prompt="猫", init_image="x.png", mask="m.png").resolved(None)
    assert (masked.strength, masked.mask_blur, masked.only_masked) == (1.0, 0, None)
    assert (got.mask_blur, masked.replace(mask_blur=4).resolved(None).mask_blur) == (None, 4)


def test_every_flag_has_its_help_and_every_name_in_a_png_is_its_own():
    fields = ImageSettings.model_fields
    assert all(fields[name].description for name in settings_with("metavar"))
    labels = [fields[name].json_schema_extra["infotext"] for name in settings_with("infotext")]
    assert len(labels) == len(set(labels))
    assert {type_of(field) for field in fields.values()} <= {str, int, float, bool}
