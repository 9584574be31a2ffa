"""R2D2: CLIP's vision tower and a Chinese RoBERTa, each with a projection. Weights are brought by the user.

Layout and preprocessing follow the authors' code (yuxie11/R2D2: models/r2d2.py, models/prd2.py, r2d2_inference_demo.py,
train_r2d2_retrieval.py, checkpoints/). Tested on small random weights in that layout against transformers' classes; never
on the published files. That their momentum copies and queues are named as in `_NOT_READ` is an assumption: the training
code that would write them is not published, and a name that is not listed is an error that shows it.

This is the dual encoder (the authors' pre-ranking) alone. In the authors' evaluation the 128 best of each query are then
ranked anew by a cross-encoder, which is not read here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import linear
from transformers import BertConfig, BertModel

from altdiffusion.checkpoints import tensor_files
from altdiffusion.errors import InputError
from altdiffusion.evaluation.systems.base import Options
from altdiffusion.evaluation.systems.dual_encoder import DualEncoder
from altdiffusion.evaluation.systems.pixels import squashed_pixels
from altdiffusion.evaluation.systems.vocabulary import encode, load_vocabulary, padded, split_name
from altdiffusion.evaluation.systems.weights import build_text, build_vision, check_there, without_prefix
from altdiffusion.files import local_path

CONTEXT = 64  # tokens
NOTE = "dual encoder alone; the printed figures may include re-ranking of the top 128"

_NOT_READ = (
    "text_joint_layer.", "img_joint_layer.", "img_joint_proj.", "itm_head.", "itm_head_i.",  # the cross-encoder
    "text_encoder.pooler.", "temp",
    "visual_encoder.embeddings.position_ids", "text_encoder.embeddings.position_ids",  # counters in old files
    "visual_encoder_m.", "text_encoder_m.", "vision_proj_m.", "text_proj_m.",  # momentum copies
    "image_queue", "text_queue", "idx_queue", "queue_ptr", "ptr_queue",
)  # fmt: skip
_PARTS = ("visual_encoder.", "text_encoder.", "vision_proj.", "text_proj.")


def load_r2d2(name: str, options: Options) -> DualEncoder:
    """An R2D2 or PRD2 from its .pth: "FILE", or "FILE+VOCABULARY".

    The checkpoint carries no vocabulary: it is vocab.txt beside the file, or VOCABULARY, a vocab.txt, a folder or an id on
    the hub such as "hfl/chinese-roberta-wwm-ext", whose 21,128 tokens R2D2 has. Texts are lower-cased and cut at 64
    tokens; images are scaled to a square without a crop, bicubic.
    """
    file_name, vocabulary = split_name(name)
    path = local_path(file_name)
    what = f"the R2D2 in {path}"
    state = dual_encoder_part(read_r2d2(path, options.allow_pickle), what)
    vision = build_vision(without_prefix(state, "visual_encoder."), what, options)
    text = without_prefix(state, "text_encoder.")
    bert = build_text(BertModel, BertConfig, text, what, options, "text_encoder.")
    heads = {}
    for head, tower in (("vision_proj", vision), ("text_proj", bert)):
        names = (f"{head}.weight", f"{head}.bias")
        check_there(state, names, what)
        heads[head] = [state[name].to(options.device, options.dtype) for name in names]
        if (takes := heads[head][0].shape[1]) != (width := tower.config.hidden_size):
            raise InputError(f"{what}: {head} takes {takes} channels, its tower gives {width}")
    tokenizer = load_vocabulary(path, vocabulary, bert.config.vocab_size)
    side = vision.config.image_size

    def encode_images(images: Sequence[Image]) -> Tensor:
        pixels = squashed_pixels(images, side).to(options.device, options.dtype)
        first = vision(pixels).last_hidden_state[:, 0]  # before the tower's last normalisation
        return linear(first, *heads["vision_proj"])

    def encode_texts(texts: Sequence[str]) -> Tensor:
        inputs = encode(tokenizer, texts, CONTEXT, options.device)
        first = bert(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state[:, 0]
        return linear(first, *heads["text_proj"])

    return DualEncoder("R2D2", encode_images, encode_texts, options.batch_size, NOTE, padded(CONTEXT))


def read_r2d2(path: Path, allow_pickle: bool) -> dict[str, Tensor]:
    """The tensors of a file; in the authors' own they lie under "model"."""
    state = tensor_files.read_tensors(path, allow_pickle=allow_pickle)
    if state or path.suffix not in tensor_files.PICKLES:
        return state
    nested = torch.load(path, map_location="cpu", weights_only=True).get("model")  # read before, and allowed
    if not isinstance(nested, Mapping):
        raise InputError(f"{path} holds no tensors: expected them by name, or under 'model'")
    return {str(name): tensor for name, tensor in nested.items() if isinstance(tensor, Tensor)}


def is_r2d2(names: Mapping[str, Tensor]) -> bool:
    """Whether tensors are named as R2D2's are."""
    return "vision_proj.weight" in names and "visual_encoder.embeddings.class_embedding" in names


def dual_encoder_part(state: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Without the cross-encoder and the leftovers of training. Raises InputError for a name that is none of these."""
    if not is_r2d2(state):
        raise InputError(
            f"{what} is none: expected visual_encoder.*, text_encoder.*, vision_proj, text_proj, found tensors named like "
            f"{', '.join(sorted(state)[:3]) or 'nothing'}"
        )
    kept = {name: tensor for name, tensor in state.items() if not _is_not_read(name)}
    if extra := [name for name in kept if not name.startswith(_PARTS)]:
        raise InputError(f"{what} does not fit its layout: left over {', '.join(sorted(extra)[:4])}")
    return kept


def _is_not_read(name: str) -> bool:
    return any(name.startswith(known) if known.endswith(".") else name == known for known in _NOT_READ)
