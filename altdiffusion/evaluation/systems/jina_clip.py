"""jina-clip-v2: an XLM-RoBERTa with rotary positions and a LoRA, and EVA-02's image encoder. No code of the hub is run.

Layout and preprocessing follow the authors' code (jinaai/jina-clip-implementation: modeling_clip.py, hf_model.py,
eva_model.py, rope_embeddings.py, transform.py; jinaai/xlm-roberta-flash-implementation: modeling_lora.py). The text tower
is transformers' JinaEmbeddingsV3Model; what it was pretrained with, and config.json leaves to jina-embeddings-v3, is here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model, XLMRobertaTokenizer

from altdiffusion.checkpoints import layouts, tensor_files
from altdiffusion.errors import InputError
from altdiffusion.evaluation.systems.base import Options
from altdiffusion.evaluation.systems.dual_encoder import DualEncoder
from altdiffusion.evaluation.systems.eva_vision import EvaVision
from altdiffusion.evaluation.systems.pixels import cropped_pixels
from altdiffusion.evaluation.systems.vocabulary import encode, load_tokenizer, padded
from altdiffusion.evaluation.systems.weights import build_model, check_there, count_layers, find_folder, without_prefix

CONTEXT = 512  # tokens; the tower could read 8192
ROTARY_BASE = 20_000.0
HEAD = 64  # channels of an attention head in the text tower
_TEXT = "text_model.transformer.roberta."
_LORA = re.compile(r"(.*)\.parametrizations\.weight\.(original|0\.lora_A|0\.lora_B)")
_RENAMED = {  # the authors' parts of a name, and transformers'
    "emb_ln.": "embeddings.LayerNorm.",
    "encoder.layers.": "layers.",
    ".mixer.out_proj.": ".self_attn.o_proj.",
    ".norm1.": ".post_attention_layernorm.",
    ".norm2.": ".post_mlp_layernorm.",
}


def load_jina_clip(name: str, options: Options) -> DualEncoder:
    """A jina-clip-v2 from a folder or the hub, "jinaai/jina-clip-v2", with vectors of all dimensions.

    Texts keep their case, have no instruction before them, and are cut at 512 tokens; their vector is the mean of the
    tokens', with the LoRA that config.json names. Images are scaled by the shorter side, bicubic, then cropped.
    """
    folder = find_folder(name, options)
    what = f"the jina-clip-v2 in {folder}"
    config = tensor_files.read_json(folder / "config.json")
    text_config, vision_config = _settings(config, what)
    if not options.allow_pickle:
        tensor_files.refuse_pickles(folder)
    state = tensor_files.read_weights(folder, allow_pickle=options.allow_pickle)
    known = (_TEXT, "vision_model.")
    if extra := sorted(part for part in state if not part.startswith(known) and part != "logit_scale"):
        raise InputError(f"{what} does not fit its layout: left over {', '.join(extra[:4])}")
    tower = _build_text(_merged(without_prefix(state, _TEXT), text_config, what), what, options)
    vision = _build_vision(without_prefix(state, "vision_model."), vision_config, what, options)
    _check_processor(folder, vision_config["image_size"])
    tokenizer = load_tokenizer(
        XLMRobertaTokenizer, folder, ["tokenizer.json", "sentencepiece.bpe.model"], tower.config.vocab_size
    )

    def encode_images(images: Sequence[Image]) -> Tensor:
        return vision(cropped_pixels(images, vision_config["image_size"]).to(options.device, options.dtype))

    def encode_texts(texts: Sequence[str]) -> Tensor:
        inputs = encode(tokenizer, texts, CONTEXT, options.device)
        mask = inputs["attention_mask"]
        states = tower(inputs["input_ids"], attention_mask=mask).last_hidden_state
        return (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)

    return DualEncoder("jina-clip-v2", encode_images, encode_texts, options.batch_size, protocol=padded(CONTEXT))


def _settings(config: Mapping[str, Any], what: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of both towers. Raises InputError for a jina-clip that is built in another way, such as v1."""
    text, vision = config.get("text_config", {}), config.get("vision_config", {})
    expected = {
        "rope_embeddings": True, "naive_swiglu": True, "subln": True, "qkv_bias": True, "post_norm": False,
        "ls_init_value": None, "proj_type": None,
    }  # fmt: skip
    odd = [f"{name}={vision.get(name)}" for name, value in expected.items() if vision.get(name) != value]
    odd += [f"text's {name}={text[name]}" for name in ("proj_type", "default_instruction_task") if text.get(name)]
    odd += [f"pooler_type={text.get('pooler_type')}"] if text.get("pooler_type") != "mean_pooler" else []
    odd += ["add_projections=True"] if config.get("add_projections") else []
    if odd or "lora_alpha" not in text.get("hf_model_config_kwargs", {}):
        raise InputError(
            f"{what} is another jina-clip ({', '.join(odd) or 'no LoRA'}): only the architecture of v2 is read"
        )
    return text, vision


def _merged(state: Mapping[str, Tensor], text_config: Mapping[str, Any], what: str) -> dict[str, Tensor]:
    """The text tower's tensors with the LoRA of the default task added to the weights, in float32.

    A linear layer's weight, (out, in), gets B @ A, an embedding's, (rows, width), A @ B, times alpha / rank.
    """
    settings = text_config["hf_model_config_kwargs"]
    tasks, task = settings.get("lora_adaptations") or [], text_config.get("default_lora_task")
    if task is not None and task not in tasks:
        raise InputError(f"{what} has no LoRA for {task!r}, only for {', '.join(map(str, tasks)) or 'nothing'}")
    scale = settings["lora_alpha"] / settings["lora_rank"]
    merged: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = _LORA.fullmatch(name)
        if match is None:
            merged[name] = tensor
        elif match[2] == "original":
            start = f"{match[1]}.parametrizations.weight.0.lora_"
            check_there(state, [f"{start}A", f"{start}B"], what, _TEXT)
            weight = tensor.float()
            if task is not None:
                first, second = (state[start + letter][tasks.index(task)].float() for letter in "AB")
                weight = weight + scale * (first @ second if "embeddings" in name else second @ first)
            merged[f"{match[1]}.weight"] = weight
    return merged


def _build_text(state: Mapping[str, Tensor], what: str, options: Options) -> Any:
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for old, new in _RENAMED.items():
            name = name.replace(old, new)
        if ".mixer.Wqkv." in name:
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[name.replace(".mixer.Wqkv.", f".self_attn.{letter}_proj.")] = third
        elif not name.startswith("pooler."):  # the mean of the tokens is taken
            renamed[name] = tensor
    names = ("embeddings.word_embeddings.weight", "embeddings.token_type_embeddings.weight", "layers.0.mlp.fc1.weight")
    check_there(renamed, names, what, _TEXT)
    rows, types, inner = (len(renamed[name]) for name in names)
    width = renamed[names[0]].shape[1]
    config = JinaEmbeddingsV3Config(
        vocab_size=rows,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=count_layers(renamed, "layers."),
        num_attention_heads=max(1, width // HEAD),
        type_vocab_size=types,
        rope_parameters={"rope_type": "default", "rope_theta": ROTARY_BASE},
    )
    return build_model(JinaEmbeddingsV3Model, config, renamed, what, options, add_pooling_layer=False)


def _build_vision(state: Mapping[str, Tensor], config: Mapping[str, Any], what: str, options: Options) -> EvaVision:
    weights = {name: tensor for name, tensor in state.items() if "rope.freqs_" not in name}  # counters in old files
    with torch.device("meta"):
        vision = EvaVision(
            config["width"],
            config["layers"],
            config["width"] // config["head_width"],
            int(config["width"] * config["mlp_ratio"]),
            config["image_size"] // config["patch_size"],
            config["patch_size"],
            config["pt_hw_seq_len"],
        )
    layouts.check_names(weights, vision.state_dict(), what)
    vision.load_state_dict(weights, assign=True)
    return vision.to(options.device, options.dtype).eval()


def _check_processor(folder: Any, side: int) -> None:
    """Raise InputError where the folder wants its images in another way than `cropped_pixels` makes them."""
    path = folder / "preprocessor_config.json"
    asked = tensor_files.read_json(path) if path.is_file() else {}
    expected = {"size": side, "resize_mode": "shortest", "interpolation": "bicubic"}
    if odd := [f"{name} {asked[name]}" for name, value in expected.items() if asked.get(name, value) != value]:
        raise InputError(f"{path} asks for {', '.join(odd)}: expected size {side}, shortest, bicubic")
