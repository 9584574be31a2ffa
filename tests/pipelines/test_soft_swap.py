"""A bridge at CLIP's entrance in pipelines of Stable Diffusion 1.x and XL: all that was made for them works as it did."""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, StableDiffusionPipeline
from helpers.bridges import SMALL, readable, small_bridge, small_entrance_bridge
from PIL import Image
from torch import nn
from transformers import CLIPTextModel

from altdiffusion import AltDiffusionPipeline, InputError, encode_prompts, swap_text_encoder

KINDS = ["sd1", "xl"]
ENGLISH, CHINESE, MIXED = "a cat, masterpiece", "一只猫，黑暗精灵公主", "一只猫, on a beach, sks"


@pytest.fixture(autouse=True)
def _quiet():
    diffusers.utils.logging.disable_progress_bar()


def draw(pipe: Any, prompt: str | None = CHINESE, **kwargs: Any) -> np.ndarray:
    return pipe(prompt, generator=torch.Generator().manual_seed(1), **(SMALL | kwargs)).images[0]


def bridged(published: Any, kind: str = "sd1", **options: Any) -> Any:
    pipe = readable(kind)
    return swap_text_encoder(pipe, published("m9"), bridge=small_entrance_bridge(pipe), **options)


def lora(pipe: Any, text: bool = True) -> dict[str, torch.Tensor]:
    """A LoRA with a UNet half and one for each text encoder."""
    generator = torch.Generator().manual_seed(3)
    state = {}
    parts = [("unet", "attn2.to_k")] + [(name, "q_proj") for name in ("text_encoder", "text_encoder_2") if text]
    for part, layer in parts:
        for name, module in getattr(pipe, part, nn.Module()).named_modules():
            if name.endswith(layer):
                name = name if part == "unet" or name.startswith("text_model.") else f"text_model.{name}"
                state[f"{part}.{name}.lora_A.weight"] = torch.randn(4, module.in_features, generator=generator)
                state[f"{part}.{name}.lora_B.weight"] = torch.randn(module.out_features, 4, generator=generator)
    return state


@pytest.mark.parametrize("kind", KINDS)
def test_english_is_bit_equal_and_other_languages_are_read(published, kind):
    plain, pipe = readable(kind), bridged(published, kind)
    assert isinstance(pipe.text_encoder, CLIPTextModel)
    np.testing.assert_array_equal(draw(pipe, ENGLISH), draw(plain, ENGLISH))
    images = [draw(pipe, prompt) for prompt in (CHINESE, MIXED, "一只猫", ENGLISH)]
    for index, image in enumerate(images):
        assert all(np.abs(image - other).max() > 1e-4 for other in images[:index])


@pytest.mark.parametrize("kind", KINDS)
def test_clips_states_are_those_of_the_soft_embeddings_in_their_places(published, kind):
    """The oracle: the soft tokens as a textual inversion, by CLIP's own table."""
    pipe = bridged(published, kind)
    ids = pipe.tokenizer(MIXED, padding="max_length", max_length=77, return_tensors="pt").input_ids
    encoders = [pipe.text_encoder] + ([pipe.text_encoder_2] if kind == "xl" else [])
    for index, encoder in enumerate(encoders):
        plain = getattr(readable(kind), "text_encoder_2" if index else "text_encoder")
        soft = ids[ids < 0]
        table = plain.get_input_embeddings()
        grown = nn.Embedding(len(table.weight) + len(soft), table.weight.shape[1])
        vectors = pipe.tokenizer.soft_prompts.embeddings(index, soft)
        grown.weight.data = torch.cat([table.weight.data, vectors])
        plain.set_input_embeddings(grown)
        literal = ids.clone()
        literal[ids < 0] = torch.arange(len(soft)) + len(table.weight)
        torch.testing.assert_close(
            encoder(ids, output_hidden_states=True).hidden_states[-2],
            plain(literal, output_hidden_states=True).hidden_states[-2],
        )


@pytest.mark.parametrize("kind", KINDS)
def test_batches_negative_prompts_and_several_images_equal_single_ones(published, kind):
    pipe = bridged(published, kind)
    prompts, negatives = [ENGLISH, CHINESE], ["", "模糊，blurry"]
    noise = torch.randn(4, 4, 8, 8)
    many = pipe(prompts, negative_prompt=negatives, num_images_per_prompt=2, latents=noise, **SMALL).images
    for index, image in enumerate(many):
        words = {"prompt": prompts[index // 2], "negative_prompt": negatives[index // 2]}
        np.testing.assert_allclose(pipe(**words, latents=noise[index : index + 1], **SMALL).images[0], image, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_both_halves_of_a_lora_apply_as_without_a_bridge(published, kind):
    pytest.importorskip("peft")
    plain, pipe = readable(kind), bridged(published, kind)
    before = draw(pipe)
    for each in (plain, pipe):
        each.load_lora_weights(lora(each), adapter_name="style")
    np.testing.assert_array_equal(draw(pipe, ENGLISH), draw(plain, ENGLISH))
    both = draw(pipe)
    pipe.unload_lora_weights()
    np.testing.assert_array_equal(draw(pipe), before)
    pipe.load_lora_weights(lora(pipe, text=False), adapter_name="unet")
    assert np.abs(draw(pipe) - both).max() > 1e-5, "the text half acts on soft tokens, too"


@pytest.mark.parametrize("kind", KINDS)
def test_textual_inversions_stand_beside_other_languages(published, kind):
    plain, pipe = readable(kind), bridged(published, kind)
    vectors = {"clip_l": torch.randn(2, 32), "clip_g": torch.randn(2, 48)}
    for each in (plain, pipe):
        for number, key in (("", "clip_l"), ("_2", "clip_g")):
            if hasattr(each, f"text_encoder{number}"):
                parts = {part: getattr(each, part + number) for part in ("text_encoder", "tokenizer")}
                each.load_textual_inversion({"emb_params": vectors[key]}, token="<rune>", **parts)
    np.testing.assert_array_equal(draw(pipe, "a <rune>, red"), draw(plain, "a <rune>, red"))
    assert np.abs(draw(pipe, "一只猫，<rune>") - draw(pipe, "一只猫，")).max() > 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_relatives_from_pipe_and_copies_read_alike(published, kind):
    pipe = bridged(published, kind)
    image, mask = Image.new("RGB", (16, 16), "red"), Image.new("L", (16, 16), 255)
    for auto, more in ((AutoPipelineForImage2Image, {}), (AutoPipelineForInpainting, {"mask_image": mask})):
        relative = auto.from_pipe(pipe)
        assert relative.text_encoder is pipe.text_encoder
        given = {"image": image, "strength": 1.0} | more
        assert np.abs(draw(relative, CHINESE, **given) - draw(relative, ENGLISH, **given)).max() > 1e-5
    np.testing.assert_array_equal(draw(copy.deepcopy(pipe)), draw(pipe))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_the_english_model_that_it_was(published, tmp_path, kind):
    plain, pipe = readable(kind), bridged(published, kind)
    draw(pipe)
    pipe.save_pretrained(tmp_path / "ours")
    plain.save_pretrained(tmp_path / "plain")
    files = {path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path / "ours") for path in (tmp_path / "ours").rglob("*") if path.is_file()}
    for file in files:
        if file.name != "tokenizer.json":  # has the padding of the last call, as ever
            assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes(), file
    reloaded = [type(pipe).from_pretrained(tmp_path / name) for name in ("ours", "plain")]
    np.testing.assert_array_equal(*[draw(each, ENGLISH) for each in reloaded])


@pytest.mark.parametrize("way", ["compiled", "bfloat16", "attention slices"])
def test_it_works_however_the_pipeline_is_set_up(published, way):
    pipe = bridged(published)
    expected = draw(pipe)
    if way == "compiled":
        pipe.text_encoder = torch.compile(pipe.text_encoder, backend="eager")
    elif way == "bfloat16":
        pipe.to(dtype=torch.bfloat16)
    else:
        pipe.enable_attention_slicing()
    np.testing.assert_allclose(draw(pipe), expected, atol=0.1 if way == "bfloat16" else 1e-5)


def test_sequential_offload(published):
    pytest.importorskip("accelerate")
    pipe = bridged(published)
    expected = draw(pipe)
    for part in ("text_encoder", "unet", "vae"):
        from accelerate import cpu_offload

        cpu_offload(getattr(pipe, part), torch.device("cpu"))
    pipe.tokenizer.soft_prompts.read(["新的"])
    np.testing.assert_allclose(draw(pipe), expected, atol=1e-5)


def test_clip_skip_and_weights_by_our_own_states(published):
    pipe, plain = bridged(published), readable()
    for prompt in (ENGLISH, f"({ENGLISH}:1.3)"):
        ours, theirs = (
            encode_prompts(each, [prompt], clip_skip=1, weighting="no-norm")["prompt_embeds"] for each in (pipe, plain)
        )
        assert torch.equal(ours, theirs)
    states = [
        encode_prompts(pipe, [prompt], weighting="no-norm")["prompt_embeds"] for prompt in (CHINESE, f"({CHINESE}:1.3)")
    ]
    skipped = encode_prompts(pipe, [CHINESE], clip_skip=1)["prompt_embeds"]
    assert not torch.allclose(states[0], states[1])
    assert not torch.allclose(states[0], skipped)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bridge_for_another_clip_is_refused_and_nothing_is_changed(published, kind):
    pipe = readable(kind)
    before = dict(pipe.components)
    other = small_entrance_bridge(pipe)
    for table in other.token_embeddings:
        nn.init.normal_(table, std=0.2)
    refused = [
        (other, "trained with another CLIP: its token embeddings and this pipeline's differ by 1"),
        (small_entrance_bridge(readable("xl" if kind == "sd1" else "sd1")), "trained with CLIPs of width"),
        (small_entrance_bridge(pipe, input_width=48), "reads text states of width 48, this AltCLIP gives 32"),
    ]
    for bridge, line in refused:
        with pytest.raises(InputError, match=line) as error:
            swap_text_encoder(pipe, published("m9"), bridge=bridge)
        assert "\n" not in str(error.value)
        assert pipe.components == before


def test_a_fine_tune_of_its_clip_is_welcome_and_how_near_it_lies_is_said(published, caplog):
    pipe = readable()
    bridge = small_entrance_bridge(pipe)
    table = pipe.text_encoder.get_input_embeddings().weight.data
    table += 0.05 * table.std() * torch.randn_like(table)
    swap_text_encoder(pipe, published("m9"), bridge=bridge)
    assert "their token embeddings differ by 5" in caplog.text
    assert np.isfinite(draw(pipe)).all()


def test_the_callers_bridge_stays_as_it_is_and_a_second_swap_takes_the_firsts_place(published):
    pipe = readable()
    bridge = small_entrance_bridge(pipe)
    tables = [table.clone() for table in bridge.token_embeddings]
    first = draw(swap_text_encoder(pipe, published("m9"), bridge=bridge))
    assert all(torch.equal(*pair) for pair in zip(tables, bridge.token_embeddings, strict=True))
    other = copy.deepcopy(bridge)
    nn.init.normal_(other.queries)
    assert np.abs(draw(swap_text_encoder(pipe, published("m9"), bridge=other)) - first).max() > 1e-6
    np.testing.assert_array_equal(draw(swap_text_encoder(pipe, published("m9"), bridge=bridge)), first)


def test_a_relative_with_another_bridge_never_reads_the_firsts_soft_tokens(published):
    pipe = bridged(published)
    first = pipe.tokenizer(CHINESE, return_tensors="pt").input_ids
    relative = AutoPipelineForImage2Image.from_pipe(pipe)  # with the same CLIP
    swap_text_encoder(relative, published("m9"), bridge=small_entrance_bridge(readable()))
    relative.tokenizer(CHINESE * 3)
    with pytest.raises(InputError, match="tokenize it again"):
        pipe.text_encoder(first)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"route": "some"}, "route: expected auto, all, none, got 'some'"),
        ({"bridge": "exit", "route": "all"}, "are for a bridge at CLIP's entrance"),
        ({"bridge": None, "literal": ["sks"]}, "are for a bridge at CLIP's entrance"),
    ],
)
def test_settings_without_a_meaning_are_refused(published, options, line):
    pipe = readable()
    bridges = {"bridge": small_bridge() if options.get("bridge") == "exit" else small_entrance_bridge(pipe)}
    given = options | (bridges if options.get("bridge", 1) is not None else {})
    with pytest.raises(InputError, match=line):
        swap_text_encoder(pipe, published("m9"), **given)


def test_our_own_pipeline_class_reads_with_it(published, tmp_path):
    readable().save_pretrained(tmp_path)
    pipe = AltDiffusionPipeline.from_pretrained(tmp_path)
    swap_text_encoder(pipe, published("m9"), bridge=small_entrance_bridge(pipe))
    images = [draw(pipe, prompt) for prompt in (CHINESE, f"({CHINESE}:1.4)")]
    assert np.abs(images[0] - images[1]).max() > 1e-5
    np.testing.assert_array_equal(draw(pipe, ENGLISH), draw(StableDiffusionPipeline.from_pretrained(tmp_path), ENGLISH))
