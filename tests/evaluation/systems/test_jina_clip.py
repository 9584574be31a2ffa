"""jina-clip-v2: its text tower with the LoRA merged, by transformers' class; its image encoder by formulas, and by timm's."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import small_systems as small
from helpers import tiny
from helpers.small_systems import assert_features, load, same
from safetensors.torch import save_file
from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

from altdiffusion import InputError
from altdiffusion.evaluation.systems.eva_vision import EvaVision
from altdiffusion.evaluation.systems.pixels import cropped_pixels

TEXTS = ["a red cat", "Katze", "black dog today " * 4, "a"]
WIDTH, LAYERS, PATCH = 128, 2, 8  # two heads of 64 channels
VISION = dict(
    embed_dim=WIDTH, width=WIDTH, head_width=64, image_size=36, patch_size=PATCH, layers=LAYERS, mlp_ratio=2.6667,
    intp_freq=True, pt_hw_seq_len=16, naive_swiglu=True, subln=True, qkv_bias=True, rope_embeddings=True, post_norm=False,
    ls_init_value=None, proj_type=None, x_attention=True, patch_dropout=0.1,
)  # fmt: skip
TASKS = ["retrieval.query", "text-matching"]


def config(task="retrieval.query", **vision):
    lora = {"lora_adaptations": TASKS, "lora_alpha": 6, "lora_rank": 3, "use_flash_attn": True}
    text = {"default_lora_task": task, "default_instruction_task": None, "hf_model_config_kwargs": lora}
    text |= {"embed_dim": WIDTH, "pooler_type": "mean_pooler", "proj_type": None}
    about = {"architectures": ["JinaCLIPModel"], "model_type": "jina_clip", "add_projections": False}
    return about | {"text_config": text, "vision_config": VISION | vision}


def under_authors_names(state):
    """transformers' tensors of the text tower, in the layout of the authors' code: a weight beside its LoRA."""
    torch.manual_seed(5)
    stored = {}
    for name, tensor in state.items():
        if ".self_attn.k_proj." in name or ".self_attn.v_proj." in name:
            continue
        if ".self_attn.q_proj." in name:
            tensor = torch.cat([state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"])
        name = name.replace("self_attn.q_proj", "mixer.Wqkv").replace("self_attn.o_proj", "mixer.out_proj")
        name = name.replace("post_attention_layernorm", "norm1").replace("post_mlp_layernorm", "norm2")
        name = name.replace("embeddings.LayerNorm", "emb_ln")
        name = f"encoder.{name}" if name.startswith("layers.") else name
        if tensor.dim() == 1:
            stored[name] = tensor
            continue
        start = name.removesuffix("weight") + "parametrizations.weight."
        stored[f"{start}original"] = tensor
        rows, columns = tensor.shape
        if "embeddings" in name:
            stored[f"{start}0.lora_A"], stored[f"{start}0.lora_B"] = torch.randn(2, rows, 3), torch.randn(2, 3, columns)
        else:
            stored[f"{start}0.lora_A"], stored[f"{start}0.lora_B"] = torch.randn(2, 3, columns), torch.randn(2, rows, 3)
    return stored


@pytest.fixture(scope="module")
def jina(tmp_path_factory):
    """(folder, the text tower without a LoRA, its stored tensors, the image encoder's, the tokenizer)."""
    folder = tmp_path_factory.mktemp("jina")
    tokenizer = tiny.roberta_tokenizer()
    settings = dict(vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=160, num_hidden_layers=LAYERS)
    settings |= dict(num_attention_heads=2, rope_parameters={"rope_type": "default", "rope_theta": 20000.0})
    tower = small.excite(JinaEmbeddingsV3Model(JinaEmbeddingsV3Config(**settings), add_pooling_layer=False))
    stored = under_authors_names(tower.state_dict())
    vision = small.excite(EvaVision(WIDTH, LAYERS, 2, int(WIDTH * 2.6667), 36 // PATCH, PATCH, 16)).state_dict()
    save(folder, stored, vision)
    tokenizer.save_pretrained(folder)
    return folder, tower, stored, vision, tokenizer


def save(folder, text, vision, settings=None):
    state = {f"text_model.transformer.roberta.{name}": tensor for name, tensor in text.items()}
    state |= {f"vision_model.{name}": tensor for name, tensor in vision.items()} | {"logit_scale": torch.tensor(2.0)}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings or config()))
    processor = {"size": 36, "resize_mode": "shortest", "interpolation": "bicubic", "fill_color": 0}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


@pytest.mark.parametrize("task", [*TASKS, None])
def test_jina_clips_texts_are_the_mean_of_the_towers_tokens_with_the_lora_of_the_task(jina, tmp_path, task):
    _, tower, stored, vision, tokenizer = jina
    save(tmp_path, stored, vision, config(task))
    tokenizer.save_pretrained(tmp_path)

    def weight_and_lora(module, arguments, output):
        """What the authors' code computes in a layer: by W + BA, or by W + AB in an embedding."""
        (inputs,) = arguments
        name = names[module]
        lora = [stored[f"{name}.parametrizations.weight.0.lora_{letter}"][TASKS.index(task)] for letter in "AB"]
        if isinstance(module, torch.nn.Embedding):
            return output + 6 / 3 * F.embedding(inputs, lora[0]) @ lora[1]
        extra = 6 / 3 * inputs @ lora[0].T @ lora[1].T
        return output + extra.chunk(3, -1)["qkv".index(parts[module])] if module in parts else output + extra

    names, parts, hooks = {}, {}, []
    for name, module in tower.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            if name[-6:] in ("q_proj", "k_proj", "v_proj"):
                parts[module] = name[-6]
            name = name.replace("self_attn.o_proj", "mixer.out_proj")
            name = name.replace(name[-6:], "Wqkv").replace("self_attn", "mixer") if module in parts else name
            names[module] = f"encoder.{name}" if name.startswith("layers.") else name
            hooks += [module.register_forward_hook(weight_and_lora)] if task else []
    expected = torch.cat([tower(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1) for text in TEXTS])
    for hook in hooks:
        hook.remove()
    system = load(tmp_path, batch_size=2)
    assert system.name == "jina-clip-v2"
    assert_features(system.text_features(TEXTS), expected)


def eva_by_formulas(pixels, state):
    """EVA-02's encoder written out anew: pairs of channels are complex numbers that a patch's place turns."""
    side, heads = 36 // PATCH, 2

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def turned(x, token):
        if token == 0:
            return x
        row, column = divmod(token - 1, side)
        angle = torch.zeros(heads, 32)
        for pair in range(32):
            place = (row if pair < 16 else column) / side * 16
            angle[:, pair] = place / 10000 ** (2 * (pair % 16) / 32)
        pairs = torch.view_as_complex(x.reshape(len(x), heads, 32, 2).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).reshape(len(x), heads, 64)

    patches = F.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], PATCH)
    x = torch.cat([state["cls_token"].repeat(len(pixels), 1, 1), patches.flatten(2).mT], 1) + state["pos_embed"]
    for layer in range(LAYERS):
        name = f"blocks.{layer}"
        y = norm(x, f"{name}.norm1")
        q, k, v = (
            (y @ state[f"{name}.attn.{letter}_proj.weight"].T + state.get(f"{name}.attn.{letter}_bias", 0)).reshape(
                *y.shape[:2], heads, 64
            )
            for letter in "qkv"
        )
        q, k = (torch.stack([turned(z[:, token], token) for token in range(z.shape[1])], 1) for z in (q, k))
        weights = (torch.einsum("bihc,bjhc->bhij", q, k) / math.sqrt(64)).softmax(-1)
        mixed = torch.einsum("bhij,bjhc->bihc", weights, v).flatten(2)
        x = x + linear(norm(mixed, f"{name}.attn.inner_attn_ln"), f"{name}.attn.proj")
        y = norm(x, f"{name}.norm2")
        gated = F.silu(linear(y, f"{name}.mlp.w1")) * linear(y, f"{name}.mlp.w2")
        x = x + linear(norm(gated, f"{name}.mlp.ffn_ln"), f"{name}.mlp.w3")
    return norm(x, "norm")[:, 0]


def test_jina_clips_images_are_those_of_eva_02s_formulas(jina):
    system = load(jina[0], batch_size=2)
    expected = eva_by_formulas(cropped_pixels(small.pictures(), 36)[:, :, :32, :32], jina[3])
    assert expected.shape == (3, WIDTH)
    assert_features(system.image_features(small.pictures()), expected)
    assert not same(system, small.stripes(), small.stripes().resize((36, 36)))  # its middle, as a crop leaves it


def test_jina_clips_images_are_those_of_timms_eva_02(jina):
    eva = pytest.importorskip("timm.models.eva")  # pip install timm; needs torchvision
    peer = eva.Eva(
        img_size=32, patch_size=PATCH, embed_dim=WIDTH, depth=LAYERS, num_heads=2, mlp_ratio=2.6667, qkv_fused=False,
        swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True, use_rot_pos_emb=True, ref_feat_shape=(16, 16),
        num_classes=0, global_pool="token",
    ).eval()  # fmt: skip
    peer.load_state_dict(eva.checkpoint_filter_fn(dict(jina[3]), peer))
    pixels = cropped_pixels(small.pictures(), 36)[:, :, :32, :32]
    assert_features(load(jina[0]).image_features(small.pictures()), peer(pixels))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (config(subln=False), r"another jina-clip \(subln=False\): only the architecture of v2"),
        (config(ls_init_value=1.0), r"another jina-clip \(ls_init_value=1\.0\)"),
        (config(task="separation"), "no LoRA for 'separation', only for retrieval.query, text-matching"),
        (config() | {"add_projections": True}, r"another jina-clip \(add_projections=True\)"),
    ],
)
def test_another_jina_clip_is_refused(jina, tmp_path, settings, message):
    save(tmp_path, jina[2], jina[3], settings)
    with pytest.raises(InputError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("drop", ["emb_ln.bias", "embeddings.word_embeddings.parametrizations.weight.0.lora_B"])
def test_a_missing_tensor_is_named(jina, tmp_path, drop):
    save(tmp_path, {name: tensor for name, tensor in jina[2].items() if name != drop}, jina[3])
    with pytest.raises(InputError, match="missing"):
        load(tmp_path)


def test_other_images_than_the_authors_are_refused(jina, tmp_path):
    save(tmp_path, *jina[2:4])
    jina[4].save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"size": 36, "resize_mode": "squash"}')
    with pytest.raises(InputError, match="asks for resize_mode squash: expected size 36, shortest, bicubic"):
        load(tmp_path)
