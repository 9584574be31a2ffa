"""Presets of `train bridge`: declared once, filled in for the languages asked for, and less than any flag."""

import pytest

from altdiffusion.checkpoints.hub import LANGUAGES
from altdiffusion.data.hub_datasets import parse
from altdiffusion.errors import InputError
from altdiffusion.settings import choices_of, read_settings
from altdiffusion.training import bridge_presets
from altdiffusion.training.stage_settings import BridgeSettings

PRESETS = choices_of(BridgeSettings.model_fields["preset"])
M9, M18 = LANGUAGES["AltCLIP-m9"].split(), LANGUAGES["AltCLIP-m18"].split()


def filled(preset, languages=(), **flags):
    flags |= {"languages": list(languages)} if languages else {}
    return read_settings(BridgeSettings, {"preset": preset, "output_dir": "out", **flags})


def test_the_choices_are_those_declared():
    assert set(PRESETS) == set(bridge_presets.declared()["presets"])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("languages", "encoder"), [(["zh"], "m9"), (["ja=2", "ar"], "m9"), (["zh", "th"], "m18"), (M18, "m18")]
)
def test_a_preset_and_languages_are_a_whole_training(preset, languages, encoder):
    settings = filled(preset, languages)
    assert settings.text_encoder == f"BAAI/AltCLIP-{encoder}"
    assert settings.model == bridge_presets.declared()["presets"][preset]["model"]
    assert set(languages) <= set(settings.languages)
    assert "en" in settings.languages
    wanted = {language.partition("=")[0] for language in languages} - {"en"}
    for names in (settings.train_data, settings.validation_data):
        configs = [parse(name).config.split("-") for name in names]
        assert {part for config in configs for part in config} == wanted | {"en"}


@pytest.mark.parametrize("preset", PRESETS)
def test_without_languages_it_is_those_of_the_first_text_encoder(preset):
    settings = filled(preset)
    assert settings.languages == M9
    assert settings.text_encoder == "BAAI/AltCLIP-m9"


def test_every_language_of_the_encoders_has_data_to_train_and_to_validate_on():
    for split in ("train", "validation"):
        assert {
            language for data in bridge_presets.declared()["data"] if split in data for language in data["configs"]
        } == set(M18) - {"en"}


@pytest.mark.parametrize(
    "flags",
    [
        {"batch_size": "8"},
        {"model": "mini"},
        {"text_encoder": "mini"},
        {"train_data": ["x.tsv"]},
        {"caption_like": "false"},
    ],
)
def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path, flags):
    (name,) = flags
    path = tmp_path / "settings.toml"
    path.write_text('preset = "sd15"\noutput_dir = "out"\nlanguages = ["ja"]\nmax_train_steps = 7\nbatch_size = 9\n')
    plain, settings = read_settings(BridgeSettings, {}, path), read_settings(BridgeSettings, flags, path)
    assert (plain.max_train_steps, plain.batch_size, plain.languages) == (7, 9, ["en", "ja"])
    assert getattr(settings, name) != getattr(plain, name)
    assert settings.max_train_steps == 7


def test_data_of_ones_own_may_be_in_any_language_and_need_no_validation():
    settings = filled("sd15", ["sw"], train_data=["x.tsv"], text_encoder="mini")
    assert settings.train_data == ["x.tsv"]
    assert settings.validation_data == []


@pytest.mark.parametrize(
    ("preset", "languages", "message"),
    [
        (
            "sd15",
            ["zh", "sw", "xx"],
            r"^--languages sw xx: preset sd15 has ar de en es .* zh; for others name --train-data",
        ),
        ("sdxl", ["chinese"], r"^--languages chinese: preset sdxl has ar "),
        ("sd16", ["zh"], r"^--preset: expected one of sd15, sd21, sdxl, got 'sd16'$"),
    ],
)
def test_what_a_preset_does_not_have_is_one_line_with_what_it_has(preset, languages, message):
    with pytest.raises(InputError, match=message):
        filled(preset, languages)


def test_a_training_is_begun_again_from_its_settings_json(tmp_path):
    settings = filled("sdxl", ["ja"], batch_size="4")
    (tmp_path / "settings.json").write_text(settings.save_as_json(), encoding="utf-8")
    assert read_settings(BridgeSettings, {}, tmp_path / "settings.json") == settings


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"caption_like": "true", "teacher_language": "de"}, "--caption-like judges English: .* got de"),
        ({"minimum_retrieval": "0.5"}, "--minimum-retrieval needs --validation-data"),
        ({"maximum_prediction_error": "1"}, "--maximum-prediction-error needs --validation-data"),
    ],
)
def test_what_would_be_ignored_is_refused(flags, message):
    needed = {"text_encoder": "mini", "model": "sd-mini", "train_data": ["x.tsv"], "output_dir": "out"}
    with pytest.raises(InputError, match=message):
        read_settings(BridgeSettings, needed | flags)


def test_licences_are_known_of_what_the_presets_name():
    for preset in PRESETS:
        settings = filled(preset, M18)
        assert all(map(bridge_presets.licence_of_data, settings.train_data))
        assert bridge_presets.licence_of_model(settings.model)
    for name in ("x.tsv", "hub:someone/else"):
        assert bridge_presets.licence_of_data(name) is None
    assert bridge_presets.licence_of_model("mini") is None


def test_a_checkpoint_from_before_there_were_these_settings_goes_on(tmp_path):
    settings = filled("sd15", ["ja"], train_data=["x.tsv"], caption_like="false")
    former = settings.model_dump(mode="json")
    for name in ("preset", "caption_like", "minimum_retrieval", "maximum_prediction_error", "plan", "hour_price"):
        del former[name]
    assert settings.differences(former) == []
    assert settings.replace(caption_like=True).differences(former) == ["caption_like was False, is True"]
