"""Hidden states of prompts with weights, in chunks, over the steps; beside diffusers' own `encode_prompt`."""

import pytest
import torch
from helpers.bridges import bridged, stock
from helpers.tiny import clip_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from altdiffusion import AltDiffusionPipeline, InputError
from altdiffusion.prompt_syntax import parse_weights
from altdiffusion.prompts.states import encode_prompts, encode_schedule
from altdiffusion.prompts.tokens import Token, prompt_tokens
from altdiffusion.prompts.weighting import weighted


@pytest.fixture(scope="module")
def pipe():
    return AltDiffusionPipeline.from_pretrained("mini")


def states(pipe, prompt, **options):
    return encode_prompts(pipe, prompt, **options)["prompt_embeds"]


@pytest.mark.parametrize("prompt", ["一只猫", "a cat, a dog", "猫がいる", "قطة", ""])
def test_plain_prompts_are_encoded_as_diffusers_does_it(pipe, prompt):
    ours = encode_prompts(pipe, prompt, "模糊")
    positive, negative = pipe.encode_prompt(prompt, pipe.device, 1, True, "模糊")
    torch.testing.assert_close(
        ours["prompt_embeds"], positive, atol=1e-5, rtol=1e-5
    )  # one batch, where diffusers has two
    torch.testing.assert_close(ours["negative_prompt_embeds"], negative, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("weighting", ["a1111", "no-norm", "comfyui", "masked"])
@pytest.mark.parametrize("prompt", ["(一只猫:1.0)，月光", "(a cat:1), a dog", "（猫：1）"])
def test_weight_one_is_bit_equal_to_no_weight(pipe, prompt, weighting):
    plain = parse_weights(prompt).text
    assert torch.equal(states(pipe, prompt, weighting=weighting), states(pipe, plain, weighting=weighting))


@pytest.mark.parametrize("weighting", ["no-norm", "comfyui"])
@pytest.mark.parametrize(
    "prompt", ["一只(猫:1.5)，月光", "a [cat], a (dog:1.3)", "قطة (حمراء:0.8)", "（猫：1.2）がいる"]
)
def test_states_of_unweighted_tokens_are_bit_equal(pipe, prompt, weighting):
    parsed = parse_weights(prompt)
    plain, weighted = states(pipe, parsed.text)[0], states(pipe, prompt, weighting=weighting)[0]
    heavy = [i for i, token in enumerate(prompt_tokens(pipe.tokenizer, parsed), 1) if token.weight != 1]
    light = [i for i in range(77) if i not in heavy]
    assert heavy
    assert torch.equal(weighted[light], plain[light])
    assert (weighted[heavy] != plain[heavy]).any(-1).all()


@pytest.mark.parametrize("prompt", ["一只(猫:1.5)，月光", "a (cat:0.5), (dog:2)"])
def test_a1111_multiplies_and_restores_the_mean_of_all(pipe, prompt):
    parsed = parse_weights(prompt)
    plain, weighted = states(pipe, parsed.text)[0], states(pipe, prompt, weighting="a1111")[0]
    by_hand = plain.clone()
    for place, token in enumerate(prompt_tokens(pipe.tokenizer, parsed), 1):
        by_hand[place] *= token.weight
    torch.testing.assert_close(weighted, by_hand * (plain.mean() / by_hand.mean()))
    torch.testing.assert_close(weighted.mean(), plain.mean())


def test_comfyui_moves_away_from_the_empty_prompt(pipe):
    empty, plain = states(pipe, "")[0], states(pipe, "一只猫")[0]
    weighted = states(pipe, "(一只猫:1.5)", weighting="comfyui")[0]
    places = slice(1, 1 + len(prompt_tokens(pipe.tokenizer, parse_weights("一只猫"))))
    torch.testing.assert_close(weighted[places], (empty + 1.5 * (plain - empty))[places])


def test_masked_leaves_out_a_word_of_weight_zero(pipe):
    """As if no other token had seen it; lengths of states stay."""
    parsed = parse_weights("一只(猫:0)，月光")
    heavy = [place for place, token in enumerate(prompt_tokens(pipe.tokenizer, parsed), 1) if token.weight == 0]
    inputs = pipe.tokenizer(parsed.text, padding="max_length", max_length=77, return_tensors="pt")
    plain = pipe.text_encoder(**inputs)[0]
    inputs["attention_mask"][0, heavy] = 0
    without = pipe.text_encoder(**inputs)[0]
    expected = without * plain.norm(dim=-1, keepdim=True) / without.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(states(pipe, "一只(猫:0)，月光", weighting="masked"), expected, atol=1e-4, rtol=1e-4)


def test_masked_heavier_than_one_moves_away_from_the_rest(pipe):
    without, light, plain, heavy = (
        states(pipe, f"一只(猫:{weight})，月光", weighting="masked").flatten() for weight in (0, 0.5, 1, 1.5)
    )
    apart = [float(torch.cosine_similarity(without, other, 0)) for other in (light, plain, heavy)]
    assert apart == sorted(apart, reverse=True)
    assert apart[2] < apart[1] - 0.01


def test_means_that_cannot_be_restored_are_refused(pipe):
    """The states of these tokens have a mean of nearly 0, the others' sum falls."""
    chunk = [Token(5, "a", 0, 1, 10.0, True)]
    with pytest.raises(InputError, match="no mean that could be restored"):
        weighted(torch.tensor([[1.0], [-0.5], [0.0]]), chunk, "a1111", [])


def test_a_row_is_the_same_in_any_batch(pipe):
    together = encode_prompts(pipe, ["(一只猫:1.4)", "a dog", "a [red] sun"], ["bad", "", "(ugly:1.2)"])
    for index, (prompt, negative) in enumerate([("(一只猫:1.4)", "bad"), ("a dog", ""), ("a [red] sun", "(ugly:1.2)")]):
        alone = encode_prompts(pipe, prompt, negative)
        for name, tensor in alone.items():
            torch.testing.assert_close(tensor[0], together[name][index], atol=1e-5, rtol=1e-5)


def test_chunks_are_joined_and_both_prompts_are_as_long(pipe):
    long = "，".join(["一只猫", "月光", "大海"] * 20) + "，"
    encoded = encode_prompts(pipe, [long, "a cat"], "模糊")
    count = encoded["prompt_embeds"].shape[1] // 77
    assert count == 3
    assert encoded["negative_prompt_embeds"].shape == encoded["prompt_embeds"].shape
    first, *others = encoded["prompt_embeds"][1].split(77)
    torch.testing.assert_close(first, states(pipe, "a cat")[0], atol=1e-5, rtol=1e-5)
    for other in others:
        torch.testing.assert_close(other, states(pipe, "")[0], atol=1e-5, rtol=1e-5)


def test_equal_chunks_are_read_once(pipe, monkeypatch):
    rows = []
    forward = pipe.text_encoder.forward
    monkeypatch.setattr(
        pipe.text_encoder, "forward", lambda ids, **kwargs: rows.append(len(ids)) or forward(ids, **kwargs)
    )
    encode_prompts(pipe, ["a cat BREAK a cat", "a cat BREAK a dog"], "")
    encode_prompts(pipe, ["a cat", "(a cat:1.3)"], "", weighting="a1111")
    encode_prompts(pipe, ["a cat", "a (cat:1.3)", "a (cat:0.7)"], "", weighting="masked")
    assert rows == [3, 2, 3]


def test_whole_reads_all_at_once_where_the_positions_reach(published):
    pipe = AltDiffusionPipeline.from_pretrained(published("m9"))
    limit = pipe.text_encoder.config.max_position_embeddings - 4
    prompt = "a " * 400
    with pytest.raises(InputError, match=f'long_prompts="whole": .* positions for {limit} tokens'):
        states(pipe, prompt, long_prompts="whole")
    assert torch.equal(states(pipe, "a cat", long_prompts="whole"), states(pipe, "a cat"))


def test_over_the_steps(pipe):
    scheduled = encode_schedule(pipe, ["[一只猫:a dog:0.5]", "[a|b]"], "", steps=4)
    assert scheduled.starts == (0, 1, 2, 3)
    assert scheduled.states[0] is not scheduled.states[1]
    cat, dog = states(pipe, "一只猫"), states(pipe, "a dog")
    for step, expected in ((0, cat), (1, cat), (2, dog), (3, dog)):
        torch.testing.assert_close(scheduled.states[step].embeds[:1], expected, atol=1e-5, rtol=1e-5)
    assert [scheduled.change_at(step, 4) is None for step in range(4)] == [True, False, False, False]
    assert scheduled.change_at(4, 8) is not None  # a scheduler with two timesteps to a step
    assert scheduled.change_at(5, 8) is None


def test_an_alternation_is_encoded_once_a_text(pipe):
    scheduled = encode_schedule(pipe, ["[a cat|a dog]"], "", steps=50)
    assert len(scheduled.starts) == 50
    assert len({id(part) for part in scheduled.states}) == 2


def test_too_many_texts_over_the_steps_are_refused(pipe):
    prompt = " ".join(f"[{'|'.join(map(str, range(count)))}]" for count in (2, 3, 5, 7, 11))
    with pytest.raises(InputError, match="change to 999 texts over the steps: expected at most 200"):
        encode_schedule(pipe, [prompt], "", steps=999)


@pytest.mark.parametrize("kind", ["sd1", "xl"])
def test_behind_a_bridge(published, kind):
    pipe = bridged(published, kind)
    encoded = encode_prompts(pipe, "(一只猫:1.3) BREAK a dog", "bad")
    assert encoded["prompt_embeds"].shape[1] == 2 * 77
    assert ("pooled_prompt_embeds" in encoded) == (kind == "xl")
    plain = encode_prompts(pipe, "一只猫", "")
    theirs = pipe.encode_prompt(
        prompt="一只猫", device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    torch.testing.assert_close(plain["prompt_embeds"], theirs[0])
    if kind == "xl":
        torch.testing.assert_close(plain["pooled_prompt_embeds"], theirs[2])
    assert pipe(**encoded, num_inference_steps=1, output_type="np").images[0].shape[-1] == 3
    with pytest.raises(InputError, match="the states of a bridge at CLIP's exit don't stand at the places"):
        encode_prompts(pipe, "(一只猫:1.3)", weighting="a1111")


def readable(kind):
    """A stock pipeline with CLIPs that read."""
    pipe, tokenizer = stock(kind), clip_tokenizer()
    tokenizer.model_max_length = 77

    def clip(cls, width):
        sizes = {"hidden_size": width, "projection_dim": width, "intermediate_size": 8, "num_hidden_layers": 3}
        ids = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
        model = cls(CLIPTextConfig(**sizes, **ids, num_attention_heads=2)).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("final_layer_norm.bias"):
                torch.nn.init.ones_(parameter)  # a mean that can be restored, as trained models have
        return model

    if kind == "xl":
        pipe.register_modules(tokenizer_2=tokenizer, text_encoder_2=clip(CLIPTextModelWithProjection, 1280))
    width = 768 if kind == "xl" else pipe.unet.config.cross_attention_dim
    pipe.register_modules(tokenizer=tokenizer, text_encoder=clip(CLIPTextModel, width))
    return pipe


@pytest.mark.parametrize("kind", ["sd1", "sd2", "xl"])
def test_a_stock_clip(kind):
    """Diffusers' own encode_prompt, with clip_skip too."""
    pipe = readable(kind)
    for clip_skip in (
        (None, 1) if kind == "xl" else (None,)
    ):  # diffusers looks for a part that transformers' CLIP has no more
        expected = pipe.encode_prompt(
            prompt="a red cat", device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=True,
            negative_prompt="dog", clip_skip=clip_skip,
        )  # fmt: skip
        ours = encode_prompts(pipe, "a red cat", "dog", clip_skip=clip_skip)
        for (name, tensor), other in zip(ours.items(), expected, strict=kind == "xl"):
            if clip_skip is None or not name.startswith("negative"):  # where diffusers skips no layer
                torch.testing.assert_close(tensor, other)
    heavy, by_name = (encode_prompts(pipe, "(red:1.3) cat", **options) for options in ({}, {"weighting": "a1111"}))
    assert torch.equal(heavy["prompt_embeds"], by_name["prompt_embeds"])
    long = encode_prompts(pipe, "red cat, (dog:1.2), " * 20)
    assert long["prompt_embeds"].shape[1] >= 77 * 2
    assert pipe(**long, num_inference_steps=1, output_type="np").images[0].shape[-1] == 3


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("a (cat", {}, r"character 3, .*: \( isn't closed"),
        ("[a:b:0.5]", {}, "changes over the steps"),
        ("<lora:ink:0.8> a cat", {}, "names a LoRA"),
        ("a {red|blue} cat", {}, "has choices"),
        ("a cat", {"weighting": "compel"}, "weighting='compel': expected masked, a1111, no-norm, comfyui"),
        ("a cat", {"long_prompts": "yes"}, "long_prompts='yes': expected chunks, whole"),
        ("a cat", {"negative_prompts": ["a", "b"]}, "2 negative prompts for 1 prompts"),
        ("猫" * 600, {}, "601 tokens: expected at most 510"),
    ],
)
def test_bad_input_is_one_line(pipe, prompt, options, message):
    with pytest.raises(InputError, match=message) as error:
        encode_prompts(pipe, prompt, **options)
    assert "\n" not in str(error.value)


def test_brackets_are_text_on_request(pipe):
    assert torch.equal(states(pipe, "(cat", prompt_syntax="none"), states(pipe, r"\(cat"))
    assert torch.equal(states(pipe, "cat :)", prompt_syntax="lenient"), states(pipe, r"cat :\)"))
