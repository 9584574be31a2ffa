"""Settings from flags, a file and Python: their order, and everything that is wrong in one line."""

import math
import re
import signal
from pathlib import Path

import pytest

from altdiffusion import InputError
from altdiffusion.cli.main import main
from altdiffusion.settings import read_settings
from altdiffusion.training import stage_settings
from altdiffusion.training.stage_settings import (
    STAGES,
    AlignSettings,
    ContrastSettings,
    DistillSettings,
    ExtendSettings,
)

NEEDED = {"output_dir": "out", "teacher": "clip", "student": "xlm-r", "train_data": ["a.tsv"]}


def toml(folder, text):
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(flags, config=None, cls=DistillSettings):
    with pytest.raises(InputError) as caught:
        read_settings(cls, flags, config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    config = toml(tmp_path, 'batch-size = 7\nmax_train_steps = 9\nlanguages = ["en", "zh=2"]\nlearning_rate = 1\n')
    settings = read_settings(DistillSettings, NEEDED | {"batch_size": "8"}, config)
    assert (settings.batch_size, settings.max_train_steps, settings.seed) == (8, 9, 0)
    assert settings.languages == ["en", "zh=2"]
    assert settings.learning_rate == 1.0
    assert isinstance(settings.learning_rate, float)


def test_everything_that_is_wrong_is_in_one_line(tmp_path):
    config = toml(tmp_path, 'bach_size = 1\nseed = "x"\ntensorboard = 1\n')
    flags = {"teacher": "clip", "learning_rate": "nan", "max_train_steps": "1.5", "loss": "l2", "temperature": "1"}
    told = problems(flags | {"data_workers": "0", "ema_decay": "1"}, config)
    for part in (
        "settings.toml: bach_size is no setting: do you mean batch_size?",
        "settings.toml: seed: expected a whole number, got 'x'",
        "settings.toml: tensorboard: expected true or false, got 1",
        "--learning-rate: expected at least 0, got nan",
        "--max-train-steps: expected a whole number, got '1.5'",
        "--loss: expected one of mse, cosine, contrastive, got 'l2'",
        "--temperature is no setting",
        "--data-workers: expected 1 to 64, got 0",
        "--ema-decay: expected 0 to 0.999999, got 1",
        "--output-dir is missing",
        "--student is missing",
        "--train-data is missing",
    ):
        assert part in told
    assert "--teacher" not in told


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999", "-1", ""])
def test_a_learning_rate_is_a_finite_number_from_0(value):
    assert "--learning-rate: expected" in problems(NEEDED | {"learning_rate": value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", 10**400), ("seed", 2**64), ("seed", True), ("languages", 3), ("output_dir", "~nobody-at-all/x"),
     ("batch_size", ["1", "2"]), ("train_data", {"a": 1}), ("output_dir", 3), ("resume", "yes"), ("output_dir", "a\0b")],
)  # fmt: skip
def test_no_value_is_a_traceback(name, value):
    assert f"--{name.replace('_', '-')}: expected" in problems(NEEDED | {name: value})


@pytest.mark.parametrize(
    ("typed", "value"), [("true", True), ("False", False), (True, True)]
)  # "true" is what a bare switch gives
def test_switches(typed, value):
    assert read_settings(DistillSettings, NEEDED | {"resume": typed}).resume is value


def test_none_is_a_value_where_none_is_the_default():
    flags = {"output_dir": "o", "model": "m", "train_data": ["d"], "snr_gamma": "none", "latent_cache": ["none"]}
    settings = read_settings(AlignSettings, flags)
    assert settings.snr_gamma is settings.latent_cache is None
    assert "--batch-size: expected a whole number" in problems(NEEDED | {"batch_size": "none"})


def test_home_is_expanded():
    assert read_settings(DistillSettings, NEEDED | {"output_dir": "~/x"}).output_dir == Path.home() / "x"


@pytest.mark.parametrize("text", ["batch_size =", "\udcff"])
def test_a_file_that_is_no_toml_is_named(tmp_path, text):
    path = tmp_path / "x.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert "x.toml is no TOML" in problems(NEEDED, path)
    assert problems(NEEDED, Path("nowhere.toml")) == "--config nowhere.toml can't be read: No such file or directory"


@pytest.mark.parametrize(
    ("cls", "flags"),
    [
        (DistillSettings, NEEDED),
        (AlignSettings, {"output_dir": "o", "model": "m", "train_data": ["d"], "ema_decay": "0.5"}),
    ],
)
def test_a_training_is_begun_again_from_its_settings_json(tmp_path, cls, flags):
    settings = read_settings(cls, flags | {"languages": ["en", "zh=2"], "learning_rate": "1"})
    path = tmp_path / "settings.json"
    path.write_text(settings.save_as_json(), encoding="utf-8")
    assert read_settings(cls, {}, path) == settings
    assert read_settings(cls, {"resume": "true"}, path).resume


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[]", "\udcff"])
def test_a_file_that_holds_no_json_of_settings_is_named(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert re.search(r"x\.json (is no JSON|holds no settings)", problems(NEEDED, path))


def test_python_gets_the_same_checks_and_conversions():
    settings = DistillSettings(output_dir="out", teacher="t", student="s", train_data="one.tsv")
    assert (settings.output_dir, settings.train_data) == (Path("out"), ["one.tsv"])
    with pytest.raises(InputError, match="learning_rate: expected at least 0, got nan; seed: expected 0 to 4294967295"):
        DistillSettings(**NEEDED, learning_rate=math.nan, seed=-1)


def test_settings_that_exclude_each_other():
    with pytest.raises(InputError, match="--image-cache needs --trainable text"):
        ContrastSettings(output_dir="o", model="m", train_data=["d"], trainable="both", image_cache="c")


@pytest.mark.parametrize(
    ("stage", "given", "reason"),
    [
        ("align", {"lora_rank": 4, "lora_layers": "all"}, "--lora-rank, --lora-layers needs --trainable lora, got kv"),
        ("dreambooth", {"lora_layers": "all"}, "--lora-layers needs --lora-rank"),
        ("dreambooth", {"class_dir": "c", "class_prompt": "猫"}, "--class-dir, --class-prompt needs --prior-weight"),
        ("dreambooth", {"prior_weight": 1}, "--prior-weight needs --class-dir and --class-prompt"),
        ("bridge", {"bridge": "mini", "num_layers": 2}, "--bridge keeps its own sizes: leave out --num-layers"),
        ("bridge", {"hidden_size": 100}, "--hidden-size 100: expected a multiple of --num-attention-heads 12"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(stage, given, reason):
    needed = {
        "output_dir": "o",
        "model": "m",
        "train_data": "d",
        "text_encoder": "t",
        "instance_dir": "i",
        "instance_prompt": "p",
    }
    cls = STAGES[stage][0]
    with pytest.raises(InputError, match=re.escape(reason)):
        cls(**{name: value for name, value in needed.items() if name in cls.model_fields} | given)


@pytest.mark.parametrize("stage", STAGES)
def test_help_shows_every_setting(stage, capsys):
    assert main(["train", stage, "--help"]) == 0
    page = capsys.readouterr().out
    for name in STAGES[stage][0].model_fields:
        assert re.search(rf"--{name.replace('_', '-')}\s", page)
    assert "(default: 0)" in page  # --seed's


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ["--learning-rat", "1", "--seed", "x"],
            ["do you mean --learning-rate?", "--seed: expected", "--student is missing"],
        ),
        (["--batch-size"], ["--batch-size: expected one argument"]),
        (["stray"], ["unrecognized arguments: stray"]),
        (["--config", "nowhere.toml"], ["nowhere.toml can't be read"]),
        (["--teacher", "./nowhere", "--train-data", "nowhere.tsv"], ["unknown model './nowhere'", "no nowhere.tsv"]),
    ],
)
def test_bad_flags_are_one_line_and_status_2(words, lines, capsys, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    status = main(["train", "distill", *words])
    (told,) = capsys.readouterr().err.splitlines()
    assert status == 2
    assert all(line in told for line in lines)


def test_a_list_may_be_given_in_several_flags(monkeypatch, tmp_path):
    taken = []
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    monkeypatch.setattr(stage_settings, "run_stage", lambda name, settings: taken.append(settings))
    data = [str(tmp_path / name) for name in "abc"]
    for path in data:
        Path(path).touch()
    words = ["--teacher", "mini", "--student", "mini", "--output-dir", "o", "--resume", "--tensorboard", "false"]
    assert main(["train", "distill", *words, "--train-data", *data[:2], "--train-data", data[2]]) == 0
    assert taken[0].train_data == data
    assert taken[0].resume is True
    assert taken[0].tensorboard is False


CACHES = {"latent_cache": AlignSettings, "text_cache": AlignSettings, "image_cache": ContrastSettings,
          "teacher_cache": DistillSettings, "state_cache": ExtendSettings}  # fmt: skip


@pytest.mark.parametrize(("name", "cls"), CACHES.items())
def test_a_resumed_training_may_find_its_caches_elsewhere_but_not_gain_or_lose_one(name, cls):
    needed = dict.fromkeys(("output_dir", "model", "teacher", "student", "text_encoder"), "x")
    needed |= {"train_data": ["a"], "languages": ["th"]}
    needed = {key: value for key, value in needed.items() if key in cls.model_fields}
    here, there, without = (cls(**needed, **{name: place}) for place in ("here", "there", None))
    assert here.differences(there.model_dump(mode="json")) == []
    assert here.differences(without.model_dump(mode="json")) == [f"{name} was None, is here"]
    assert without.differences(here.model_dump(mode="json")) == [f"{name} was here, is None"]
