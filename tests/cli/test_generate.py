"""`altdiffusion generate`, where no image comes out."""

import pytest
import torch

from altdiffusion import AltDiffusionPipeline


@pytest.fixture(scope="module")
def overflowing(published, tmp_path_factory):
    """A model whose VAE is as an overflow leaves it."""
    pipe = AltDiffusionPipeline.from_pretrained(published("m9"))
    torch.nn.init.constant_(pipe.vae.post_quant_conv.weight, float("nan"))
    pipe.save_pretrained(folder := tmp_path_factory.mktemp("overflowing") / "model")
    return folder


@pytest.mark.parametrize(
    "flags",
    [["--out", "x.png"], ["--num-images", 3, "--batch-size", 2], ["--best-of", 2, "--scorer", "mini"], ["--json"]],
)
def test_images_out_of_nan_are_one_line_and_status_1(run, overflowing, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    result = run("generate", "一只猫", "--model", overflowing, "--steps", 1, "--seed", 1, "--size", "16x16", *flags)
    assert result.status == 1
    last = result.err.strip().splitlines()[-1]
    assert last.startswith("altdiffusion: the image of '一只猫' (seed 1)")
    assert "came out as NaN" in last
    assert "--dtype float32" in last
    assert "Traceback" not in result.err
    assert result.out == ""
    assert not list(tmp_path.rglob("*.png"))
