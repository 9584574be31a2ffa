"""Where models are looked for."""

import pytest

from altdiffusion import InputError
from altdiffusion.checkpoints.hub import locate, mini_folder


def test_the_output_dir_of_a_training_stands_for_its_model(tmp_path):
    for name in ("settings.json", "log.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="holds a training that has not ended: go on with --resume"):
        locate(tmp_path)
    (tmp_path / "model").mkdir()
    assert locate(tmp_path) == locate(tmp_path / "model") == tmp_path / "model"


def test_any_other_folder_stands_for_itself(tmp_path):
    (tmp_path / "model").mkdir()
    assert locate(tmp_path) == tmp_path
    assert locate(None) == locate("mini") == mini_folder()
