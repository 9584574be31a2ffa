"""Phase 1: whose tensors come from where, what the student learns from, and what is saved."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from helpers import tiny
from safetensors.torch import load_file
from transformers import AltCLIPModel, AltCLIPTextModel, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from altdiffusion import InputError, load_text_encoder
from altdiffusion.text_encoder.tokenizer import tokens
from altdiffusion.training.models.teacher_student import load_teacher
from altdiffusion.training.stage_settings import DistillSettings
from altdiffusion.training.stages import distill as stage
from altdiffusion.training.stages.distill import Distillation, teacher_vectors, text_keys, train_distill


def settings(models, folder, **changed):
    given = {"teacher": models / "clip", "student": models / "student", "train_data": models / "pairs.tsv"}
    given |= {"output_dir": folder, "max_train_steps": 6, "batch_size": 8, "logging_steps": 1, "device": "cpu"}
    given = {
        name: str(value) if name in ("teacher", "student", "train_data") else value
        for name, value in (given | changed).items()
    }
    return DistillSettings(**given)  # fmt: skip


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_a_student_learns_every_language(tiny_models, tmp_path):
    pairs = tiny.save_pairs(tmp_path / "few.tsv", tiny.PAIRS[:4])
    train = {"train_data": pairs, "validation_data": [str(pairs)], "max_train_steps": 300, "learning_rate": 0.01}
    train_distill(settings(tiny_models, tmp_path / "run", ema_decay=0.9, **train))
    last = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])
    assert last["validation"] == {"en R@1": 1.0, "de R@1": 1.0}


def test_the_teacher_stays_frozen_and_in_eval_mode(tiny_models, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(stage, "load_teacher", lambda model: taken.append(load_teacher(model)) or taken[0])
    train_distill(settings(tiny_models, tmp_path / "run"))
    before = load_file(tiny_models / "clip/model.safetensors")
    for name, parameter in taken[0].text_model.named_parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None
        assert torch.equal(parameter, before[f"text_model.{name.removeprefix('text_model.')}"])
    assert not any(module.training for module in taken[0].text_model.modules())


def test_the_result_is_an_altclip_with_the_teacher_s_other_parts(tiny_models, tmp_path):
    train_distill(settings(tiny_models, tmp_path / "run"))
    model, report = AltCLIPModel.from_pretrained(tmp_path / "run/model", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    teacher, saved = load_file(tiny_models / "clip/model.safetensors"), model.state_dict()
    kept = [name for name in teacher if not name.startswith("text_model.")]
    assert len(kept) > 20
    for name in kept:
        assert torch.equal(saved[name], teacher[name]), name
    encoder, tokenizer = load_text_encoder(tmp_path / "run/model")
    start, _ = load_text_encoder(tiny_models / "student")
    assert not torch.equal(encoder.transformation.weight, start.transformation.weight)
    ids = tokenizer("blau Hund", return_tensors="pt")
    assert torch.equal(encoder(**ids).pooler_output, model.eval().text_model(**ids).pooler_output)
    name = "preprocessor_config.json"
    assert (tmp_path / "run/model" / name).read_bytes() == (tiny_models / "clip" / name).read_bytes()


@pytest.fixture(scope="module")
def teachers(tiny_models, tmp_path_factory):
    """The same text tower in every layout."""
    root = tmp_path_factory.mktemp("teachers")
    clip = tiny_models / "clip"
    shutil.copytree(clip, root / "clip")
    text = CLIPTextConfig.from_pretrained(clip, projection_dim=4)
    for name, kind in (("text", CLIPTextModel), ("projected", CLIPTextModelWithProjection)):
        kind.from_pretrained(clip, config=text).save_pretrained(root / name)
        tiny_tokenizer(clip, root / name)
    shutil.copytree(root / "text", root / "pipeline/text_encoder")
    (root / "pipeline/tokenizer").mkdir()
    tiny_tokenizer(clip, root / "pipeline/tokenizer")
    (root / "pipeline/model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return root


def tiny_tokenizer(source, target):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, target / name)


@pytest.mark.parametrize("layout", ["clip", "text", "projected", "pipeline"])
def test_a_teacher_in_any_layout_gives_the_same_vectors(teachers, layout):
    texts = [en for en, _ in tiny.PAIRS[:6]]
    whole, teacher = load_teacher(teachers / "clip"), load_teacher(teachers / layout)
    ids = tokens(teacher.tokenizer, texts)
    found = teacher_vectors(teacher)(ids)
    assert found.shape == (6, tiny.WIDTH)
    assert torch.equal(found, teacher_vectors(whole)(ids))
    inputs = whole.tokenizer(texts, padding=True, return_tensors="pt")
    expected = CLIPTextModel.from_pretrained(teachers / "clip")(**inputs).pooler_output
    torch.testing.assert_close(found, expected)
    assert (teacher.whole is None) == (layout != "clip")


def test_a_teacher_without_a_vision_tower_gives_a_text_encoder(tiny_models, teachers, tmp_path):
    train_distill(settings(tiny_models, tmp_path / "run", teacher=teachers / "pipeline"))
    AltCLIPTextModel.from_pretrained(tmp_path / "run/model")
    assert load_text_encoder(tmp_path / "run/model")[0].config.project_dim == tiny.WIDTH


def test_a_plain_xlm_r_becomes_an_altclip(tiny_models, tmp_path):
    train_distill(settings(tiny_models, tmp_path / "run", student=tiny_models / "xlm-r"))
    AltCLIPModel.from_pretrained(tmp_path / "run/model")


def test_widths_that_differ_are_one_line(tmp_path, tiny_models):
    tiny.save_student(tmp_path / "wide", width=12)
    with pytest.raises(InputError, match="gives vectors of width 12, the teacher's have 8: start from a plain XLM-R"):
        train_distill(settings(tiny_models, tmp_path / "run", student=tmp_path / "wide"))


def test_a_language_that_the_teacher_can_t_have_is_one_line(tiny_models, tmp_path):
    with pytest.raises(InputError, match="fr"):
        train_distill(settings(tiny_models, tmp_path / "run", teacher_language="fr"))


def test_cached_targets_are_the_computed_ones(tiny_models, tmp_path):
    train_distill(settings(tiny_models, tmp_path / "computed"))
    train_distill(settings(tiny_models, tmp_path / "cached", teacher_cache=tmp_path / "cache"))
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "computed"), rel=5e-3)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    train_distill(settings(tiny_models, tmp_path / "again", teacher_cache=tmp_path / "cache"))
    assert losses(tmp_path / "again") == losses(tmp_path / "cached")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}


def test_a_cache_of_another_teacher_language_or_data_is_refused(tiny_models, tmp_path):
    def cached(folder, **changed):
        train_distill(
            settings(tiny_models, tmp_path / folder, teacher_cache=tmp_path / "cache", max_train_steps=1, **changed)
        )

    cached("first")
    tiny.save_clip(tmp_path / "other", seed=5)
    with pytest.raises(InputError, match="was made with teacher = "):
        cached("b", teacher=tmp_path / "other")
    with pytest.raises(InputError, match="was made with language = en, this training has de"):
        cached("c", teacher_language="de")
    (tmp_path / "data").mkdir()
    same_count = [("green " + en, de) for en, de in tiny.PAIRS]
    with pytest.raises(InputError, match="was made with data = "):
        cached("d", train_data=tiny.save_pairs(tmp_path / "data/pairs.tsv", same_count))


def test_gradient_checkpointing_changes_no_loss(tiny_models, tmp_path):
    for folder, on in (("plain", False), ("saving", True)):
        train_distill(settings(tiny_models, tmp_path / folder, gradient_checkpointing=on))
    assert losses(tmp_path / "saving") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)


@pytest.mark.parametrize("loss", ["mse", "cosine", "contrastive"])
def test_bfloat16_stays_near_float32_and_leaves_no_trace_in_the_model(tiny_models, tmp_path, loss):
    train_distill(settings(tiny_models, tmp_path / "exact", loss=loss))
    train_distill(settings(tiny_models, tmp_path / "half", loss=loss, mixed_precision="bf16"))
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "exact"), rel=0.05, abs=0.02)
    saved = load_file(tmp_path / "half/model/model.safetensors")
    assert {tensor.dtype for tensor in saved.values() if tensor.is_floating_point()} == {torch.float32}


def test_the_losses_are_of_pooled_states_and_equal_texts_are_no_negatives():
    class Student(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return type("Output", (), {"pooler_output": input_ids.float()})

    state, target = (
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
        torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]]),
    )
    batch = {"input_ids": state, "attention_mask": None, "targets": target, "texts": text_keys([[5, 6], [5, 6], [5]])}
    found = Distillation(Student(), None, "contrastive", 2.0)(batch)
    assert found["mse"].item() == pytest.approx((0 + 0 + 1 + 1 + 1 + 1) / 6)
    assert found["cosine"].item() == pytest.approx((0 + 1 + 1 - 0.5**0.5) / 3)
    logits = 2 * F.normalize(state, dim=-1) @ F.normalize(target, dim=-1).T
    logits[0, 1] = logits[1, 0] = -torch.inf
    both = sum(-torch.log_softmax(each, 1).diagonal().mean() for each in (logits, logits.T)) / 2
    assert found["loss"].item() == pytest.approx(both.item())


def test_a_text_over_77_tokens_keeps_its_end_and_the_tokenizer_stays_as_it_was(tiny_models):
    teacher = load_teacher(tiny_models / "clip")
    before = teacher.tokenizer.backend_tokenizer.to_str()
    long, short = tokens(teacher.tokenizer, ["red cat " * 80, "red cat"])
    cut = teacher.tokenizer("red cat " * 80, truncation=True, max_length=77)["input_ids"]
    assert len(long) == 77
    assert long == cut
    assert short[-1] == long[-1] == teacher.tokenizer.eos_token_id
    assert before == load_teacher(tiny_models / "clip").tokenizer.backend_tokenizer.to_str()
