"""Flags read off a class of settings."""

from pathlib import Path
from typing import Literal

import pytest
from cyclopts import App

from altdiffusion import InputError
from altdiffusion.cli.flags import command
from altdiffusion.cli.help import page
from altdiffusion.cli.options import DeviceSettings
from altdiffusion.devices import DTYPES
from altdiffusion.settings import Settings, choices_of, setting


class CakeSettings(Settings):
    eggs: int = setting(3, "to break", minimum=1)
    flour: Literal["wheat", "rye"] = setting("wheat", "to sift")
    fruit: list[str] = setting([], "to wash", source="path")
    mould: Path | None = setting(None, "to fill (default: a round one)")
    salted: bool = setting(False, "with salt", flag="salt")


@command(CakeSettings)
def bake(settings):
    """Bakes.

    altdiffusion bake --eggs 4
    """


def read(*words, unknown=()):
    app = App(name="bake", help_flags=(), version_flags=())
    app.default(bake)
    command, bound, _, _ = app.parse_known_args(words)
    return command(*bound.args, **bound.kwargs, unknown=unknown).settings


def test_values_are_checked_by_the_class():
    assert read() == CakeSettings()
    assert read("--eggs", "4", "--flour=rye", "--mould", "m") == CakeSettings(eggs=4, flour="rye", mould="m")
    with pytest.raises(InputError) as caught:
        read("--eggs", "-1", "--flour", "oats", "--salt", "maybe", "--fruit", "nowhere", unknown=["--zest", "--egg"])
    assert str(caught.value) == (
        "--zest is no option; --egg is no option: do you mean --eggs?; --eggs: expected at least 1, got -1; "
        "--flour: expected one of wheat, rye, got 'oats'; --salt: expected true or false, got 'maybe'; "
        "--fruit: there is no nowhere"
    )


def test_several_values_and_switches(tmp_path):
    for name in "abc":
        (tmp_path / name).touch()
    fruit = [str(tmp_path / name) for name in "abc"]
    settings = read("--fruit", *fruit[:2], "--salt", "--fruit", fruit[2], "--eggs", "1", "--eggs", "2")
    assert (settings.fruit, settings.salted, settings.eggs) == (fruit, True, 2)
    assert read("--salt", "false") == CakeSettings()


def test_help_is_read_off_the_class():
    app = App(name="bake")
    app.default(bake)
    assert (
        page(["altdiffusion", "bake"], app)
        == """\
Usage: altdiffusion bake [OPTIONS]

Bakes.

Options:
  --eggs N                  to break; at least 1 (default: 3)
  --flour wheat|rye         to sift (default: wheat)
  --fruit FRUIT...          to wash
  --mould PATH              to fill (default: a round one)
  --salt                    with salt

Example:
  altdiffusion bake --eggs 4"""
    )


def test_dtypes_are_those_that_models_are_read_in():
    assert choices_of(DeviceSettings.model_fields["dtype"]) == tuple(DTYPES)
