"""`train extend`: a text tower learns a further language from text alone, and keeps those it knew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import layouts, tiny
from transformers import AltCLIPModel, AltCLIPTextModel, XLMRobertaTokenizer

from altdiffusion import AltCLIP, InputError, load_text_encoder
from altdiffusion.errors import TrainingStopped
from altdiffusion.text_encoder.bridge import Bridge, BridgeConfig, load_bridge
from altdiffusion.text_encoder.tokenizer import pad, tokens
from altdiffusion.training import loop
from altdiffusion.training.inputs.clip_states import altclip_states, stack_states
from altdiffusion.training.losses.soft_tokens import soft_token_error
from altdiffusion.training.models.teacher_student import assemble_altclip
from altdiffusion.training.plan import make_plan
from altdiffusion.training.stage_settings import ExtendSettings
from altdiffusion.training.stages.extend import Extension, shares, train_extend

FRENCH = {"cat": "chat", "dog": "chien", "sun": "soleil", "moon": "lune", "fish": "poisson", "tree": "arbre"}
TEXTS = [(en, de, f"{FRENCH[en.split()[1]]} {en[:2]}o") for en, de in tiny.PAIRS if en.split()[1] in FRENCH][:12]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text tower, the AltCLIP around it, a bridge that reads it, and texts.tsv in en, de and fr."""
    root = tmp_path_factory.mktemp("extend")
    clip = tiny.save_clip(root / "clip")
    tower = tiny.save_student(root / "tower")
    vocabulary = XLMRobertaTokenizer().train_new_from_iterator([[" ".join(row) for row in TEXTS]], vocab_size=59)
    vocabulary.save_pretrained(root / "tower")
    whole = assemble_altclip(tower, clip)
    whole.save_pretrained(root / "altclip")
    vocabulary.save_pretrained(root / "altclip")
    shutil.copy(root / "clip/preprocessor_config.json", root / "altclip")
    sizes = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(3)
    bridge = Bridge(
        BridgeConfig(input_width=tiny.WIDTH, embedding_widths=[8], vocab_size=20, max_soft_tokens=6, **sizes)
    )
    for parameter in bridge.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # so that texts differ
    bridge.set_token_embeddings([torch.randn(20, 8)])
    bridge.save_pretrained(root / "bridge")
    save_texts(root / "texts.tsv", TEXTS)
    return root


def save_texts(path: Path, rows: list[tuple[str, ...]], header: str = "en\tde\tfr") -> Path:
    path.write_text("\n".join([header, *("\t".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


def settings(models: Path, folder: Path, **changed: Any) -> ExtendSettings:
    texts = str(models / "texts.tsv")
    given = {"model": str(models / "tower"), "train_data": [texts], "validation_data": [texts], "languages": ["fr"]}
    given |= {"output_dir": folder, "max_train_steps": 4, "batch_size": 8, "logging_steps": 1, "device": "cpu"}
    return ExtendSettings(**given | {"learning_rate": 0.01, "max_loss": 100} | changed)


def log(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [{name: value for name, value in line.items() if name != "samples_per_second"} for line in lines]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in log(folder) if "loss" in line]


def texts_of(tokenizer: Any, column: int) -> list[list[int]]:
    return tokens(tokenizer, [row[column] for row in TEXTS])


def vectors(model: Path, column: int) -> torch.Tensor:
    """The projected [CLS] states of the texts in a column of TEXTS."""
    encoder, tokenizer = load_text_encoder(model)
    ids, mask = pad(texts_of(tokenizer, column), tokenizer.pad_token_id)
    return encoder(input_ids=ids, attention_mask=mask).pooler_output.detach()


def error(model: Path, column: int, wanted: torch.Tensor) -> float:
    return float((vectors(model, column) - wanted).square().mean())


def test_a_new_language_is_learnt_and_replay_or_a_penalty_holds_the_old_ones(models, tmp_path):
    ways = {"free": {}, "replay": {"replay": 0.5}, "penalty": {"start_weight": 0.05}}
    for name, way in ways.items():
        given = {"max_train_steps": 40, "replay": 0.0, "validation_data": []} | way
        train_extend(settings(models, tmp_path / name, **given))
    english, german = vectors(models / "tower", 0), vectors(models / "tower", 1)
    for name in ways:
        assert error(tmp_path / name, 2, english) < error(models / "tower", 2, english) / 2
    for name, part in (("replay", 0.75), ("penalty", 0.95)):
        assert error(tmp_path / name, 0, english) < part * error(tmp_path / "free", 0, english)
        assert error(tmp_path / name, 1, german) < part * error(tmp_path / "free", 1, german)


def test_of_an_altclip_all_but_the_text_tower_stays_and_it_loads_as_before(models, tmp_path):
    source = shutil.copytree(models / "altclip", tmp_path / "source")
    (source / "calibration.json").write_text("{}")
    train_extend(settings(models, tmp_path / "run", model=str(source)))
    folder = tmp_path / "run/model"
    before, after = (AltCLIPModel.from_pretrained(place).state_dict() for place in (source, folder))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("text_model.") for name in changed)
    AltCLIP.from_pretrained(tmp_path / "run")
    assert not (folder / "calibration.json").exists()
    assert (folder / "preprocessor_config.json").is_file()


@pytest.mark.parametrize("layout", ["m9", "bilingual", "m18", "flat"])
def test_published_layouts_are_extended_and_what_is_saved_is_stock(published, models, tmp_path, layout):
    if layout == "flat":
        source = tmp_path / "flat"
        layouts.save_altclip(source)
        shutil.copy(models / "clip/preprocessor_config.json", source)
    else:
        source = published(layout)
    texts = save_texts(tmp_path / "texts.tsv", [(layouts.GREETINGS["en"], layouts.GREETINGS["de"])] * 8, "en\tde")
    data = {"train_data": [str(texts)], "validation_data": [], "languages": ["de"], "max_train_steps": 1}
    train_extend(settings(models, tmp_path / "run", model=str(source), learning_rate=0.0, **data))
    kind = AltCLIPModel if layout == "flat" else AltCLIPTextModel
    kind.from_pretrained(tmp_path / "run/model")
    ids = torch.tensor([[0, 5, 6, 7, 2]])
    given, expected = (load_text_encoder(model)[0](ids).last_hidden_state for model in (tmp_path / "run", source))
    assert torch.equal(given, expected)


def test_stopped_and_resumed_it_ends_bit_for_bit_as_if_it_never_was(models, tmp_path, monkeypatch):
    given = {"max_train_steps": 8, "checkpointing_steps": 2, "validation_steps": 4, "bridge": str(models / "bridge")}
    given |= {"ema_decay": 0.9, "interpolate": True, "state_cache": tmp_path / "cache", "start_weight": 0.01}
    train_extend(settings(models, tmp_path / "whole", **given))
    for step in (3, 6):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "mix_seeds", interrupt_at(step))
            with pytest.raises(KeyboardInterrupt):
                train_extend(settings(models, tmp_path / "cut", resume=True, **given))
    train_extend(settings(models, tmp_path / "cut", resume=True, **given))
    assert log(tmp_path / "cut") == log(tmp_path / "whole")
    for name in ("model.safetensors", "README.md", "config.json"):
        assert (tmp_path / "cut/model" / name).read_bytes() == (tmp_path / "whole/model" / name).read_bytes()


def interrupt_at(step: int) -> Any:
    original = loop.mix_seeds

    def mix_seeds(seed: int, at: int, *rest: int) -> int:
        if at == step:
            raise KeyboardInterrupt
        return original(seed, at, *rest)

    return mix_seeds


def test_cached_states_are_the_computed_ones(models, tmp_path):
    slow = {"learning_rate": 1e-4}  # else AdamW makes steps of rounding errors
    train_extend(settings(models, tmp_path / "computed", **slow))
    train_extend(settings(models, tmp_path / "cached", state_cache=tmp_path / "cache", **slow))
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "computed"), rel=5e-3, abs=1e-6)
    with pytest.raises(InputError, match="was made with languages = "):
        train_extend(settings(models, tmp_path / "other", state_cache=tmp_path / "cache", keep=["en"]))


def test_accumulated_micro_batches_equal_one_batch(models, tmp_path):
    given = {"bridge": str(models / "bridge"), "start_weight": 0.01, "validation_data": [], "learning_rate": 1e-4}
    for name, count in (("one", 1), ("two", 2)):
        train_extend(settings(models, tmp_path / name, gradient_accumulation_steps=count, **given))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3, abs=1e-5)


def test_a_language_that_loses_stops_the_training_there_or_at_the_end(models, tmp_path, capsys):
    loses = {"replay": 0.0, "learning_rate": 0.1, "max_loss": 0.5}
    with pytest.raises(TrainingStopped, match=r"step 10: .*en: R@1 100.0 before, \d+.\d now.*--max-loss 0.5"):
        train_extend(
            settings(models, tmp_path / "early", max_train_steps=30, validation_steps=10, logging_steps=100, **loses)
        )
    assert not (tmp_path / "early/model").exists()
    with pytest.raises(TrainingStopped, match=r"model is saved, but: .*en: R@1 100\.0 before"):
        train_extend(settings(models, tmp_path / "late", max_train_steps=10, **loses))
    assert (tmp_path / "late/model/model.safetensors").is_file()
    with pytest.raises(TrainingStopped, match="model is saved, but: "):
        train_extend(settings(models, tmp_path / "late", max_train_steps=10, resume=True, **loses))
    table = [line.split() for line in capsys.readouterr().err.splitlines() if line.startswith("| en")]
    assert table[0][:6] == ["|", "en", "|", "held", "|", "100.0"]


def test_interpolation_takes_a_mixture_that_holds(models, tmp_path):
    given = {"replay": 0.0, "max_train_steps": 30, "max_loss": 10}
    train_extend(settings(models, tmp_path / "run", interpolate=True, **given))
    card = (tmp_path / "run/model/README.md").read_text(encoding="utf-8")
    row = next(line.split("|") for line in card.splitlines() if line.startswith("| en"))
    assert float(row[3]) - float(row[4]) <= 10
    assert error(tmp_path / "run", 0, vectors(models / "tower", 0)) > 0


def test_the_card_says_what_each_language_had_and_has(models, tmp_path):
    train_extend(settings(models, tmp_path / "run"))
    card = (tmp_path / "run/model/README.md").read_text(encoding="utf-8")
    assert "# tower, extended by fr" in card
    assert "de, en" in card or "en, de" in card
    assert "| fr | learnt | " in card
    assert "| de | held | " in card
    assert str(tmp_path) not in card


def test_a_bridge_comes_to_read_the_new_language_and_stays_as_it_is(models, tmp_path):
    weights = (models / "bridge/model.safetensors").read_bytes()
    train_extend(settings(models, tmp_path / "run", bridge=str(models / "bridge"), max_train_steps=40))
    assert soft_error(models, tmp_path / "run") < soft_error(models, models / "tower") / 2
    assert {"fr words", "de words"} <= log(tmp_path / "run")[-1]["validation"].keys()
    assert (models / "bridge/model.safetensors").read_bytes() == weights


def soft_error(models: Path, model: Path) -> float:
    """Of the bridge's soft tokens of a model's French texts, beside the start's English ones."""
    states = []
    for name, column in ((model, 2), (models / "tower", 0)):
        encoder, tokenizer = load_text_encoder(name)
        states += stack_states(altclip_states(encoder, tokenizer.pad_token_id)(texts_of(tokenizer, column)))
    return float(soft_token_error(load_bridge(models / "bridge"), *states).detach())


def test_another_teacher_moves_new_texts_alone():
    class Tower(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return type("Output", (), {"last_hidden_state": input_ids[..., None].float()})

    former = [torch.tensor([[1.0], [2.0]]), torch.tensor([[5.0]])]
    batch = {"input_ids": torch.tensor([[1, 3], [7, 0]]), "attention_mask": torch.tensor([[1, 1], [1, 0]])}
    batch |= {"held": torch.tensor([True, False]), "wanted_ids": [[0], [0]], "target_ids": [[0], [0]]}
    found = Extension(Tower(), lambda ids: former, lambda ids: torch.full((2, 1), 9.0))(batch)
    assert found["pooled"].item() == pytest.approx((0 + (7 - 9) ** 2) / 2)
    assert found["held states"].item() == pytest.approx(((0 + 1) / 2 + 0) / 2)
    own = Extension(Tower(), lambda ids: former)(batch)
    assert own["pooled"].item() == pytest.approx((0 + (7 - 5) ** 2) / 2)


def test_the_clip_it_came_from_can_be_the_teacher(models, tmp_path):
    train_extend(settings(models, tmp_path / "run", teacher=str(models / "clip"), max_train_steps=2))
    assert log(tmp_path / "run")[-1]["validation"].keys() == {"fr R@1", "en R@1", "de R@1"}


@pytest.mark.parametrize(
    ("weights", "learnt", "replay", "expected"),
    [
        ({"en": 1, "de": 1, "fr": 1}, {"fr": 1.0}, 0.5, {"fr": 0.5, "en": 0.25, "de": 0.25}),
        ({"en": 3, "de": 1, "fr": 1}, {"fr": 1.0}, 0.8, {"fr": 0.2, "en": 0.6, "de": 0.2}),
        ({"en": 1, "th": 1, "fr": 1}, {"fr": 1.0, "th": 3.0}, 0.0, {"fr": 0.25, "th": 0.75}),
        ({"en": 1, "fr": 1}, {"fr": 2.0}, None, {"fr": 2.0, "en": 1}),
    ],
)
def test_the_languages_to_hold_share_the_fraction_of_the_replay(weights, learnt, replay, expected):
    assert shares(weights, learnt, replay) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"languages": ["sw"]}, "--languages sw: no such column in the data, of which en, de, fr are read"),
        ({"languages": ["sw"], "keep": ["en"]}, "no table has the column sw"),
        ({"teacher_language": "it"}, "has no column 'it' for the teacher"),
        ({"model": "no/such/model"}, "unknown model 'no/such/model'"),
        ({"languages": ["fr=x"]}, "--languages fr=x: expected NAME or NAME=WEIGHT"),
        ({"languages": ["fr"], "keep": ["fr"]}, "fr can't be learnt and held"),
        ({"languages": ["en"]}, "--languages en is the target of the others"),
        ({"languages": []}, "expected the languages to learn"),
        ({"interpolate": True, "validation_data": []}, "--interpolate needs --validation-data"),
        ({"bridge_weight": 2.0}, "--bridge-weight needs --bridge"),
        ({"bridge": "mini"}, "this bridge reads text states of width 192, this AltCLIP gives 8"),
        ({"teacher": "sd-mini"}, "gives vectors of width 192, the model 8"),
    ],
)
def test_wrong_input_is_one_line(models, tmp_path, changed, error):
    with pytest.raises(InputError, match=error) as raised:
        train_extend(settings(models, tmp_path / "run", **changed))
    assert "\n" not in str(raised.value)


def test_a_script_that_the_vocabulary_lacks_is_refused_and_a_few_letters_are_told(models, tmp_path, capsys):
    rows = [(en, "พระอาทิตย์สีแดง", f"{fr} ж") for en, _, fr in TEXTS]
    texts = save_texts(tmp_path / "texts.tsv", rows, "en\tth\tfr")
    given = {"train_data": [str(texts)], "validation_data": []}
    with pytest.raises(InputError, match=r"--languages th: the model's vocabulary lacks \d+% of its characters"):
        train_extend(settings(models, tmp_path / "a", languages=["th"], **given))
    train_extend(settings(models, tmp_path / "b", languages=["fr"], keep=["en"], max_train_steps=1, **given))
    assert "fr: the model's vocabulary lacks" in capsys.readouterr().err


def test_a_language_that_the_model_is_known_to_speak_and_nothing_holds_is_told(models, tmp_path, capsys):
    source = shutil.copytree(models / "altclip", tmp_path / "AltCLIP")
    train_extend(settings(models, tmp_path / "run", model=str(source), max_train_steps=1))
    assert "zh: the model knows it, and no text holds it" in capsys.readouterr().err


def test_its_plan_is_measured(models, tmp_path):
    plan = make_plan("extend", settings(models, tmp_path / "run", interpolate=True, keep=["en", "de"]))
    assert plan.samples_per_second > 0
    assert not (tmp_path / "run").exists()
