"""The command as people run it: a process of its own, its streams, its exit status."""

import json
import logging
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from PIL import Image

from altdiffusion.cli.main import main
from altdiffusion.cli.terminal import hide_loading

COMMAND = [sys.executable, "-m", "altdiffusion.cli"]


def run(*words, **options):
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["generate", "--help"], ["convert", "--help"], ["info", "--help"]]
)
def test_help_does_not_import_torch(words):
    script = f"import sys; from altdiffusion.cli import main\ntry: main({words!r})\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "altdiffusion" in done.stdout


def test_generate_draws_with_mini_and_prints_one_json_document(tmp_path):
    done = run("generate", "一只猫", "a cat", "--out", tmp_path / "d", "--seed", 1, "--steps", 2, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [picture["prompt"] for picture in document["pictures"]] == ["一只猫", "a cat"]
    assert all(Image.open(picture["path"]).size == (64, 64) for picture in document["pictures"])
    assert "mini:" in done.stderr
    assert "BAAI/AltDiffusion-m9" in done.stderr


def test_info_prints_the_command_that_draws_the_picture_again(published, tmp_path):
    made = run(
        "generate",
        "一只猫",
        "--model",
        published("m9"),
        "--out",
        tmp_path / "a.png",
        "--steps",
        2,
        "--scheduler",
        "ddpm",
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.split() == [str(tmp_path / "a.png")]
    told = run("info", tmp_path / "a.png", "--json")
    command = json.loads(told.stdout)["command"]
    again = subprocess.run(
        command.replace("altdiffusion", " ".join(COMMAND), 1) + f" --out {tmp_path}/b.png",
        shell=True,
        capture_output=True,
    )
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_convert_and_draw_with_the_result(published, tmp_path):
    assert run("convert", published("m9", "bin"), tmp_path / "out", "--allow-pickle").returncode == 0
    assert run("generate", "猫", "--model", tmp_path / "out", "--steps", 1, "--out", tmp_path / "x.png").returncode == 0


def test_info_reports_versions_device_and_attention():
    facts = json.loads(run("info", "--json").stdout)
    assert facts["attention_unet"].startswith(("sdpa/", "xformers"))
    assert facts["device"] in facts["devices"]
    assert facts["torch"][0].isdigit()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "COMMAND"),
        (["generate"], "PROMPT"),
        (["paint"], "paint"),
        (["generate", "a", "--steps", "many"], "many"),
        (["generate", "a", "--size", "64"], "WIDTHxHEIGHT"),
        (["generate", ""], "no prompt"),
        (["generate", "a", "--steps", "0"], "0 steps"),
        (["generate", "a", "--size", "65x64"], "multiples of 8"),
        (["generate", "a", "b", "--out", "x.png"], "one file"),
        (["generate", "a", "--out", "/proc/nowhere"], "/proc"),
        (["generate", "a", "--out", "/dev/null"], "expected a folder"),
        (["generate", "a", "--model", "./nowhere"], "unknown model"),
        (["generate", "a", "--model", "BAAI/AltDiffusion-m9"], "can't be reached"),
        (["generate", "a", "--scheduler", "magic"], "euler-a"),
        (["generate", "a", "--device", "cuda:99"], "this machine has"),
        (["generate", "a", "--init-image", "nowhere.png"], "no such image"),
        (["convert", "./nowhere", "out"], "unknown model"),
        (["info", "nowhere.png"], "no such image"),
    ],
)
def test_bad_input_is_one_line_and_status_2(words, line, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)  # this process's own handlers stay
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    told = [text for text in captured.err.splitlines() if not text.startswith(("loading", "mini:"))]
    assert status == 2
    assert len(told) == 1, captured.err
    assert line in told[0]
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_whole_pictures_and_no_partial_file(published, tmp_path, sign):
    words = ["generate", "一只猫", "--model", published("m9"), "--steps", "8", "--num-images", "500", "--out", tmp_path]
    with subprocess.Popen(
        [*COMMAND, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()  # the first image is there
        time.sleep(0.3)
        process.send_signal(sign)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
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


def test_unwritable_folder_is_said_before_loading(tmp_path, monkeypatch, capsys):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    assert main(["generate", "a", "--out", str(tmp_path / "x")]) == 2
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("message", "is_shown"), [("No LoRA keys associated to CLIPTextModel found", False), ("x", True)]
)
def test_a_lora_of_the_unet_alone_is_nothing_to_warn_of(message, is_shown):
    hide_loading()
    logger = logging.getLogger("diffusers.loaders.lora_base")
    assert bool(logger.filter(logger.makeRecord(logger.name, logging.WARNING, "", 0, message, (), None))) == is_shown
