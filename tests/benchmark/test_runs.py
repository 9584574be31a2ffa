"""The benchmark: fair peers, honest ratios, and a quick check that fails when an output differs."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from altdiffusion.benchmark import models, quick, runs
from altdiffusion.benchmark.cases import generation, memory, text
from altdiffusion.benchmark.cases.captions import captions
from altdiffusion.benchmark.models import SMALL
from altdiffusion.benchmark.timing import Comparison, Contender, in_turns
from altdiffusion.cli import main
from altdiffusion.forward_override import find
from altdiffusion.speed.openvino_models import UnetForward

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stock():
    return models.diffusion(SMALL, models.text_tower(SMALL, CPU), CPU, torch.float32)


def test_contenders_take_turns_after_a_warm_up():
    calls = []
    found = in_turns({name: lambda name=name: calls.append(name) for name in "ab"}, 2, CPU)
    assert calls == ["a", "b"] * 3
    assert [len(each.values) for each in found] == [2, 2]


def test_a_ratio_is_of_medians_and_tells_how_much_faster_ours_is():
    ours, peer = Contender("ours", [1.0, 2.0, 9.0]), Contender("peer", [6.0, 8.0, 7.0])
    comparison = Comparison("work", [ours, peer, Contender("absent", note="not installed")])
    assert comparison.ratio(peer) == 3.5
    assert comparison.ratio(comparison.contenders[2]) is None
    table = runs.table({"machine": {}, "comparisons": [runs.as_document(comparison)]})
    assert "3.50 x" in table
    assert "not installed" in table


def test_peers_share_our_tensors():
    stock = models.text_tower(SMALL, CPU)
    home = stock.transformation.weight.data_ptr()
    for peer in (models.ours(stock), models.deprecated(stock)):
        assert peer.transformation.weight.data_ptr() == home


def test_the_stock_peer_gets_the_mask_as_published_models_do(stock):
    """Without, diffusers passes none, and the peer would attend to padding: another work."""
    with torch.no_grad():
        theirs, _ = stock.encode_prompt("一只猫", "cpu", 1, False)
        ours, _ = generation.twin(stock).encode_prompt("一只猫", "cpu", 1, False)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_prompts_have_the_real_tokens_that_the_table_names():
    ids, empty = next(text.prompts(3, 100, CPU))
    assert ids.ne(1).sum(1).tolist() == [text.REAL] * 3
    assert empty.ne(1).sum(1).tolist() == [2] * 3


def test_captions_differ_and_are_half_chinese():
    found = captions(40)
    assert len(set(found)) == 40
    assert sum(not each.isascii() for each in found) == 20


def test_quick_is_the_same_everywhere(capsys):
    assert main.main(["benchmark", "--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 20
    assert all(line.startswith("same") for line in lines)


def test_quick_ends_with_1_where_an_output_differs(monkeypatch, capsys):
    monkeypatch.setattr(quick, "check_all", lambda: [quick.Check("good", 0, 1e-5), quick.Check("bad", float("nan"), 1)])
    with pytest.raises(SystemExit) as ended:
        main.main(["benchmark", "--quick"])
    assert ended.value.code == 1
    assert "DIFFERS  bad" in capsys.readouterr().out


def test_text_figures_as_a_document(tmp_path):
    small = ["--rounds", "1", "--layers", "1", "--width", "64"]
    assert (
        main.main(["benchmark", "--cases", "text", *small, "--device", "cpu", "--json", str(tmp_path / "f.json")]) == 0
    )
    report = json.loads((tmp_path / "f.json").read_text())
    assert report["machine"]["torch"] == torch.__version__
    assert report["comparisons"][0]["contenders"][0]["ratio"] == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rounds", "0"], "at least 1"),
        (["--width", "100"], "multiple of 64"),
        (["--channels", "33"], "multiple of 32"),
        (["--device", "cuda:9"], "isn't there"),
        (["--cases", "nonsense"], "invalid choice"),
    ],
)
def test_bad_input_is_one_line(words, says, capsys):
    try:
        status = main.main(["benchmark", *words])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert says in capsys.readouterr().err


def test_memory_that_runs_out_is_one_line(monkeypatch):
    def hungry(sizes, device):
        raise MemoryError

    monkeypatch.setitem(runs.CASES, "text", hungry)
    with pytest.raises(ValueError, match="memory ran out in 'text'"):
        runs.run(["text"], SMALL, "cpu", str)


def test_peak_memory_of_each_setting_is_measured_in_a_process_of_its_own():
    (found,) = memory.measure(SMALL, CPU)
    values = {each.name: each.values for each in found.contenders}
    measured = {name for name, some in values.items() if some}
    assert measured == {"altdiffusion, low_memory", "altdiffusion, plain", "altdiffusion, optimize()", "stock"}
    assert all(0.1 < values[name][0] < 3 for name in measured)  # GB: Python with torch and small models
    assert "GB" in runs.table({"machine": {}, "comparisons": [runs.as_document(found)]})


def test_many_pictures_together_and_one_by_one(tmp_path):
    words = ["--cases", "batches", "--pictures", "2", "--rounds", "1", "--device", "cpu"]
    assert main.main(["benchmark", *words, "--json", str(tmp_path / "f.json"), "--plot", str(tmp_path / "f.png")]) == 0
    (found,) = json.loads((tmp_path / "f.json").read_text())["comparisons"]
    assert [each["name"] for each in found["contenders"]] == ["batch_size='auto'", "batch_size=1"]
    assert Image.open(tmp_path / "f.png").width > 500


def test_ours_and_stock_by_openvino_draw_the_same_and_leave_stock_as_it_is(stock):
    pytest.importorskip("openvino")
    expected = generation.draws(stock, SMALL, 1)()
    ours, peers, absent = generation.on_a_cpu(stock)
    assert absent == []
    for pipe in (*ours.values(), *peers.values()):
        assert find(pipe.unet, UnetForward) is not None
        np.testing.assert_allclose(generation.draws(pipe, SMALL, 1)(), expected, atol=1e-4)
    assert "forward" not in vars(stock.unet)
    np.testing.assert_allclose(generation.draws(stock, SMALL, 1)(), expected)


def test_a_gpus_peers_draw_the_same_pictures(stock, monkeypatch):
    """On a CPU, where xformers can't run, and with PyTorch's "eager" backend, which traces as the compiler does."""
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiler(model, backend="eager"))
    expected = generation.draws(stock, SMALL, 1)()
    peers, _ = generation.gpu_peers(stock)
    peers.pop("stock with xformers", None)
    assert len(peers) == 4
    for peer in peers.values():
        np.testing.assert_allclose(generation.draws(peer, SMALL, 1)(), expected, atol=1e-4)
