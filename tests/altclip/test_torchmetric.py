"""AltCLIPScore: torchmetrics' CLIPScore by AltCLIP, added up over batches and processes."""

import builtins
import copy
import importlib
import pickle
import sys

import numpy as np
import pytest
import torch
from helpers.metric_process import SCORE_TOGETHER
from helpers.small_altclip import save_small
from PIL import Image

from altdiffusion import InputError, PromptScorer

CLIPScore = pytest.importorskip("torchmetrics.multimodal").CLIPScore
from altdiffusion.altclip.torchmetric import AltCLIPScore, altclip_for_clip_score  # noqa: E402

TEXTS = ["a cat", "一只猫", "un gatto, per favore", "кошка на синем фоне", "cat " * 90]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metric") / "altclip"
    save_small(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(folder):
    return PromptScorer.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def images():
    values = np.random.default_rng(0).integers(0, 256, (5, 3, 40, 33), np.uint8)
    return torch.from_numpy(values)


@pytest.fixture(scope="module")
def expected(scorer, images):
    """100 * cosine of each pair; all are above 0 with these weights."""
    return 100 * scorer.score(images, TEXTS).diagonal()


def test_mean_over_all_pairs_however_they_are_batched(scorer, images, expected):
    metric = AltCLIPScore(scorer)
    metric.update(images[:2], TEXTS[:2])
    metric.update([Image.fromarray(images[2].permute(1, 2, 0).numpy())], TEXTS[2])
    metric.update(images[3:].float() / 255, TEXTS[3:])
    assert metric.compute().item() == pytest.approx(expected.mean().item(), abs=1e-4)
    metric.reset()
    best = int(expected.argmax())
    assert metric(images[best], TEXTS[best]).item() == pytest.approx(expected[best].item(), abs=1e-4)
    assert expected.min() > 1


def test_mean_below_zero_counts_as_zero(scorer, images, expected):
    turned = copy.deepcopy(scorer)
    turned.model.visual_projection.weight.data.neg_()
    metric = AltCLIPScore(turned)
    metric.update(images, TEXTS)
    assert metric.total.item() == pytest.approx(-expected.sum().item(), abs=1e-3)
    assert metric.compute().item() == 0


def test_torchmetrics_own_class_gives_the_same_with_our_model(folder, scorer, images, expected):
    theirs, ours = CLIPScore(model_name_or_path=altclip_for_clip_score(folder)), AltCLIPScore(scorer)
    for chosen in [[int(expected.argmax())], expected.topk(3).indices.tolist()]:
        for metric in (theirs, ours):
            metric.reset()
            metric.update(images[chosen], [TEXTS[number] for number in chosen])
        assert ours.compute().item() == pytest.approx(theirs.compute().item(), abs=1e-3)
        assert ours.compute() > 1


def test_states_of_two_metrics_add_up(scorer, images, expected):
    first, second = AltCLIPScore(scorer), AltCLIPScore(scorer)
    first.update(images[:1], TEXTS[:1])
    second.update(images[1:], TEXTS[1:])
    first.merge_state(second)
    assert first.compute().item() == pytest.approx(expected.mean().item(), abs=1e-4)
    assert int(first.pairs) == 5


def test_two_processes_give_the_figure_of_one(forks, folder, scorer, images, expected, tmp_path):
    chosen = expected.topk(3).indices.tolist()  # two pairs in one process, one in the other
    texts = [TEXTS[number] for number in chosen]
    torch.save((images[chosen], texts), tmp_path / "pairs.pt")
    done = forks.run_script(SCORE_TOGETHER, folder, tmp_path, processes=2)
    assert done.status == [0, 0], done.stderr
    alone = AltCLIPScore(scorer)
    alone.update(images[chosen], texts)
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt").item() == pytest.approx(alone.compute().item(), abs=1e-4)


def test_copies_and_pickles(scorer, images, expected):
    best = int(expected.argmax())
    metric = AltCLIPScore(scorer)
    metric.update(images[best], TEXTS[best])
    for twin in (metric.clone(), pickle.loads(pickle.dumps(metric))):
        assert twin.compute().item() == pytest.approx(expected[best].item(), abs=1e-4)
        twin.update(images[best], TEXTS[best])
        assert int(twin.pairs) == 2
    assert int(metric.pairs) == 1


def test_different_numbers_are_refused_and_nothing_is_added(scorer, images):
    metric = AltCLIPScore(scorer)
    with pytest.raises(InputError, match="5 images and 2 texts"):
        metric.update(images, TEXTS[:2])
    assert int(metric.pairs) == 0


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("images", "texts"),
        ("texts", "images"),
        ("texts", "others"),
        ("images", "turned"),
        ("files", "texts"),
        ("texts", "files"),
    ],
)
def test_pairs_of_any_two_kinds_as_torchmetrics_own_class(folder, scorer, images, tmp_path, source, target):
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    pixels, texts = list(images), TEXTS
    given = {"images": images, "turned": images.flip(3), "texts": texts, "others": texts[::-1], "files": paths}
    tensors = given | {"files": pixels}
    ours, theirs = AltCLIPScore(scorer), CLIPScore(model_name_or_path=altclip_for_clip_score(folder))
    ours.update(given[source], given[target])
    theirs.update(tensors[source], tensors[target])
    assert ours.compute().item() == pytest.approx(theirs.compute().item(), abs=1e-3)
    assert ours.compute() > 1


def test_strings_that_name_images_are_images_in_the_first_place_alone(scorer, images, expected, tmp_path):
    for name in ("one.png", "two"):
        Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(tmp_path / name, format="PNG")
        metric = AltCLIPScore(scorer)
        metric.update(str(tmp_path / name), TEXTS[0])
        assert metric.compute().item() == pytest.approx(expected[0].item(), abs=1e-3)
    metric.update(images[0], "IMG_0001.jpg")  # a caption, as the web has them
    assert int(metric.pairs) == 2
    with pytest.raises(InputError, match=r"no such image: nothere\.jpg"):
        metric.update("nothere.jpg", "a cat")
    with pytest.raises(InputError, match="images and texts mixed, a text is 'a dog'"):
        metric.update([str(tmp_path / "one.png"), "a dog"], TEXTS[:2])


def test_sums_are_float64_and_the_result_has_the_dtype_that_is_set(scorer, images, expected):
    best = int(expected.argmax())
    for dtype in (torch.float32, torch.float16, torch.float64):
        metric = AltCLIPScore(scorer).half().set_dtype(dtype)
        for _ in range(2):
            metric.total += 2.0**30  # as after ten million pairs; a float32 sum would lose the next one's last digits
            metric.update(images[best], TEXTS[best])
            metric.total -= 2.0**30
            assert metric.compute().dtype == dtype
            assert metric.compute().item() == pytest.approx(
                expected[best].item(), abs=0.1 if dtype == torch.float16 else 1e-5
            )
            metric.reset()


def test_plots_one_result_and_several(scorer, images):
    pytest.importorskip("matplotlib").use("agg")
    metric = AltCLIPScore(scorer)
    values = [metric(images[:2], TEXTS[:2]), metric(images[2:], TEXTS[2:])]
    figure, axes = metric.plot()
    assert axes.figure is figure
    assert metric.plot(ax=axes)[1] is axes
    assert metric.plot(values)[1].get_ylim()[1] >= 100


def test_without_torchmetrics_one_line_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "torchmetrics":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "altdiffusion.altclip.torchmetric")
    with pytest.raises(ImportError, match=r"pip install altdiffusion\[metrics\]"):
        importlib.import_module("altdiffusion.altclip.torchmetric")
