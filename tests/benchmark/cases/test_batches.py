"""Images in batches and one by one, as a document and a chart."""

import json

from PIL import Image

from altdiffusion.cli.main import main


def test_many_pictures_together_and_one_by_one(tmp_path):
    words = ["--cases", "batches", "--pictures", "2", "--rounds", "1", "--device", "cpu"]
    assert main(["benchmark", *words, "--json", str(tmp_path / "f.json"), "--plot", str(tmp_path / "f.png")]) == 0
    (found,) = json.loads((tmp_path / "f.json").read_text())["comparisons"]
    assert [each["name"] for each in found["contenders"]] == ["batch_size='auto'", "batch_size=1"]
    assert Image.open(tmp_path / "f.png").width > 500
