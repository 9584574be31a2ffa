"""A run that is killed and begun again ends as one that wasn't."""

import json
import signal

import pytest

from altdiffusion.generation.manifest import NAME

RUN = "altdiffusion.generation.run:save_image"
PROMPTS = "prompt,seed,steps,negative_prompt\n一只猫,1,,\na dog,,2,\n{red|blue} car,,,\n一只猫,1,,\nقطة,,,模糊\n"


@pytest.fixture
def words(published, tmp_path):
    (tmp_path / "p.csv").write_text(PROMPTS)
    return ["generate", "--prompts-file", tmp_path / "p.csv", "--steps", 1, "--size", "16x16", "--model", published("m9"),
            "--num-images", 2]  # fmt: skip


def files_of(folder):
    """Name -> bytes of every file but the manifest, whose lines come apart: they may be in another order."""
    lines = [json.loads(line) for line in (folder / NAME).read_text().splitlines()]
    images = sorted((line for line in lines if "key" in line), key=lambda line: line["key"])
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != NAME}, images


def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(forks, words, tmp_path):
    moments = [
        ("altdiffusion.files:append_line", 1),  # before its first line
        ("os:replace", 3),  # while an image is written
        ("altdiffusion.files:append_line", 4),  # between an image and its line
        (RUN, 2),
        ("altdiffusion.generation.run:contact_sheet", 1),
    ]
    seed, statuses = ["--seed", 3], []
    for moment in moments:
        statuses += forks.run(*words, *seed, "--out", tmp_path / "cut", "--resume", kill_at=moment).status
    assert statuses == [-signal.SIGKILL] * len(moments)
    with (tmp_path / "cut" / NAME).open("a") as manifest:
        manifest.write('{"key": "half')
    assert forks.run(*words, *seed, "--out", tmp_path / "cut", "--resume").status == [0]
    assert forks.run(*words, *seed, "--out", tmp_path / "whole").status == [0]
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_a_resumed_run_keeps_its_random_seed_and_redoes_nothing(forks, words, tmp_path):
    out = tmp_path / "out"
    assert forks.run(*words, "--out", out, kill_at=(RUN, 4)).status == [-signal.SIGKILL]
    first = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert len(first) == 3
    done = forks.run(*words, "--out", out, "--resume", "--json")
    document = json.loads(done.stdout)
    assert "3 of 12 images are there already" in done.stderr
    assert [one["prompt"] for one in document["pictures"][::2]] == [
        "一只猫",
        "a dog",
        "red car",
        "blue car",
        "一只猫",
        "قطة",
    ]
    assert len({one["path"] for one in document["pictures"]}) == 12
    assert {one["seed"] for one in document["pictures"] if one["prompt"] == "一只猫"} == {1, 2}
    assert len({one["seed"] for one in document["pictures"] if one["prompt"] != "一只猫"}) == 2
    assert {name: (out / name).stat().st_mtime_ns for name in first} == first
    assert len(document["sheets"]) == 1
