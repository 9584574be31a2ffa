"""Prompts as textual inversions: other people's code makes of the file what a pipeline with the bridge makes of the prompt."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers import bridges
from safetensors.torch import load_file

from altdiffusion import InputError, invert_prompt, swap_text_encoder
from altdiffusion.checkpoints.textual_inversions import read_notes, save_textual_inversion
from altdiffusion.pipelines.load import load_diffusion
from altdiffusion.prompts.inversion import PromptInverter, load_inverter

PROMPTS = ["黑暗精灵公主，月光, a castle", "eine Katze, bitte, `sks`", "a cat, please"]


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    diffusers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def bridge(made_once):
    """bridge(kind): the folder of a bridge to a small Stable Diffusion."""
    return lambda kind="sd1": made_once(
        f"entrance-{kind}", lambda folder: bridges.save_entrance_bridge(folder, bridges.readable(kind))
    )


@pytest.fixture(scope="module")
def inverter(bridge, published):
    """inverter(kind, ...): what `load_inverter` gives for it."""
    made = {}

    def inverter(kind="sd1", route="auto", literal=()):
        settings = (kind, route, tuple(literal))
        if settings not in made:
            made[settings] = load_inverter(bridge(kind), published("m9"), route, literal, device="cpu")
        return made[settings]

    return inverter


@pytest.mark.parametrize("kind", ["sd1", "xl"])
def test_diffusers_generates_what_the_bridged_pipeline_generates(kind, bridge, inverter, published, tmp_path):
    bridged = swap_text_encoder(bridges.readable(kind), published("m9"), bridge=bridge(kind))
    stock = bridges.readable(kind)
    for number, prompt in enumerate(PROMPTS):
        out, token = tmp_path / f"elf-{number}.safetensors", f"<elf-{number}>"
        save_textual_inversion(inverter(kind).invert(prompt).vectors, out)
        if kind == "xl":
            parts = {"text_encoder": stock.text_encoder, "tokenizer": stock.tokenizer}
            stock.load_textual_inversion(load_file(out)["clip_l"], token=token, **parts)
            parts = {"text_encoder": stock.text_encoder_2, "tokenizer": stock.tokenizer_2}
            stock.load_textual_inversion(load_file(out)["clip_g"], token=token, **parts)
        else:
            stock.load_textual_inversion(out, token=token)
        assert np.array_equal(bridges.draw(stock, token), bridges.draw(bridged, prompt)), prompt


def test_mini_in_diffusers_own_class(tmp_path):
    sizes = {"num_inference_steps": 2, "height": 32, "width": 32}
    pipe = load_diffusion("sd-mini")
    folder = bridges.save_entrance_bridge(tmp_path / "bridge", pipe, input_width=192)
    prompt = "黑暗精灵公主，月光, a castle"
    out = tmp_path / "dark-elf.pt"
    invert_prompt(prompt, bridge=folder, text_encoder="mini", out=out, device="cpu")
    stock = StableDiffusionPipeline(**load_diffusion("sd-mini").components, requires_safety_checker=False)
    stock.load_textual_inversion(out)  # under the file's name
    wanted = bridges.draw(swap_text_encoder(pipe, "mini", bridge=folder), prompt, **sizes)
    assert np.array_equal(bridges.draw(stock, "dark-elf", **sizes), wanted)


@pytest.mark.parametrize("kind", ["sd1", "xl"])
def test_the_tokenizer_of_a_bridged_pipeline_gives_the_same_vectors(kind, bridge, inverter, published):
    pipe = swap_text_encoder(bridges.readable(kind), published("m9"), bridge=bridge(kind))
    for prompt in PROMPTS:
        ours, alone = PromptInverter(pipe.tokenizer).invert(prompt), inverter(kind).invert(prompt)
        assert (ours.tokens, ours.english) == (alone.tokens, alone.english)
        assert all(map(torch.equal, ours.vectors, alone.vectors))


def test_words_that_a_pipeline_has_learned_keep_all_their_vectors(bridge, published):
    pipe = swap_text_encoder(bridges.readable(), published("m9"), bridge=bridge())
    learned = {"<cup>": torch.randn(2, 32), "<sky>": torch.randn(1, 32)}
    for word, vectors in learned.items():
        pipe.load_textual_inversion({word: vectors})
    inversion = PromptInverter(pipe.tokenizer).invert("一只猫, <cup> <sky>")
    assert torch.equal(inversion.vectors[0][-3:], torch.cat(list(learned.values())))
    assert [bool(token.words) for token in inversion.tokens] == [True] * 3 + [False] * 4


def test_what_is_literal_are_clips_own_embeddings(inverter):
    pipe = bridges.readable()
    for prompt in ("a cat, please", "`一只猫`", "<sks> style"):
        inversion = inverter().invert(prompt)
        ids = pipe.tokenizer(prompt.strip("`"), add_special_tokens=False, return_tensors="pt").input_ids[0]
        assert torch.equal(inversion.vectors[0], pipe.text_encoder.get_input_embeddings().weight[ids])
        assert all(token.words == () for token in inversion.tokens)


def test_what_is_read_is_told(inverter):
    inversion = inverter("xl").invert("一只猫, a castle")
    assert [part.shape for part in inversion.vectors] == [(6, 32), (6, 48)]
    assert [token.text for token in inversion.tokens[3:]] == [",", "a", "castle"]
    for token in inversion.tokens[:3]:
        shares = [share for _, share in token.words]
        assert token.text == token.words[0][0].removesuffix("-")
        assert shares == sorted(shares, reverse=True)
        assert 0 < token.rest < 1
    assert inversion.english.endswith(", a castle")


@pytest.mark.parametrize(
    ("settings", "prompt", "soft"),
    [
        ({"route": "all"}, "a cat", 3),
        ({"route": "none"}, "一只猫", 0),
        ({"literal": ["猫"]}, "一只, 猫", 3),
        ({"route": "all", "literal": ["cat"]}, "a big cat", 3),
    ],
)
def test_routes(inverter, settings, prompt, soft):
    assert sum(bool(token.words) for token in inverter(**settings).invert(prompt).tokens) == soft


def test_as_many_tokens_as_clip_reads(inverter):
    assert len(inverter().invert("cat " * 75).tokens) == 75
    with pytest.raises(
        InputError, match="becomes 77 vectors, and CLIP reads at most 75: leave out as much as “cat cat”"
    ):
        inverter().invert("cat " * 77)
    with pytest.raises(InputError, match="becomes 78 vectors"):
        inverter().invert("一只猫, " + "cat " * 74)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("(猫:1.2)", "can't keep weights"), ("`猫", "backquote isn't closed"), ("  ", "has no words")],
)
def test_refusals(inverter, prompt, message):
    with pytest.raises(InputError, match=message):
        inverter().invert(prompt)


def test_brackets_and_backquotes_as_text(inverter):
    assert len(inverter().invert("(a cat)", "none").tokens) == 4
    assert inverter().invert(r"a cat \`\(b\)").english == inverter().invert("a cat ``(b)", "none").english


def test_a_file_says_how_it_was_made(bridge, published, tmp_path):
    out = tmp_path / "elf.safetensors"
    inversion = invert_prompt(
        "一只猫", bridge=bridge(), text_encoder=published("m9"), out=out, dtype="float16", literal=["sks"]
    )
    assert read_notes(out) == {
        "prompt": "一只猫", "bridge": "entrance-sd1", "route": "auto", "literal": "sks", "english": inversion.english,
        "dtype": "float16",
    }  # fmt: skip
    assert torch.equal(load_file(out)["emb_params"], inversion.vectors[0].half())


def test_bridges_that_do_not_fit(bridge, published, tmp_path):
    with pytest.raises(InputError, match=r"doesn't say which AltCLIP it reads: name it, --text-encoder"):
        load_inverter(bridge())
    with pytest.raises(InputError, match="reads text states of width 32, this AltCLIP gives 192"):
        load_inverter(bridge(), "mini")
    bridges.small_bridge().save_pretrained(tmp_path / "exit")
    with pytest.raises(InputError, match="stands at CLIP's exit"):
        load_inverter(tmp_path / "exit", published("m9"))
    bridges.small_entrance_bridge(bridges.readable()).save_pretrained(tmp_path / "bare")
    with pytest.raises(InputError, match="no folder tokenizer"):
        load_inverter(tmp_path / "bare", published("m9"))


def test_the_bridge_names_its_altclip(published, tmp_path):
    pipe = bridges.readable()
    folder = bridges.save_entrance_bridge(tmp_path / "bridge", pipe, text_encoder=str(published("m9")))
    assert len(load_inverter(folder).invert("一只猫").tokens) == 3


def test_names_that_are_words(inverter):
    read = inverter()
    assert read.is_word("castle")
    assert not read.is_word("dark-elf")
    assert not read.is_word("黑暗精灵")
