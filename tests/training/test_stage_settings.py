"""The list of stages: all that a new one needs is an entry."""

import importlib

import pytest

from altdiffusion.training.stage_settings import STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_file_begins_with_the_command_that_runs_it(stage):
    _, place = STAGES[stage]
    module = importlib.import_module(place.partition(":")[0])
    assert f"\n    altdiffusion train {stage} --" in module.__doc__
    assert callable(getattr(module, place.partition(":")[2]))
