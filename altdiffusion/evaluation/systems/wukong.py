"""Wukong: token-wise similarity of 24 image tokens and up to 32 text tokens. Weights are brought by the user.

Layout, preprocessing and similarity follow the authors' code (huawei-noah/Pretrained-Language-Model, Noah_WuKong:
model/wukong.py, model/vision/vision_transformer.py, model/language/transformer.py, model/modules.py, model/utils.py,
main.py, configs/wukong_vit_l/wukong_vit_l.py). Tested on small random weights in that layout against these formulas
written out anew; never on the published file. The authors' retrieval evaluation is not published: that texts are averaged
over their real tokens is what the mask of their `token_wise_similarity` does.

Both towers are CLIP's, so transformers' CLIPVisionModel and CLIPTextModel compute them; what is Wukong's own is the layer
that reduces the image's tokens. Of the published variants those with that layer are read: wukong_vit_l and wukong_vit_b.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import conv1d, layer_norm
from transformers import CLIPTextConfig, CLIPTextModel

from altdiffusion.checkpoints import layouts, tensor_files
from altdiffusion.errors import InputError
from altdiffusion.evaluation.systems.base import Options
from altdiffusion.evaluation.systems.dual_encoder import in_batches
from altdiffusion.evaluation.systems.pixels import cropped_pixels
from altdiffusion.evaluation.systems.vocabulary import encode, load_vocabulary, padded, split_name
from altdiffusion.evaluation.systems.weights import build_model, build_vision, check_there, count_layers, without_prefix
from altdiffusion.files import local_path

_OWN = ("proj", "text_projection", "reduction.norm.weight", "reduction.norm.bias", "reduction.attention_maps.0.weight",
        "reduction.attention_maps.1.weight", "reduction.feat_conv.weight")  # fmt: skip
_TEXT_SHAPES = ("embeddings.token_embedding.weight", "embeddings.position_embedding.weight",
                "encoder.layers.0.mlp.fc1.weight")  # fmt: skip


class Wukong:
    """A `System` that compares token by token."""

    name = "Wukong"
    note = "token-wise similarity: for each token the best of the other side, then the mean"

    def __init__(self, state: Mapping[str, Tensor], tokenizer: Any, what: str, options: Options) -> None:
        """state: tensors as `to_stock` gives them. tokenizer: BERT's."""
        self._options, self._tokenizer = options, tokenizer
        self._vision = build_vision(without_prefix(state, "vision."), what, options)
        text = without_prefix(state, "text.")
        rows, positions, inner = (len(text[name]) for name in _TEXT_SHAPES)
        width = text[_TEXT_SHAPES[0]].shape[1]
        config = CLIPTextConfig(
            vocab_size=rows,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=count_layers(text, "encoder.layers."),
            num_attention_heads=max(1, width // 64),
            max_position_embeddings=positions,
            hidden_act="quick_gelu",
            eos_token_id=0,  # where the tower would pool; all its tokens are used instead
        )
        self._text = build_model(CLIPTextModel, config, text, what, options)
        self._context = positions
        self.protocol = padded(positions, "max_length")
        own = {name: state[name].to(options.device, options.dtype) for name in _OWN}
        self._project, self._project_text = own["proj"], own["text_projection"]
        self._reduce = TokenReduction(without_prefix(own, "reduction."))

    def image_features(self, images: Sequence[Image]) -> Tensor:
        """float32 (images, 24, dimension) on the CPU, unit vectors; scaled by the shorter side, then cropped."""
        return in_batches(self._encode_images, images, self._options.batch_size)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """float32 (texts, 32, dimension) on the CPU: unit vectors, [CLS] and [SEP] among them, zeros for padding."""
        return in_batches(self._encode_texts, texts, self._options.batch_size)

    def similarity(self, text_features: Tensor, image_features: Tensor, /) -> Tensor:
        """float (texts, images): for each real token of the text its best image token, then the mean."""
        best = _pairs(text_features, image_features).amax(3)
        real = text_features.ne(0).any(2).sum(1, keepdim=True).clamp(min=1)
        return best.sum(1) / real  # the best of a zero vector is zero

    def image_to_text_similarity(self, text_features: Tensor, image_features: Tensor, /) -> Tensor:
        """float (texts, images): for each image token its best text token, then the mean.

        As in the authors' code the zeros of padding take part: with a text of fewer than 32 tokens no best is negative.
        """
        return _pairs(text_features, image_features).amax(1).mean(2)

    def _encode_images(self, images: Sequence[Image]) -> Tensor:
        pixels = cropped_pixels(images, self._vision.config.image_size).to(self._options.device, self._options.dtype)
        states = self._vision.post_layernorm(self._vision(pixels).last_hidden_state) @ self._project
        return self._reduce(states[:, 1:])  # the class token is not compared

    def _encode_texts(self, texts: Sequence[str]) -> Tensor:
        inputs = encode(self._tokenizer, texts, self._context, self._options.device, padding="max_length")
        states = self._text(input_ids=inputs["input_ids"]).last_hidden_state @ self._project_text  # a causal tower
        return states * inputs["attention_mask"][:, :, None]


class TokenReduction:
    """Image tokens (batch, positions, width) -> (batch, 24, width): each a weighted mean of all positions.

    The weights are a softmax over the positions, of two 1 x 1 convolutions of the normalised tokens; what is averaged are
    the tokens after a third one. The first and the third are in groups.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        kernels = {name: tensor.flatten(2) if tensor.dim() == 4 else tensor for name, tensor in state.items()}
        self.width = len(kernels["norm.weight"])
        self.norm = kernels["norm.weight"], kernels["norm.bias"]
        self.mix, self.select = kernels["attention_maps.0.weight"], kernels["attention_maps.1.weight"]
        self.value = kernels["feat_conv.weight"]

    def __call__(self, tokens: Tensor) -> Tensor:
        normed = layer_norm(tokens, (self.width,), *self.norm).transpose(1, 2)
        selected = conv1d(self._grouped(normed, self.mix), self.select).softmax(2)
        return selected @ self._grouped(tokens.transpose(1, 2), self.value).transpose(1, 2)

    def _grouped(self, columns: Tensor, kernel: Tensor) -> Tensor:
        return conv1d(columns, kernel, groups=self.width // kernel.shape[1])


def _pairs(text_features: Tensor, image_features: Tensor) -> Tensor:
    """Cosines of all tokens: (texts, text tokens, images, image tokens)."""
    return torch.tensordot(text_features, image_features, ([2], [2]))


def load_wukong(name: str, options: Options) -> Wukong:
    """A Wukong from its checkpoint: "FILE", or "FILE+VOCABULARY".

    The checkpoint carries no vocabulary: it is vocab.txt beside the file, or VOCABULARY, a vocab.txt, a folder or an id on
    the hub such as "google-bert/bert-base-chinese", whose 21,128 tokens Wukong has. Texts are lower-cased and cut at the
    32 tokens that the checkpoint has positions for.
    """
    file_name, vocabulary = split_name(name)
    path = local_path(file_name)
    state = to_stock(tensor_files.read_tensors(path, allow_pickle=options.allow_pickle), f"the Wukong in {path}")
    rows = len(state["text." + _TEXT_SHAPES[0]])
    return Wukong(state, load_vocabulary(path, vocabulary, rows), f"the Wukong in {path}", options)


def is_wukong(names: Mapping[str, Tensor]) -> bool:
    """Whether tensors are named as Wukong's are."""
    return any(re.match(r"visual\.token_(reduction|learner)\.", name) for name in names)


def to_stock(state: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Wukong's tensors under transformers' names: vision.*, text.*, proj, text_projection, reduction.*.

    Raises InputError for another architecture, and where tensors are missing or left over.
    """
    if not is_wukong(state):
        raise InputError(
            f"{what} has no layer that reduces image tokens (visual.token_reduction.*): expected wukong_vit_l or wukong_vit_b, "
            f"found tensors named like {', '.join(sorted(state)[:3]) or 'nothing'}"
        )
    stock: dict[str, Tensor] = {}
    extra = []
    for name, tensor in state.items():
        if name == "loss.logit_scale":
            continue
        new = _stock_name(name)
        if new is None:
            extra.append(name)
        elif ".in_proj_" in name:
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                stock[new.format(letter)] = third
        else:
            stock[new] = tensor
    check_there(stock, (*_OWN, *(f"text.{name}" for name in _TEXT_SHAPES)), what)
    if extra:
        raise InputError(f"{what} does not fit its layout: left over {', '.join(sorted(extra)[:4])}")
    width = len(stock["reduction.norm.weight"])
    groups = width // stock["reduction.feat_conv.weight"].shape[1]
    tokens = len(stock["reduction.attention_maps.1.weight"])
    shapes = {
        "proj": (stock["proj"].shape[0], width),
        "text_projection": (stock["text." + _TEXT_SHAPES[0]].shape[1], width),
        "reduction.norm.weight": (width,),
        "reduction.norm.bias": (width,),
        "reduction.attention_maps.0.weight": (width, width // groups, 1, 1),
        "reduction.attention_maps.1.weight": (tokens, width, 1, 1),
        "reduction.feat_conv.weight": (width, width // groups, 1, 1),
    }
    own = {name: stock[name] for name in _OWN}
    layouts.check_names(own, {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, what)
    return stock


_WHOLE = {
    "visual.class_embedding": "vision.embeddings.class_embedding",
    "visual.positional_embedding": "vision.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision.embeddings.patch_embedding.weight",
    "visual.proj": "proj",
    "transformer.token_embedding.weight": "text.embeddings.token_embedding.weight",
    "transformer.positional_embedding": "text.embeddings.position_embedding.weight",
    "transformer.text_projection": "text_projection",
}
_BEGINNINGS = {
    "visual.ln_pre.": "vision.pre_layrnorm.",
    "visual.ln_post.": "vision.post_layernorm.",
    "visual.token_reduction.": "reduction.",
    "visual.token_learner.": "reduction.",  # its name in older files
    "transformer.ln_final.": "text.final_layer_norm.",
}
_IN_BLOCK = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "attn.in_proj_": "self_attn.{}_proj.",
    "attn.out_proj.": "self_attn.out_proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}


def _stock_name(name: str) -> str | None:
    """transformers' name of a tensor, with {} where it is three in one; None for an unknown one."""
    if name in _WHOLE:
        return _WHOLE[name]
    if match := re.match(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.*)$", name):
        tower, layer, rest = "vision" if match[1] else "text", match[2], match[3]
        for old, new in _IN_BLOCK.items():
            if rest.startswith(old):
                return f"{tower}.encoder.layers.{layer}.{new}{rest.removeprefix(old)}"
        return None
    for old, new in _BEGINNINGS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return None
