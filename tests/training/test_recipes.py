"""The recipes in pipelines/ and their settings: they parse, and each says what it needs."""

import subprocess
import sys
from pathlib import Path

import pytest

from altdiffusion.errors import InputError
from altdiffusion.settings import read_settings
from altdiffusion.training.stage_settings import STAGES

PIPELINES = Path(__file__).parents[2] / "pipelines"
RECIPES = sorted(PIPELINES.glob("train_*.py"))
FILES = sorted((PIPELINES / "settings").glob("*.toml"))


def test_there_is_a_settings_file_for_each_stage_that_was_published():
    stages = {path.stem.split("-")[0] for path in FILES}
    assert stages == set(STAGES) - {"autoencoder"}  # Stable Diffusion's own is used as it is


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_settings_are_all_known_and_in_range(path):
    settings_class, _ = STAGES[path.stem.split("-")[0]]
    with pytest.raises(InputError) as error:  # data and folders are the user's to give
        read_settings(settings_class, {}, path)
    problems = str(error.value).split("; ")
    assert problems
    assert all("is missing" in problem for problem in problems), problems


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_without_its_arguments_says_what_it_needs(path):
    result = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    assert result.returncode == 2
    assert "required" in result.stderr
    assert "Traceback" not in result.stderr
