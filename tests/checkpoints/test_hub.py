"""Where models are looked for."""

import pytest

from altdiffusion import InputError
from altdiffusion.checkpoints.hub import mini_folder, resolve


def test_the_output_dir_of_a_training_stands_for_its_model(tmp_path):
    for name in ("settings.json", "log.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="holds a training that has not ended: go on with --resume"):
        resolve(tmp_path)
    (tmp_path / "model").mkdir()
    assert resolve(tmp_path) == resolve(tmp_path / "model") == tmp_path / "model"


def test_any_other_folder_stands_for_itself(tmp_path):
    (tmp_path / "model").mkdir()
    assert resolve(tmp_path) == tmp_path
    assert resolve(None) == resolve("mini") == mini_folder()
