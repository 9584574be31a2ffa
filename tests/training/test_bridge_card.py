"""The card of a trained bridge: what the hub reads of it, and nothing of the machine that it was trained on."""

import pytest
from huggingface_hub import ModelCard

from altdiffusion.training.bridge_card import bridge_facts, write_bridge_card
from altdiffusion.training.stage_settings import BridgeSettings

METRICS = {"zh R@1": 0.9712, "zh prediction error": 0.2, "ja R@1": 0.88, "zh mse": 0.01}


def card(folder, settings, languages=("en", "zh", "ja"), metrics=METRICS):
    write_bridge_card(folder, bridge_facts(settings, languages, metrics))
    return ModelCard.load(folder / "README.md", ignore_metadata_errors=False)


@pytest.mark.parametrize(
    ("preset", "licence"), [("sd15", "creativeml-openrail-m"), ("sd21", "openrail++"), ("sdxl", "openrail++")]
)
def test_the_hub_reads_models_data_languages_and_licence_off_it(tmp_path, preset, licence):
    settings = BridgeSettings(preset=preset, languages=["zh", "ja"], output_dir=tmp_path)
    data = card(tmp_path, settings).data
    assert data.base_model == [settings.text_encoder, settings.model]
    assert data.license == licence
    assert data.language == ["en", "zh", "ja"]
    assert data.library_name == "altdiffusion"
    assert data.datasets[:2] == ["Helsinki-NLP/opus-100", "sentence-transformers/parallel-sentences-tatoeba"]
    assert len(data.datasets) == len(set(data.datasets))


def test_people_read_data_with_licences_figures_and_how_to_use_it(tmp_path):
    settings = BridgeSettings(preset="sd15", languages=["zh", "ja"], output_dir=tmp_path, max_train_steps=12000)
    text = card(tmp_path, settings).text
    for line in (
        "| `hub:sentence-transformers/parallel-sentences-tatoeba/en-ja:train` | CC BY 2.0 FR, Tatoeba's |",
        "| language | R@1 | prediction error | mse |",
        "| zh | 0.971 | 0.2 | 0.01 |",
        "| ja | 0.88 |  |  |",
        "| en |  |  |  |",
        '    pipe = swap_text_encoder(pipe, "BAAI/AltCLIP-m9", bridge="THIS FOLDER")',
        '    pipe("一只猫")',
        "12,000 steps of 512 texts",
    ):
        assert line in text


def test_of_this_machine_it_names_files_and_no_paths(tmp_path):
    (tmp_path / "my-sd").mkdir()
    settings = BridgeSettings(
        text_encoder="mini",
        model=str(tmp_path / "my-sd"),
        train_data=[f"{tmp_path}/a|b.tsv", "hub:someone/pairs"],
        output_dir="out",
    )  # fmt: skip
    made = card(tmp_path, settings, metrics={})
    assert str(tmp_path) not in made.content
    assert "| `a\\|b.tsv` | not stated |" in made.text
    assert "| `hub:someone/pairs` | not stated |" in made.text
    assert "Not measured" in made.text
    assert made.data.base_model is None
    assert made.data.license is None
    assert made.data.datasets == ["someone/pairs"]
    assert "# A bridge from mini to my-sd\n" in made.text
