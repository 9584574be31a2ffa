"""The command as people run it: its streams, its exit status, and a process of its own where that is what is tested."""

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from PIL import Image

from altdiffusion.cli.main import COMMANDS, parse

COMMAND = [sys.executable, "-m", "altdiffusion.cli"]
pytestmark = pytest.mark.long
EARLY = [  # wrong input of each command, which is said before the libraries load
    (["generate", "a", "--init-image", "nowhere.png", "--mask", "m.png", "--lora", "l.safetensors"], "no such image"),
    (["generate", "a", "--scheduler", "magic"], "unknown scheduler 'magic': expected one of ddim"),
    (["generate", "a", "--device", "gpu", "--dtype", "int8", "--steps", "0"], "--device: expected cuda"),
    (["score", "nowhere.png", "--prompt", "a"], "no such image: nowhere.png"),
    (["score", ".", "--prompt", "a", "--model", "./nowhere"], "unknown model './nowhere'"),
    (["generate", "a (cat", "--prompt-syntax", "webui"], "character 3, “a (cat”: ( isn't closed"),
    (["tokens", "a", "--model", "./nowhere"], "unknown model './nowhere'"),
    (["info", "nowhere.png"], "no such image"),
    (["invert", "猫", "--bridge", "./nowhere", "--out", "x.png"], "x.png"),
    (["demo", "--models", "./nowhere", "--port", "99999"], "--port: expected 0 to 65535"),
    (["serve", "--models", "./nowhere", "--port", "99999"], "--port: expected 0 to 65535"),
    (["batch", "index", "nowhere", "out"], "FEATURES: there is no nowhere"),
    (["search", "nowhere", "a", "--top", "0"], "INDEX: there is no nowhere"),
    (["export", "onnx", "mini", "out", "--part", "bridge"], "--bridge and --part bridge belong together"),
    (["convert", "./nowhere", "out"], "unknown model './nowhere'"),
    (["train", "align", "--model", "m.bin", "--train-data", "x*.tar", "--output-dir", "o"], "there is no x*.tar"),
    (["train", "align", "--config", "nowhere.toml"], "can't be read"),
    (["train", "bridge", "--preset", "sd15", "--languages", "xx", "--output-dir", "o"], "preset sd15 has ar de en"),
    (["train", "bridge", "--preset", "sd15", "--output-dir", "o", "--hour-price", "1"], "--hour-price is what --plan"),
    (
        ["train", "distill", "--teacher", "mini", "--student", "mini", "--train-data", "hub:x", "--output-dir", "o"],
        "hub:x names",
    ),
    (["batch", "score", "gone.csv", "out"], "there is no gone.csv"),
    (["evaluate", "retrieval", "nowhere", "--batch-size", "0"], "--batch-size: expected at least 1, got 0"),
    (["evaluate", "classification", "nowhere"], "there is no nowhere"),
    (["evaluate", "generation", "nowhere.tsv", "--out", "o"], "there is no nowhere.tsv"),
    (["evaluate", "mini", "--languages", "de"], "expected one of en, zh"),
    (["benchmark", "--width", "65"], "--width: expected a multiple of 64, got 65"),
]


def test_help_and_wrong_input_come_before_the_libraries(tmp_path):
    """In one process: what is imported stays, so the last word of all shows that none of them imported torch."""
    script = f"""
import sys
from altdiffusion.cli.main import main
assert not {{"pydantic", "rich", "cyclopts"}} & set(sys.modules)
for words in ([], ["--help"], ["--version"]):
    assert main(words) == 0
assert not {{"pydantic", "rich", "cyclopts"}} & set(sys.modules)
for words in {[["generate", "--help"], ["convert", "--help"], ["info", "-h"], ["train", "--help"]]!r}:
    assert main(words) == 0
for words in {[words for words, _ in EARLY]!r}:
    assert main(words) == 2, words
    assert not {{"torch", "diffusers", "transformers"}} & set(sys.modules), words
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(EARLY), done.stderr
    for line, (words, reason) in zip(lines, EARLY, strict=True):
        assert reason in line, words
    assert {words[0] for words, _ in EARLY} == {command.name for command in COMMANDS}


def test_help_shows_commands_in_groups_with_an_example(run):
    page = run().out
    for command in COMMANDS:
        assert f"  {command.name} " in page
        assert f"{command.group}:" in page
    assert page == run("--help").out == run("-h").out
    assert run("--version").out.startswith("altdiffusion 0.")


@pytest.mark.parametrize(
    "words", [["generate"], ["score"], ["tokens"], ["info"], ["demo"], ["serve"], ["search"], ["convert"],
              ["export", "onnx"], ["train", "bridge"], ["evaluate", "mini"], ["benchmark"]]
)  # fmt: skip
def test_each_command_has_an_example(run, words):
    page = run(*words, "--help").out
    assert f"Example:\n  altdiffusion {' '.join(words)} " in page.replace("info\n", "info \n")


def test_generate_with_mini_prints_one_json_document(run, tmp_path):
    done = run("generate", "一只猫", "a cat", "--out", tmp_path / "d", "--seed", 1, "--steps", 2, "--json")
    assert done.status == 0, done.err
    document = json.loads(done.out)
    assert [picture["prompt"] for picture in document["pictures"]] == ["一只猫", "a cat"]
    assert all(Image.open(picture["path"]).size == (64, 64) for picture in document["pictures"])
    assert "mini:" in done.err
    assert "BAAI/AltDiffusion-m9" in done.err


def test_a_log_has_a_line_for_each_image_and_no_bars(tmp_path):
    words = ["generate", "a", "b", "--out", str(tmp_path), "--steps", "2"]
    done = subprocess.run([*COMMAND, *words], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith(b"\n1 of 2 images\n2 of 2 images\n")
    assert b"\r" not in done.stderr
    assert b"it/s" not in done.stderr


def test_info_prints_the_command_that_generates_the_image_again(run, published, tmp_path):
    made = run("generate", "一只猫", "--model", published("m9"), "--out", tmp_path / "a.png", "--steps", 2,
               "--scheduler", "ddpm")  # fmt: skip
    assert made.status == 0, made.err
    assert made.out.split() == [str(tmp_path / "a.png")]
    command = json.loads(run("info", tmp_path / "a.png", "--json").out)["command"]
    again = run(*shlex.split(command)[1:], "--out", tmp_path / "b.png")
    assert again.status == 0, again.err
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_convert_and_generate_with_the_result(run, published, tmp_path):
    assert run("convert", published("m9", "bin"), tmp_path / "out", "--allow-pickle").status == 0
    done = run("generate", "猫", "--model", tmp_path / "out", "--steps", 1, "--out", tmp_path / "x.png")
    assert done.status == 0, done.err


def test_info_reports_versions_device_and_attention(run):
    facts = json.loads(run("info", "--json").out)
    assert facts["attention_unet"].startswith(("sdpa/", "xformers"))
    assert facts["device"] in facts["devices"]
    assert facts["torch"][0].isdigit()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["generate"], "PROMPT"),
        (["paint"], "paint is no command: do you mean train?"),
        (["scor", "--help"], "scor is no command: do you mean score?"),
        (["train"], "expected one of distill"),
        (["train", "distil"], "distil is no command: do you mean distill?"),
        (["generate", "a", "--guidence-scale", "3"], "--guidence-scale is no option: do you mean --guidance-scale?"),
        (
            ["generate", "a", "--guidence-scale", "3", "-x", "--steps", "0"],
            "-x is no option; --steps: expected 1 to 999",
        ),
        (["generate", "a", "--steps", "many"], "many"),
        (["generate", "a", "--steps"], "--steps: expected one argument, got none"),
        (["generate", "a", "--size", "64"], "WIDTHxHEIGHT"),
        (["generate", ""], "no prompt"),
        (["generate", "a", "--steps", "0"], "--steps: expected 1 to 999, got 0"),
        (["generate", "a", "--seed", "-1"], "--seed: expected 0 to"),
        (["generate", "a", "--size", "65x64"], "--size: expected a multiple of 8, got 65"),
        (["generate", "a", "--batch-size", "65"], "--batch-size: expected 1 to 64, or auto, got '65'"),
        (["generate", "a", "--best-of", "2", "--num-images", "3"], "--best-of 2: expected at least --num-images, 3"),
        (["generate", "a", "b", "--out", "x.png"], "one file"),
        (["generate", "a", "--out", "/proc/nowhere"], "/proc"),
        (["generate", "a", "--out", "/dev/null"], "expected a folder"),
        (["generate", "a", "--model", "./nowhere"], "unknown model"),
        (["generate", "a", "--model", "."], "is an empty folder: expected a model's"),
        (["generate", "a", "--model", "BAAI/AltDiffusion-m9"], "can't be reached"),
        (["generate", "a", "--scheduler", "magic"], "euler-a"),
        (["generate", "a", "--device", "cuda:99"], "this machine has"),
        (["generate", "a", "--init-image", "nowhere.png"], "no such image"),
        (["serve", "--models", "./nowhere", "--port", "99999"], "--port: expected 0 to 65535"),
        (["convert", "./nowhere", "out"], "unknown model"),
        (["generate", "a (cat", "--prompt-syntax", "webui"], "character 3, “a (cat”: ( isn't closed"),
        (["tokens", "a", "--model", "./nowhere"], "unknown model './nowhere'"),
        (["info", "nowhere.png"], "no such image"),
        (["info", "."], ". is a folder: expected an image"),
    ],
)
def test_bad_input_is_one_line_and_status_2(run, words, line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = run(*words)
    told = [text for text in done.err.splitlines() if not text.startswith(("loading", "mini:"))]
    assert done.status == 2
    assert len(told) == 1, done.err
    assert line.lower() in told[0].lower()
    assert done.out == ""
    assert not list(tmp_path.iterdir())


def test_words_are_read_as_they_were_by_argparse():
    settings = parse(["generate", "--json", "true", "a", "--guidance-scale=-0", "--seed", "1", "--seed", "2"]).settings
    assert (settings.prompts, settings.as_json, settings.guidance_scale, settings.seed) == (["true", "a"], True, 0, 2)
    settings = parse(["generate", "--size", "512X256", "--batch-size", "auto", "--", "--help", "-x"]).settings
    assert (settings.prompts, settings.pixels, settings.batch_size) == (["--help", "-x"], (512, 256), "auto")
    settings = parse(["score", "a", "b", "--prompt", "x", "y", "--csv", "--prompt", "z"]).settings
    assert (settings.images, settings.prompt, settings.as_csv) == (["a", "b"], ["x", "y", "z"], True)


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


@pytest.mark.skipif(sys.platform == "win32", reason="words are Unicode there")
def test_under_an_ascii_locale_every_script_is_read_and_written(published, tmp_path):
    """Several commands in one process, with "/" between them."""
    script = """
import itertools, sys
from altdiffusion.cli.main import main
for is_break, words in itertools.groupby(sys.argv[1:], lambda word: word == "/"):
    if not is_break:
        print("==", main(list(words)), flush=True)
"""
    model = ["--model", str(published("m9")), "--steps", "1", "--size", "16x16", "--seed", "1"]
    commands = [
        ["generate", "一只猫", "кошка 😀", *model, "--out", "图"],
        ["generate", "café", *model, "--out", "图/قطة.jpg", "--json"],
        ["info", "图/قطة.jpg", "--json"],
        ["score", "图", "--prompt", "一只猫", "قطة", "--json"],
        ["score", "图", "--prompt", "한국어"],
        ["info", "图/没有.png"],
        ["generate", b"\xb9\xb7", *model, "--out", "图"],
    ]
    words = itertools.chain.from_iterable([*command, "/"] for command in commands)
    done = subprocess.run(
        [sys.executable, "-c", script, *words], env=os.environ | ASCII, cwd=tmp_path, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    outs = re.split(r"== (\d)\n", done.stdout)
    assert outs[1::2] == ["0", "0", "0", "0", "0", "2", "2"], done.stderr
    assert {path.name for path in tmp_path.glob("图/*")} == {"قطة.jpg", "一只猫-1.png", "кошка-1.png"}
    assert json.loads(outs[2])["pictures"][0]["path"] == "图/قطة.jpg"
    assert json.loads(outs[4])["prompt"] == "café"
    assert {row["image"] for row in json.loads(outs[6])["results"]} == {
        "图/قطة.jpg",
        "图/一只猫-1.png",
        "图/кошка-1.png",
    }
    assert "these bytes are no UTF-8" in done.stderr
    assert done.stdout.isascii()
    assert done.stderr.isascii()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_whole_images_and_no_partial_file(published, tmp_path, sign):
    words = ["generate", "一只猫", "--model", published("m9"), "--steps", "8", "--num-images", "500", "--out", tmp_path]
    with subprocess.Popen(
        [*COMMAND, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()  # the first image is there
        time.sleep(0.3)
        process.send_signal(sign)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert "what was finished is kept" in told
    files = list(tmp_path.iterdir())
    assert files
    for file in files:
        assert file.suffix == ".png"
        Image.open(file).load()


def test_a_reader_that_goes_away_is_no_traceback(published, tmp_path):
    command = " ".join(
        [*COMMAND, "generate", "a", "b", "c", "--model", str(published("m9")), "--steps", "1", "--out", str(tmp_path)]
    )
    done = subprocess.run(["bash", "-c", f"{command} | true"], capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def test_unwritable_folder_is_said_before_loading(run, tmp_path, monkeypatch):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    done = run("generate", "a", "--out", tmp_path / "x")
    assert done.status == 2
    assert "Permission denied" in done.err
