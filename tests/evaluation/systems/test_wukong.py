"""Wukong: its layout, computed anew from the formulas of its code with plain torch; its similarity, by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import small_systems as small
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertTokenizer

from altdiffusion import InputError
from altdiffusion.evaluation.systems.load import load_system
from altdiffusion.evaluation.systems.pixels import cropped_pixels

WIDTH, DIMENSION, LAYERS, CONTEXT, TOKENS = 128, 16, 2, 12, 5


def random(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape) * scale


def tower(prefix: str) -> dict[str, Tensor]:
    state = {}
    for layer in range(LAYERS):
        block = f"{prefix}resblocks.{layer}."
        for name, (rows, columns) in {"attn.in_proj_": (3 * WIDTH, WIDTH), "attn.out_proj.": (WIDTH, WIDTH),
                                      "mlp.c_fc.": (4 * WIDTH, WIDTH), "mlp.c_proj.": (WIDTH, 4 * WIDTH)}.items():  # fmt: skip
            state[f"{block}{name}weight"] = random(rows, columns, scale=columns**-0.5)
            state[f"{block}{name}bias"] = random(rows, scale=0.1)
        state |= norm(f"{block}ln_1") | norm(f"{block}ln_2")
    return state


def norm(name: str, width: int = WIDTH) -> dict[str, Tensor]:
    return {f"{name}.weight": 1 + random(width, scale=0.2), f"{name}.bias": random(width, scale=0.2)}


def wukong_state(rows: int, reduction: str = "token_learner") -> dict[str, Tensor]:
    """The tensors of wukong_vit_l.ckpt, small. reduction: the layer's name in files, or in the code."""
    torch.manual_seed(5)
    state = tower("visual.transformer.") | tower("transformer.")
    state |= norm("visual.ln_pre") | norm("visual.ln_post") | norm("transformer.ln_final")
    state |= norm(f"visual.{reduction}.norm", DIMENSION)
    return state | {
        "visual.class_embedding": random(WIDTH),
        "visual.positional_embedding": random((small.SIDE // 8) ** 2 + 1, WIDTH, scale=0.5),
        "visual.conv1.weight": random(WIDTH, 3, 8, 8, scale=0.1),
        "visual.proj": random(WIDTH, DIMENSION, scale=WIDTH**-0.5),
        f"visual.{reduction}.attention_maps.0.weight": random(DIMENSION, DIMENSION // 8, 1, 1),
        f"visual.{reduction}.attention_maps.1.weight": random(TOKENS, DIMENSION, 1, 1),
        f"visual.{reduction}.feat_conv.weight": random(DIMENSION, DIMENSION // 8, 1, 1),
        "transformer.token_embedding.weight": random(rows, WIDTH),
        "transformer.positional_embedding": random(CONTEXT, WIDTH, scale=0.5),
        "transformer.text_projection": random(WIDTH, DIMENSION, scale=WIDTH**-0.5),
        "loss.logit_scale": torch.tensor(4.6),
    }


def run_tower(state: dict[str, Tensor], prefix: str, states: Tensor, mask: Tensor | None) -> Tensor:
    """Pre-norm transformer with torch's own attention and QuickGELU."""
    for layer in range(LAYERS):
        block = f"{prefix}resblocks.{layer}."
        attention = nn.MultiheadAttention(WIDTH, WIDTH // 64, batch_first=True)
        own = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
        attention.load_state_dict({name: state[f"{block}attn.{name}"] for name in own})
        normed = run_norm(state, f"{block}ln_1", states)
        states = states + attention(normed, normed, normed, attn_mask=mask)[0]
        inner = F.linear(run_norm(state, f"{block}ln_2", states), *both(state, f"{block}mlp.c_fc"))
        states = states + F.linear(inner * torch.sigmoid(1.702 * inner), *both(state, f"{block}mlp.c_proj"))
    return states


def both(state: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return state[f"{name}.weight"], state[f"{name}.bias"]


def run_norm(state: dict[str, Tensor], name: str, states: Tensor) -> Tensor:
    return F.layer_norm(states, states.shape[-1:], *both(state, name))


@torch.no_grad()
def expected_images(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    patches = F.conv2d(pixels, state["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    first = state["visual.class_embedding"].expand(len(pixels), 1, -1)
    states = torch.cat([first, patches], 1) + state["visual.positional_embedding"]
    states = run_tower(state, "visual.transformer.", run_norm(state, "visual.ln_pre", states), None)
    tokens = (run_norm(state, "visual.ln_post", states) @ state["visual.proj"])[:, 1:]
    reduction = "visual.token_learner."
    grid = run_norm(state, f"{reduction}norm", tokens).transpose(1, 2).unflatten(2, (small.SIDE // 8, -1))
    maps = F.conv2d(grid, state[f"{reduction}attention_maps.0.weight"], groups=8)
    maps = F.conv2d(maps, state[f"{reduction}attention_maps.1.weight"]).flatten(2).softmax(-1)
    grid = tokens.transpose(1, 2).unflatten(2, (small.SIDE // 8, -1))
    values = F.conv2d(grid, state[f"{reduction}feat_conv.weight"], groups=8).flatten(2)
    return F.normalize(torch.einsum("btp,bdp->btd", maps, values), dim=-1)


@torch.no_grad()
def expected_texts(state: dict[str, Tensor], ids: Tensor) -> Tensor:
    states = state["transformer.token_embedding.weight"][ids] + state["transformer.positional_embedding"]
    mask = torch.full((CONTEXT, CONTEXT), -math.inf).triu(1)
    states = run_norm(state, "transformer.ln_final", run_tower(state, "transformer.", states, mask))
    return F.normalize(states @ state["transformer.text_projection"], dim=-1) * (ids > 0)[:, :, None]


@pytest.fixture
def checkpoint(tmp_path):
    rows = small.save_vocabulary(tmp_path)
    torch.save({"state_dict": wukong_state(rows), "epoch": 3}, tmp_path / "wukong_vit_l.ckpt")
    return tmp_path / "wukong_vit_l.ckpt"


def load(name, **given):
    return load_system(name, device="cpu", allow_pickle=True, **given)


@pytest.mark.parametrize("prefix", ["wukong:", ""])
def test_wukong_gives_what_its_formulas_give(checkpoint, prefix):
    system, state = load(f"{prefix}{checkpoint}", batch_size=2), wukong_state(len(small.words()))
    assert system.name == "Wukong"
    assert "token-wise" in system.note
    images = system.image_features(small.pictures())
    assert images.shape == (3, TOKENS, DIMENSION)
    expected = expected_images(state, cropped_pixels(small.pictures(), small.SIDE))
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=0)

    tokens = BertTokenizer(vocab=str(checkpoint.parent / "vocab.txt"))(
        small.TEXTS, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt"
    )
    texts = system.text_features(small.TEXTS)
    torch.testing.assert_close(texts, expected_texts(state, tokens["input_ids"]), atol=1e-5, rtol=0)
    assert texts[0].ne(0).any(-1).sum() == 5  # [CLS] 一 只 猫 [SEP]


def test_both_names_of_the_reduction_and_safetensors_are_read(checkpoint, tmp_path):
    save_file(wukong_state(len(small.words()), "token_reduction"), tmp_path / "wukong.safetensors")
    found = load(tmp_path / "wukong.safetensors").image_features(small.pictures())
    torch.testing.assert_close(found, load(checkpoint).image_features(small.pictures()))


def test_wukong_crops_lowers_and_cuts_at_its_context(checkpoint):
    system = load(checkpoint)
    stripes, green = system.image_features([small.stripes(), Image.new("RGB", (32, 32), "green")])
    torch.testing.assert_close(stripes, green, atol=1e-5, rtol=0)
    one, other, long, longer = system.text_features(["CATS", "cats", "猫" * (CONTEXT - 2), "猫" * 40])
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(long, longer)


def test_similarity_by_hand(checkpoint):
    """A text of two tokens and one of padding; an image of two tokens."""
    system = load(checkpoint)
    texts = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    images = torch.tensor([[[0.6, 0.8], [-0.8, -0.6]], [[-1.0, 0.0], [0.0, -1.0]]])
    # text to image: the best image tokens for x and y are 0.6 and 0.8; in the second image 0 and 0
    torch.testing.assert_close(system.similarity(texts, images), torch.tensor([[0.7, 0.0]]))
    # image to text: the first token's best is 0.8, the second's the padding's 0; in the second image both are 0
    torch.testing.assert_close(system.image_to_text_similarity(texts, images), torch.tensor([[0.4, 0.0]]))
    # without padding what is negative stays so
    assert system.image_to_text_similarity(texts[:, :1], images[1:, :1]).item() == -1


def test_a_vocabulary_must_be_there_and_fit(checkpoint, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "vocab.txt").rename(other / "vocab.txt")
    with pytest.raises(
        InputError, match=r"carries no tokenizer: put bert-base-chinese's vocab.txt \(\d+ lines\) beside it"
    ):
        load(checkpoint)
    for named in (other, other / "vocab.txt"):
        assert load(f"{checkpoint}+{named}").text_features(["猫"]).shape == (1, CONTEXT, DIMENSION)
    (other / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    with pytest.raises(InputError, match=r"has 6 tokens, the model \d+: take bert-base-chinese's"):
        load(f"wukong:{checkpoint}+{other / 'vocab.txt'}")


def test_in_bfloat16_features_are_near_and_still_float32(checkpoint):
    exact, near = load(checkpoint), load(checkpoint, dtype=torch.bfloat16)
    for found, expected in (
        (near.text_features(small.TEXTS), exact.text_features(small.TEXTS)),
        (near.image_features(small.pictures()), exact.image_features(small.pictures())),
    ):
        assert found.dtype == torch.float32
        assert not torch.equal(found, expected)
        assert F.cosine_similarity(found.flatten(1), expected.flatten(1)).min() > 0.99


@pytest.mark.parametrize(
    "name",
    ["visual.proj", "visual.token_learner.feat_conv.weight", "visual.ln_pre.bias", "transformer.text_projection",
     "transformer.resblocks.1.attn.in_proj_bias", "transformer.token_embedding.weight", "visual.conv1.weight"],
)  # fmt: skip
def test_a_missing_tensor_is_an_error(tmp_path, name):
    state = wukong_state(small.save_vocabulary(tmp_path))
    del state[name]
    torch.save({"state_dict": state}, tmp_path / "wukong.ckpt")
    with pytest.raises(InputError, match="does not fit its layout: missing"):
        load(tmp_path / "wukong.ckpt")


def test_what_is_left_over_and_another_variant_are_errors(tmp_path):
    state = wukong_state(small.save_vocabulary(tmp_path))
    torch.save({"state_dict": state | {"visual.strange": torch.zeros(1)}}, tmp_path / "extra.ckpt")
    with pytest.raises(InputError, match=r"left over visual\.strange"):
        load(tmp_path / "extra.ckpt")
    torch.save({"state_dict": {k: v for k, v in state.items() if "token_learner" not in k}}, tmp_path / "global.ckpt")
    with pytest.raises(InputError, match="no layer that reduces image tokens"):
        load(f"wukong:{tmp_path / 'global.ckpt'}")
    with pytest.raises(InputError, match="--allow-pickle"):
        load_system(tmp_path / "extra.ckpt", device="cpu")
