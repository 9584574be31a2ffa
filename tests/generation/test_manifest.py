"""The manifest: what it remembers, what it forgives, what it refuses."""

import json

import pytest

from altdiffusion import InputError
from altdiffusion.generation.grid import parse_grid
from altdiffusion.generation.manifest import NAME, Manifest, key_of
from altdiffusion.generation.plan import Plan
from altdiffusion.generation.settings import ImageSettings

SETTINGS = ImageSettings(prompt="一只猫", seed=1, steps=2)


@pytest.fixture
def begun(tmp_path):
    """A manifest of two planned images, of which one is there."""
    manifest = Manifest(tmp_path)
    manifest.begin(7, {"a": "a.png", "b": "b.png", "sheet-c": "c.png"})
    (tmp_path / "a.png").touch()
    manifest.add("a", SETTINGS, filtered=False)
    return manifest


def test_a_run_is_read_again(begun, tmp_path):
    again = Manifest(tmp_path)
    assert (again.seed, again.planned) == (7, {"a": "a.png", "b": "b.png", "sheet-c": "c.png"})
    assert again.done("a") == (SETTINGS, False)
    assert again.done("b") is None
    assert again.unfinished


def test_an_image_that_was_deleted_or_planned_anew_is_not_done(begun, tmp_path):
    begun.begin(7, {"b": "b-2.png"})
    assert begun.done("a")
    (tmp_path / "a.png").unlink()
    assert begun.done("a") is None
    (tmp_path / "a.png").touch()
    begun.begin(7, {"a": "a-2.png"})
    assert begun.done("a") is None


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_half_written_last_line_is_as_if_it_were_not_there(begun, tmp_path, cut):
    path = tmp_path / NAME
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:cut])
    again = Manifest(tmp_path)
    assert again.done("a") is None
    again.begin(7, {})
    again.add("a", SETTINGS, filtered=False)
    assert [list(json.loads(line)) for line in path.read_text().splitlines()] == [
        ["seed", "planned"],
        ["seed", "planned"],
        ["key", "image", "filtered", "settings"],
    ]
    assert Manifest(tmp_path).done("a")


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "[1]",
        "{}",
        '{"key": "a"}',
        '{"seed": 1, "planned": {"a": "../a.png"}}',
        '{"seed": 1, "planned": {"a": "..\\\\a.png"}}',
        '{"seed": 1, "planned": {"a": 3}}',
    ],
)
def test_what_is_no_manifest_is_refused_by_its_line(begun, tmp_path, line):
    with (tmp_path / NAME).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"manifest\.jsonl:3 is no line of a manifest"):
        Manifest(tmp_path)


def test_a_key_is_of_what_was_asked_alone():
    assert key_of(SETTINGS) == key_of(SETTINGS.replace(guidance_scale=None), best_of=None)
    others = [{"seed": 2}, {"prompt": "猫"}, {"steps": 3}, {"negative_prompt": "x"}, {"model": "mini"}]
    assert len({key_of(SETTINGS), *(key_of(SETTINGS.replace(**other)) for other in others)}) == 6
    assert key_of(SETTINGS) != key_of(SETTINGS, best_of=2)


@pytest.mark.parametrize(
    ("prompts", "grid", "options", "names"),
    [
        (["a", "a", "b"], None, {}, ["a-1.png", "a-1-2.png", "b-1.png"]),
        (["a"], None, {"num_images": 2}, ["a-1.png", "a-2.png"]),
        (["a"], None, {"num_images": 2, "best_of": 3}, ["a-1-best-1.png", "a-1-best-2.png"]),
        (["猫{|狗}"], None, {}, ["猫-1.png", "猫狗-1.png", "猫-狗-1-sheet.png"]),
        (["a"], "steps=1,2", {}, ["a-1-steps-1.png", "a-1-steps-2.png", "a-1-sheet.png"]),
        (["a"], "scheduler='a/b','a b'", {}, ["a-1-scheduler-a-b.png", "a-1-scheduler-a-b-2.png", "a-1-sheet.png"]),
    ],
)
def test_names_never_collide_and_say_what_they_are(tmp_path, prompts, grid, options, names):
    plan = Plan(**options)
    for prompt in prompts:
        plan.add(ImageSettings(prompt=prompt, seed=1), [] if grid is None else parse_grid(grid))
    assert list(plan.names(tmp_path, {}, []).values()) == names
    (tmp_path / names[0]).touch()
    assert names[0] not in plan.names(tmp_path, {}, []).values()
    assert not set(names) & set(plan.names(tmp_path, {}, names).values())
    assert not set(names) & set(plan.names(tmp_path, plan.names(tmp_path, {}, names), []).values())
