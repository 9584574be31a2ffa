"""`train dreambooth`: a subject from a few images, whole or as a LoRA, with its class kept."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_diffusion import (
    SIDE,
    assert_same,
    before_fit,
    interrupted,
    log,
    save_diffusion,
    save_pictures,
    weights,
)
from PIL import Image
from safetensors.torch import load_file

from altdiffusion import AltDiffusionPipeline
from altdiffusion.cli.main import main
from altdiffusion.errors import InputError, TrainingStopped
from altdiffusion.training.stage_settings import DreamBoothSettings
from altdiffusion.training.stages import dreambooth as stage
from altdiffusion.training.stages.dreambooth import train_dreambooth

PROMPT = "一只 <斑斑> 猫"


@pytest.fixture(scope="module")
def model(published, tmp_path_factory) -> Path:
    return save_diffusion(tmp_path_factory.mktemp("dreambooth") / "model", published("m9"))


@pytest.fixture(scope="module")
def subject(tmp_path_factory) -> Path:
    return save_pictures(tmp_path_factory.mktemp("dreambooth") / "subject", [(8, 8), (12, 8), (8, 9)])


@pytest.fixture(scope="module")
def cats(tmp_path_factory) -> Path:
    return save_pictures(tmp_path_factory.mktemp("dreambooth") / "cats", [(8, 8)] * 5, seed=1)


@pytest.fixture
def given(model, subject, tmp_path) -> dict[str, Any]:
    return {
        "model": str(model), "instance_dir": subject, "instance_prompt": PROMPT, "output_dir": tmp_path / "out",
        "resolution": SIDE, "batch_size": 4, "max_train_steps": 2, "logging_steps": 1, "learning_rate": 1e-2,
        "device": "cpu", "lr_scheduler": "constant",
    }  # fmt: skip


@pytest.fixture
def prior(cats) -> dict[str, Any]:
    return {"prior_weight": 0.5, "class_dir": cats, "class_prompt": "猫", "num_class_images": 5}


def trained(given: dict[str, Any], **changes: Any) -> Path:
    settings = DreamBoothSettings(**given | changes)
    train_dreambooth(settings)
    return settings.output_dir


def read(folder: Path) -> list[torch.Tensor]:
    """The pixels of all images, as training sees them."""
    from altdiffusion.images import image_files
    from altdiffusion.training.inputs.image_tensors import fit_to, to_tensor

    return [to_tensor(fit_to(Image.open(path), SIDE, SIDE)) for path in image_files(folder)]


def is_in(pixels: torch.Tensor, pictures: list[torch.Tensor]) -> bool:
    return any(torch.equal(pixels, each) for each in pictures)


def gradient(found: Any, batch: dict[str, Any]) -> torch.Tensor:
    found.task.zero_grad()
    found.task(batch)["loss"].backward()
    return torch.cat([each.grad.flatten() for each in found.task.parameters() if each.grad is not None])


# What is trained and saved


def test_the_unet_moves_and_nothing_else(given, model):
    before, after = weights(model), weights(trained(given) / "model")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith("unet/")}


def test_the_whole_pipeline_loads_and_draws(given):
    pipe = AltDiffusionPipeline.from_pretrained(trained(given) / "model")
    assert pipe(PROMPT, num_inference_steps=2, height=SIDE, width=SIDE).images[0].size == (SIDE, SIDE)


@pytest.mark.parametrize("kind", ["bilingual", "m18"])
def test_any_layout_of_altdiffusion_is_trained(given, published, kind):
    small = {"lora_rank": 1, "max_train_steps": 1, "batch_size": 2}
    assert weights(trained(given, model=str(published(kind)), **small) / "model")


def test_a_plain_stable_diffusion_is_trained(given, prior, tmp_path):
    clip = save_diffusion(tmp_path / "clip", None)
    folder = trained(given, model=str(clip), instance_prompt="a cat", **prior | {"class_prompt": "a dog"})
    pipe = AltDiffusionPipeline.from_pretrained(folder / "model")
    assert type(pipe.text_encoder).__name__ == "CLIPTextModel"
    pipe("a cat", num_inference_steps=2, height=SIDE, width=SIDE)


def test_a_lora_redraws_what_the_trained_pipeline_drew(given, model, tmp_path, capsys):
    """The last validation draws with the trained pipeline, averaged weights and all."""
    changes = {"validation_prompts": [PROMPT], "validation_inference_steps": 2, "learning_rate": 1.0}
    folder = trained(given, lora_rank=2, ema_decay=0.5, seed=3, **changes)
    drawn = Image.open(folder / "samples" / "step-00000002.png")

    def draw(pipe):
        generator = torch.Generator().manual_seed(3)
        return pipe(PROMPT, num_inference_steps=2, height=SIDE, width=SIDE, generator=generator).images[0]

    pipe = AltDiffusionPipeline.from_pretrained(model)
    assert draw(pipe).tobytes() != drawn.tobytes()
    pipe.load_lora_weights(folder / "model")
    assert draw(pipe).tobytes() == drawn.tobytes()

    out = tmp_path / "by-command.png"
    words = (
        f"--model {model} --lora {folder / 'model'} --seed 3 --steps 2 --size {SIDE}x{SIDE} --out {out} --device cpu"
    )
    assert main(["generate", PROMPT, *words.split()]) == 0, capsys.readouterr()
    assert Image.open(out).tobytes() == drawn.tobytes()


def test_a_lora_holds_both_matrices_of_every_projection(given, model):
    (file,) = (trained(given, lora_rank=2) / "model").iterdir()
    assert file.name == "pytorch_lora_weights.safetensors"
    state = load_file(file)
    projections = {name.removesuffix(".weight").partition(":")[2] for name in weights(model) if name.startswith("unet/")
                   and name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight"))}  # fmt: skip
    assert {name.rpartition(".lora")[0] for name in state} == {f"unet.{name}" for name in projections}
    assert len(state) == 2 * len(projections)
    assert all(2 in each.shape for each in state.values())
    assert all(each.abs().max() > 0 for each in state.values())  # both matrices learnt


def test_without_peft_a_lora_is_refused(given, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r'needs the library peft: pip install "altdiffusion\[train\]"'):
        trained(given, lora_rank=2)


# Prior preservation


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_micro_batch_holds_both_kinds_and_together_they_are_the_batch(given, prior, cats, subject, count):
    batches = before_fit(train_dreambooth, DreamBoothSettings(**given | prior | {"batch_size": 8})).batches
    whole = batches(3, 0, 1)
    parts = [batches(3, index, count) for index in range(count)]
    for name in whole:
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), whole[name], rtol=0, atol=0)
    of_class, of_subject = read(cats), read(subject)
    for part in parts:
        kinds = [is_in(pixels, of_class) for pixels in part["images"]]
        assert sum(kinds) == len(kinds) / 2
        assert all(kind or is_in(pixels, of_subject) for kind, pixels in zip(kinds, part["images"], strict=True))
        assert part["of_class"].tolist() == kinds


def test_the_loss_is_the_subjects_plus_the_weighted_one_of_the_class(given, prior):
    found = before_fit(train_dreambooth, DreamBoothSettings(**given | prior | {"batch_size": 8}))
    batch = found.batches(0, 0, 1)
    metrics = found.task(batch)
    alone = {}
    for kind in (0, 1):
        chosen = batch["of_class"] == kind
        part = {name: value[chosen] for name, value in batch.items() if name not in ("weight", "of_class")}
        alone[kind] = found.task(part)["loss"]
    torch.testing.assert_close(metrics["loss"], alone[0] + 0.5 * alone[1])
    torch.testing.assert_close(metrics["class_error"], alone[1])
    torch.testing.assert_close(metrics["error"], (alone[0] + alone[1]) / 2)


def test_pictures_of_the_class_change_the_gradient(given, prior, tmp_path):
    """What FlagAI's DreamBooth doesn't do."""
    others = save_pictures(tmp_path / "dogs", [(8, 8)] * 5, seed=2)
    runs = [before_fit(train_dreambooth, DreamBoothSettings(**given | prior | {"class_dir": folder}))
            for folder in (prior["class_dir"], others)]  # fmt: skip
    batches = [run.batches(0, 0, 1) for run in runs]
    one, other = batches[0]["images"], batches[1]["images"]
    assert torch.equal(one[::2], other[::2])  # the subject's are the same
    assert not torch.equal(one[1::2], other[1::2])
    gradients = [gradient(run, batch) for run, batch in zip(runs, batches, strict=True)]
    assert (gradients[0] - gradients[1]).norm() > 1e-3 * gradients[0].norm()  # the noise is the same
    batches[0]["weight"][1::2] = 0
    assert (gradients[0] - gradient(runs[0], batches[0])).norm() > 0.1 * gradients[0].norm()


def test_each_kind_is_told_its_own_prompt(given, prior, model):
    found = before_fit(train_dreambooth, DreamBoothSettings(**given | prior))
    pipe = AltDiffusionPipeline.from_pretrained(model)
    states, _ = pipe.encode_prompt([PROMPT, "猫"], torch.device("cpu"), 1, False)
    batch = found.batches(0, 0, 1)
    assert_same({"states": batch["states"]}, {"states": states[[0, 1, 0, 1]]})


def test_every_picture_comes_in_every_pass(given, prior, cats, subject):
    batches = before_fit(train_dreambooth, DreamBoothSettings(**given | prior | {"batch_size": 2})).batches
    seen = torch.stack([batches(step, 0, 1)["images"] for step in range(15)])
    for kind, pictures in enumerate((read(subject), read(cats))):
        size = len(pictures)
        for start in range(0, 15, size):
            passed = seen[start : start + size, kind]
            assert all(is_in(each, list(passed)) for each in pictures)


def test_every_sample_has_noise_of_its_own(given, prior):
    batches = before_fit(train_dreambooth, DreamBoothSettings(**given | prior)).batches
    noise = torch.cat([batches(step, 0, 1)["noise"] for step in range(3)]).flatten(1)
    assert len(noise.unique(dim=0)) == 12


def test_the_class_is_in_the_log(given, prior):
    folder = trained(given, **prior)
    assert len(log(folder, "class_error")) == 2


def test_a_batch_that_cannot_hold_both_kinds_is_refused(given, prior):
    with pytest.raises(
        InputError, match=r"--batch-size 6 counts images of the subject and of the class.* multiple of 4"
    ):
        trained(given, batch_size=6, gradient_accumulation_steps=2, **prior)


# Images of the class that are missing


@pytest.fixture
def quick(monkeypatch):
    """Two steps for each image instead of twenty-five."""
    monkeypatch.setattr(stage, "generate", partial(stage.generate, steps=2))


def test_missing_pictures_are_drawn_and_those_there_are_kept(given, prior, tmp_path, quick):
    folder = save_pictures(tmp_path / "class", [(8, 8)] * 2)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    found = before_fit(train_dreambooth, DreamBoothSettings(**given | prior | {"class_dir": folder}))
    assert sorted(path.name for path in folder.iterdir()) == [
        "0.png", "1.png", "drawn-00000.png", "drawn-00001.png", "drawn-00002.png",
    ]  # fmt: skip
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    assert found.records == 3 + 5
    assert len({tuple(each.flatten().tolist()) for each in read(folder)}) == 5


def test_an_interrupted_drawing_ends_with_the_same_pictures(given, prior, tmp_path, quick, monkeypatch):
    changes = prior | {"num_class_images": 3}
    before_fit(train_dreambooth, DreamBoothSettings(**given | changes | {"class_dir": tmp_path / "whole"}))

    generate, generated = stage.generate_one, []

    def failing(*arguments):
        generated.append(arguments)
        if len(generated) == 2:
            raise KeyboardInterrupt
        return generate(*arguments)

    settings = DreamBoothSettings(**given | changes | {"class_dir": tmp_path / "broken"})
    with monkeypatch.context() as patch:
        patch.setattr(stage, "generate_one", failing)
        with pytest.raises(KeyboardInterrupt):
            train_dreambooth(settings)
    assert [path.name for path in (tmp_path / "broken").iterdir()] == ["drawn-00000.png"]
    before_fit(train_dreambooth, settings)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "broken").iterdir()} == whole
    assert len(whole) == 3


def test_the_class_is_drawn_by_the_untrained_model_at_this_prompt(given, prior, model, tmp_path, quick):
    changes = prior | {"num_class_images": 2, "lora_rank": 1, "seed": 5, "class_dir": tmp_path / "class"}
    before_fit(train_dreambooth, DreamBoothSettings(**given | changes))
    pipe = AltDiffusionPipeline.from_pretrained(model)
    generator = torch.Generator().manual_seed(6)
    expected = pipe("猫", num_inference_steps=2, height=SIDE, width=SIDE, generator=generator).images[0]
    assert Image.open(tmp_path / "class" / "drawn-00001.png").tobytes() == expected.tobytes()


def test_a_class_that_the_safety_checker_hides_is_refused(given, prior, tmp_path, quick, monkeypatch):
    drawn = []

    def generate(prompt, *, seed, **settings):
        drawn.append(seed)
        yield stage.GeneratedImage(Image.new("RGB", (SIDE, SIDE)), None, filtered=True)

    monkeypatch.setattr(stage, "generate", generate)
    with pytest.raises(InputError, match="the safety checker hides what the model generates for --class-prompt 猫"):
        trained(given, **prior | {"class_dir": tmp_path / "class"})
    assert len(set(drawn)) > 1  # it tried other seeds
    assert not (tmp_path / "class").exists()


def test_a_class_out_of_nan_stops_the_training_and_keeps_what_is_whole(given, prior, tmp_path, quick, monkeypatch):
    whole = stage.generate

    def generate(prompt, *, model, seed, **settings):
        if seed == 1:  # as an overflow leaves it
            torch.nn.init.constant_(model.vae.post_quant_conv.weight, float("nan"))
        yield from whole(prompt, model=model, seed=seed, **settings)

    monkeypatch.setattr(stage, "generate", generate)
    folder = tmp_path / "class"
    with pytest.raises(TrainingStopped, match="--class-prompt 猫 come out as NaN with --mixed-precision no"):
        trained(given, **prior | {"class_dir": folder})
    assert [path.name for path in folder.iterdir()] == ["drawn-00000.png"]


# The folders


def test_all_formats_are_read_and_other_files_left_alone(given, tmp_path):
    folder = tmp_path / "formats"
    folder.mkdir()
    names = ["a.jpg", "b.JPEG", "c.png", "d.webp", "e.gif", "f.bmp", "g.tiff"]
    for name in names:
        Image.new("RGB", (8, 8), "red").save(folder / name)
    (folder / "notes.txt").write_text("a cat")
    (folder / "._a.jpg").write_bytes(b"resource fork")
    (folder / "more.png").mkdir()
    found = before_fit(train_dreambooth, DreamBoothSettings(**given | {"instance_dir": folder}))
    assert found.records == len(names)
    assert found.batches(0, 0, 1)["images"].shape == (4, 3, SIDE, SIDE)


def test_a_broken_picture_is_skipped_and_none_of_the_class_takes_its_place(given, prior, subject, tmp_path, capsys):
    folder = save_pictures(tmp_path / "subject", [(8, 8), (12, 8), (8, 9)])
    (folder / "2.png").write_bytes(b"no picture")
    changes = prior | {"instance_dir": folder, "max_skipped": 0.2, "batch_size": 8}
    batch = before_fit(train_dreambooth, DreamBoothSettings(**given | changes)).batches(0, 0, 1)
    assert all(is_in(pixels, read(subject)[:2]) for pixels in batch["images"][::2])
    assert str(folder / "2.png") in capsys.readouterr().err


def test_too_many_broken_pictures_end_it(given, tmp_path):
    folder = save_pictures(tmp_path / "subject", [(8, 8)] * 4)
    (folder / "2.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"1 of 4 records can't be used, more than 1 %.*--max-skipped"):
        trained(given, instance_dir=folder)


def test_pictures_that_are_all_broken_end_it_whatever_is_allowed(given, tmp_path):
    folder = save_pictures(tmp_path / "subject", [(8, 8)] * 2)
    for path in folder.iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="none can be used of the images like"):
        trained(given, instance_dir=folder, max_skipped=1.0)


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_pictures_is_refused(given, tmp_path, there):
    if there:
        (tmp_path / "none").mkdir()
    with pytest.raises(
        InputError, match=r"none (holds no images|is no folder): expected a folder with files that end in"
    ):
        trained(given, instance_dir=tmp_path / "none")


def test_a_resolution_that_the_unet_cannot_halve_is_refused(given):
    with pytest.raises(InputError, match="--resolution 10: this model needs a multiple of 4"):
        trained(given, resolution=10)


# The training


def test_a_resumed_lora_equals_an_uninterrupted_one_bit_for_bit(given, prior, tmp_path):
    given |= prior | {
        "lora_rank": 2,
        "max_train_steps": 4,
        "checkpointing_steps": 2,
        "ema_decay": 0.5,
        "random_flip": True,
    }
    whole = trained(given)
    given["output_dir"] = tmp_path / "broken"
    interrupted(train_dreambooth, DreamBoothSettings(**given), passes=3)
    resumed = trained(given, resume=True)
    assert_same(weights(resumed / "model"), weights(whole / "model"))
    assert log(resumed) == log(whole)


def test_accumulated_pieces_train_as_the_whole_batch(given, prior, tmp_path):
    given |= prior | {"learning_rate": 1e-4}
    whole = trained(given)
    cut = trained(given, gradient_accumulation_steps=2, output_dir=tmp_path / "cut")
    assert_same(weights(cut / "model"), weights(whole / "model"), rtol=1e-3, atol=2e-5)
    assert log(cut, "class_error") == pytest.approx(log(whole, "class_error"), rel=1e-4)


def test_gradient_checkpointing_and_bf16_train_a_lora(given, prior):
    folder = trained(given, lora_rank=1, gradient_checkpointing=True, mixed_precision="bf16", **prior)
    assert all(each.dtype == torch.float32 for each in weights(folder / "model").values())


def test_a_loss_that_is_no_number_ends_it_in_one_line(given):
    with pytest.raises(TrainingStopped, match="the loss became nan at step 2: lower --learning-rate") as stopped:
        trained(given, learning_rate=1e30)
    assert "\n" not in str(stopped.value)
