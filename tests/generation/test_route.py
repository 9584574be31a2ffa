"""--route and --literal: on the command line, in batches, in the text inside a PNG; and what a bridge at CLIP's exit takes."""

import json
import signal

import numpy as np
import pytest
from helpers.bridges import readable, save_english_and_bridges, small_entrance_bridge

from altdiffusion import InputError, generate, generate_all, swap_text_encoder
from altdiffusion.cli.main import main
from altdiffusion.generation.infotext import from_infotext, open_info, to_command, to_infotext
from altdiffusion.generation.settings import ImageSettings

MIXED = "一只猫, a dog"
SMALL = {"steps": 2, "size": (16, 16), "seed": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """english, a Stable Diffusion; entrance and exit, bridges."""
    root = tmp_path_factory.mktemp("route")
    save_english_and_bridges(root)
    return root


@pytest.fixture(scope="module")
def pipe(published):
    stock = readable()
    return swap_text_encoder(stock, published("m9"), bridge=small_entrance_bridge(stock))


def image(prompt, model, **options):
    return np.asarray(next(generate(prompt, model=model, **SMALL, **options)).image, np.int16)


def test_images_of_other_routes_are_right_in_one_run(pipe):
    settings = ImageSettings(prompt=MIXED, steps=2, width=16, height=16, seed=1)
    asked = [
        settings,
        settings.replace(route="all"),
        settings.replace(route="none"),
        settings.replace(literal=["一只猫"]),
        settings.replace(route="auto"),
    ]
    found = dict(generate_all(asked, pipe=pipe, batch_size=8))
    images = [np.asarray(found[index].image, np.int16) for index in range(5)]
    alone = [image(MIXED, pipe, route=each.route, literal=each.literal) for each in asked]
    assert all(np.abs(one - other).max() <= 1 for one, other in zip(images, alone, strict=True))
    assert np.array_equal(alone[0], alone[4])
    assert not np.array_equal(alone[0], alone[1])
    assert np.array_equal(alone[2], image(MIXED, readable()))
    assert np.array_equal(alone[2], alone[3])
    assert [found[index].settings.route for index in range(5)] == [None, "all", "none", None, "auto"]


def test_an_english_prompt_is_the_models_own_and_clip_skip_is_taken(pipe):
    plain = readable()
    for options in ({"weighting": "no-norm"}, {"weighting": "masked", "clip_skip": 2}):
        assert np.array_equal(image("a (cat:1.2)", pipe, **options), image("a (cat:1.2)", plain, **options))
    assert not np.array_equal(image("猫", pipe, clip_skip=2), image("猫", pipe))


def test_a_loaded_pipeline_without_a_bridge_refuses_a_route():
    with pytest.raises(InputError, match="route: this model has no bridge at CLIP's entrance"):
        image("a cat", readable(), route="all")


def test_the_command_line_reads_a_model_with_a_bridge(folder, published, tmp_path, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    words = ["--model", folder / "english", "--bridge", folder / "entrance", "--text-encoder", published("m9")]
    words += ["--route", "all", "--literal", "sks", "--literal", "ohwx, x", "--clip-skip", "2", "--steps", "2"]
    words += ["--size", "16x16", "--seed", "1", "--out", tmp_path / "cat.png", "--device", "cpu"]
    assert main(["generate", "猫, sks", *map(str, words)]) == 0
    read = open_info(tmp_path / "cat.png")
    assert (read.route, read.literal, read.clip_skip) == ("all", ["sks", "ohwx, x"], 2)


@pytest.mark.parametrize(
    "said",
    [
        {"route": "none"},
        {"route": "all", "literal": ["sks"]},
        {"literal": ["sks style, ink", "[a]"]},
        {"literal": ['["a"]']},
    ],
)
def test_the_text_inside_a_png_is_read_back(said):
    settings = ImageSettings(prompt="猫", steps=2, bridge="mini", **said)
    text = to_infotext(settings)
    assert ("Route: " in text, "Literal words: " in text) == ("route" in said, "literal" in said)
    read = from_infotext(text)
    assert (read.route, read.literal) == (settings.route, settings.literal)
    assert ("--route" in to_command(read), "--literal" in to_command(read)) == ("route" in said, "literal" in said)
    assert "--route" not in to_command(read.model_copy(update={"bridge": None}))


@pytest.mark.parametrize(
    ("said", "bridge", "problems"),
    [
        ({"route": "all"}, None, ["route needs bridge: name one, or leave route out"]),
        ({"literal": ["sks"]}, None, ["literal needs bridge: name one, or leave literal out"]),
        ({"literal": []}, None, []),
        ({"route": "all", "literal": ["a"], "clip_skip": 2}, "entrance", []),
        ({"clip_skip": 2}, "exit", ["clip skip 2: a bridge has learnt one layer of CLIP's"]),
        ({"clip_skip": 1}, "exit", []),
        ({"route": "auto"}, "exit", ["stands at CLIP's exit and reads whole prompts, leave route out"]),
        ({"literal": ["a"]}, "exit", ["leave literal out"]),
        ({"prompt": "a `cat"}, "entrance", ["this backquote isn't closed"]),
        ({"prompt": "a `cat", "route": "none"}, "entrance", []),
        ({"prompt": "a `cat"}, "exit", []),
        ({"negative_prompt": "(`x`:1.2) `"}, "entrance", ["this backquote isn't closed"]),
        ({"clip_skip": 2}, "nowhere", []),
    ],
)
def test_what_does_not_fit_a_bridge_is_told_before_it_is_loaded(folder, said, bridge, problems):
    settings = ImageSettings(**({"prompt": "猫"} | said), bridge=bridge and str(folder / bridge))
    found = settings.loading_problems
    assert len(found) == len(problems)
    assert all(problem in line for problem, line in zip(problems, found, strict=True))


@pytest.mark.parametrize("config", ["", "[]", '{"model_type": 3}', json.dumps({"model_type": "clip"})])
def test_what_is_no_bridge_is_left_to_the_loader(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    assert ImageSettings(prompt="a", clip_skip=2, bridge=str(tmp_path)).loading_problems == []
