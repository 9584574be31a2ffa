"""`pipe(prompt, prompt_syntax="webui")`: the same images as from the states, or from the prompts that editing changes to."""

import inspect

import numpy as np
import pytest
from PIL import Image

from altdiffusion import AltDiffusionImg2ImgPipeline, AltDiffusionInpaintPipeline, AltDiffusionPipeline, InputError
from altdiffusion.prompts.states import encode_prompts


@pytest.fixture(scope="module")
def pipe():
    pipe = AltDiffusionPipeline.from_pretrained("mini")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def image(pipe, prompt=None, steps=2, **kwargs):
    import torch

    kwargs.setdefault("generator", torch.Generator().manual_seed(1))
    return pipe(prompt, num_inference_steps=steps, output_type="np", **kwargs).images


def test_off_unless_asked_for(pipe):
    literal, weighted = image(pipe, "(一只猫:1.5)"), image(pipe, "(一只猫:1.5)", prompt_syntax="webui")
    assert np.abs(literal - weighted).max() > 0.05
    parameters = inspect.signature(AltDiffusionPipeline.__call__).parameters
    assert [parameters[name].default for name in ("prompt_syntax", "weighting", "long_prompts", "best_of")] == [
        None, None, "chunks", None,
    ]  # fmt: skip


@pytest.mark.parametrize("prompt", ["(一只猫:1.5)，月光", "a (cat:0.7) BREAK a dog", "，".join(["一只猫"] * 60)])
def test_as_from_the_states(pipe, prompt):
    np.testing.assert_allclose(
        image(pipe, prompt, negative_prompt="(坏:1.2)", prompt_syntax="webui"),
        image(pipe, **encode_prompts(pipe, prompt, "(坏:1.2)")),
    )


@pytest.mark.parametrize("guidance_scale", [4.0, 1.0])
@pytest.mark.parametrize("copies", [1, 2])
def test_editing_changes_the_prompt_on_the_way(pipe, guidance_scale, copies):
    """By hand: the callback that diffusers documents."""
    cat, dog = (encode_prompts(pipe, prompt) for prompt in ("一只猫", "a dog"))
    seen = []

    def change(pipe, index, timestep, tensors):
        import torch

        seen.append(index)
        if index == 1:
            both = [dog["negative_prompt_embeds"]] * (guidance_scale > 1) + [dog["prompt_embeds"]]
            tensors["prompt_embeds"] = torch.cat([part.repeat_interleave(copies, 0) for part in both])
        return tensors

    options = {"steps": 4, "guidance_scale": guidance_scale, "num_images_per_prompt": copies}
    by_hand = image(pipe, **cat, callback_on_step_end=change, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
                    **options)  # fmt: skip
    edited = image(pipe, "[一只猫:a dog:0.5]", prompt_syntax="webui", **options)
    np.testing.assert_allclose(edited, by_hand, atol=1e-4)
    assert np.abs(edited - image(pipe, **cat, **options)).max() > 0.05
    own = []
    image(pipe, "[一只猫:a dog:0.5]", prompt_syntax="webui", **options,
          callback_on_step_end=lambda pipe, index, timestep, tensors: own.append(sorted(tensors)) or tensors)  # fmt: skip
    assert own == [["latents", "prompt_embeds"]] * 4


@pytest.mark.parametrize("cls", [AltDiffusionImg2ImgPipeline, AltDiffusionInpaintPipeline])
def test_image_to_image_counts_the_steps_that_it_runs(pipe, cls):
    other = cls.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    start = {"image": Image.new("RGB", (64, 64), "red"), "strength": 0.5}
    if cls is AltDiffusionInpaintPipeline:
        start["mask_image"] = Image.new("L", (64, 64), 255)
    edited = image(other, "[一只猫:a dog:1]", steps=4, prompt_syntax="webui", **start)
    assert np.abs(edited - image(other, "一只猫", steps=4, **start)).max() > 0.01
    np.testing.assert_allclose(image(other, "[一只猫:a dog:2]", steps=4, prompt_syntax="webui", **start),
                               image(other, "一只猫", steps=4, **start), atol=1e-4)  # fmt: skip


def test_the_last_clause_of_a_long_prompt_changes_the_image(pipe):
    """Of 200 tokens: diffusers' own way cuts it off."""
    start = "，".join(["雪山上的城堡"] * 30)
    prompts = [f"{start}，一只红色的猫", f"{start}，一只蓝色的鱼"]
    ours = [image(pipe, prompt, prompt_syntax="webui") for prompt in prompts]
    cut = [image(pipe, prompt) for prompt in prompts]
    assert np.abs(ours[0] - ours[1]).max() > 0.05
    np.testing.assert_array_equal(*cut)


def test_best_of_scores_the_plain_text(pipe, monkeypatch):
    from altdiffusion.altclip.scorer import PromptScorer

    scorer, asked = PromptScorer.from_pretrained(), []
    rank = scorer.rank
    monkeypatch.setattr(scorer, "rank", lambda images, prompt: asked.append(prompt) or rank(images, prompt))
    pipe("(一只猫:1.2) \\(可爱\\)", num_inference_steps=1, best_of=2, scorer=scorer, prompt_syntax="webui")
    assert asked == ["一只猫 (可爱)"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "a (cat", "prompt_syntax": "webui"}, "isn't closed"),
        ({"prompt": "a cat", "prompt_syntax": "a1111"}, "prompt_syntax='a1111': expected webui, lenient, none"),
        ({"prompt": "a cat", "weighting": "comfyui"}, "need a prompt_syntax"),
        ({"prompt_syntax": "webui"}, "pass prompt, not prompt_embeds"),
    ],
)
def test_bad_arguments(pipe, arguments, message):
    with pytest.raises(InputError, match=message):
        pipe(**arguments, num_inference_steps=1)
