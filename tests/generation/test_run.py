"""A run that is killed and begun again ends as one that wasn't."""

import json
import signal
from types import SimpleNamespace

import pytest

from altdiffusion.generation.manifest import NAME

PROMPTS = "prompt,seed,steps,negative_prompt\n一只猫,1,,\na dog,,2,\n{red|blue} car,,,\n一只猫,1,,\nقطة,,,模糊\n"
MOMENTS = [
    ("altdiffusion.files:append_line", 1),  # before its first line
    ("os:replace", 2),  # while an image is written
    ("altdiffusion.files:append_line", 3),  # between an image and its line
    ("altdiffusion.generation.run:contact_sheet", 1),
]


@pytest.fixture(scope="module")
def killed(forks, published, tmp_path_factory):
    """A run over a file of prompts without a seed, killed at each moment and then done, and the same in one go."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "p.csv").write_text(PROMPTS)
    words = ["generate", "--prompts-file", folder / "p.csv", "--steps", 1, "--size", "16x16", "--model", published("m9"),
             "--json"]  # fmt: skip
    cut, whole = folder / "cut", folder / "whole"
    statuses, times = [], []
    for moment in MOMENTS:
        statuses += forks.run(*words, "--out", cut, "--resume", kill_at=moment).status
        times.append({path.name: path.stat().st_mtime_ns for path in cut.glob("*.png")})
    with (cut / NAME).open("a") as manifest:
        manifest.write('{"key": "half')
    last = forks.run(*words, "--out", cut, "--resume")
    seed = json.loads((cut / NAME).open().readline())["seed"]
    in_one_go = forks.run(*words, "--out", whole, "--seed", seed)
    assert statuses == [-signal.SIGKILL] * len(MOMENTS)
    assert last.status == in_one_go.status == [0], last.stderr + in_one_go.stderr
    return SimpleNamespace(cut=cut, whole=whole, times=times, last=last, in_one_go=in_one_go)


def manifest_of(folder):
    """Its lines of images, which may come in another order."""
    lines = [json.loads(line) for line in (folder / NAME).read_text().splitlines()]
    return sorted((line for line in lines if "key" in line), key=lambda line: line["key"])


def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(killed):
    cut, whole = (
        {path.name: path.read_bytes() for path in folder.iterdir() if path.name != NAME}
        for folder in (killed.cut, killed.whole)
    )
    assert cut == whole
    assert len(cut) == 6 + 1
    assert manifest_of(killed.cut) == manifest_of(killed.whole)


def test_a_resumed_run_redoes_nothing(killed):
    assert "6 of 6 images are there already" in killed.last.stderr
    done = [len(times) for times in killed.times]
    assert done == [0, 1, 3, 6]
    last = {path.name: path.stat().st_mtime_ns for path in killed.cut.glob("*.png")}
    noted = manifest_of(killed.cut)
    for earlier in killed.times[1:]:
        redone = [name for name in earlier if last[name] != earlier[name]]
        assert len(redone) <= (earlier is killed.times[2])  # at most the image that had no line yet
    assert len(noted) == 6


def test_the_document_lists_earlier_images_too_in_the_order_of_the_prompts(killed):
    cut, whole = json.loads(killed.last.stdout), json.loads(killed.in_one_go.stdout)
    assert [one["prompt"] for one in cut["pictures"]] == ["一只猫", "a dog", "red car", "blue car", "一只猫", "قطة"]
    assert len({one["path"] for one in cut["pictures"]}) == 6
    assert len(cut["sheets"]) == 1
    for document in (cut, whole):
        for one in document["pictures"]:
            one.pop("path")
    assert cut["pictures"] == whole["pictures"]
