"""M-CLIP: an XLM-RoBERTa or a BERT whose averaged tokens a linear layer takes into the space of an English CLIP.

Source: FreddeFrallan/Multilingual-CLIP, multilingual_clip/pt_multilingual_clip.py. The settings of the text tower are
read from its tensors: config.json only names the model that it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image
from torch import Tensor
from torch.nn.functional import linear
from transformers import BertConfig, BertModel, BertTokenizer, XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizer

from altdiffusion.checkpoints import tensor_files
from altdiffusion.errors import InputError
from altdiffusion.evaluation.systems.base import Options
from altdiffusion.evaluation.systems.clip import clip_images
from altdiffusion.evaluation.systems.dual_encoder import DualEncoder, in_batches
from altdiffusion.evaluation.systems.open_clip import load_open_clip
from altdiffusion.evaluation.systems.vocabulary import encode, load_tokenizer, padded, split_name
from altdiffusion.evaluation.systems.weights import build_text, check_there, find_folder, without_prefix

# The CLIP that the images go through, by its width.
VISION = {768: "openai/clip-vit-large-patch14", 512: "openai/clip-vit-base-patch32"}
OPEN_CLIP = "open_clip:"  # begins the name of one that open_clip loads, such as ViT-B-16-plus-240/laion400m_e32
_HEAD = ("LinearTransformation.weight", "LinearTransformation.bias")


def load_m_clip(name: str, options: Options) -> DualEncoder:
    """An M-CLIP from a folder or the hub: "M-CLIP/XLM-Roberta-Large-Vit-L-14", or "TEXT+VISION".

    VISION: the CLIP that the images go through, by default OpenAI's of the same width; that of XLM-Roberta-Large-Vit-B-16Plus
    is open_clip:ViT-B-16-plus-240/laion400m_e32. A text's vector is the linear layer of the mean of its tokens, [CLS] and
    [SEP] among them. The authors cut no text; here those are cut that have more tokens than the tower has positions.
    """
    text_name, vision_name = split_name(name)
    folder = find_folder(text_name, options)
    what = f"the M-CLIP in {folder}"
    if not options.allow_pickle:
        tensor_files.refuse_pickles(folder)
    state = tensor_files.read_weights(folder, allow_pickle=options.allow_pickle)
    check_there(state, _HEAD, what)
    head = [state.pop(part).to(options.device, options.dtype) for part in _HEAD]
    if extra := sorted(part for part in state if not part.startswith("transformer.")):
        raise InputError(f"{what} does not fit its layout: left over {', '.join(extra[:4])}")
    text = without_prefix(state, "transformer.")
    text.pop("embeddings.position_ids", None)  # a counter in old files
    is_xlm_r = len(text.get("embeddings.token_type_embeddings.weight", ())) == 1  # BERT, such as LaBSE, has two
    classes = (XLMRobertaModel, XLMRobertaConfig) if is_xlm_r else (BertModel, BertConfig)
    tower = build_text(*classes, text, what, options, "transformer.")
    settings = tower.config
    tokenizer = load_tokenizer(
        XLMRobertaTokenizer if is_xlm_r else BertTokenizer,
        folder,
        ["tokenizer.json", "sentencepiece.bpe.model" if is_xlm_r else "vocab.txt"],
        settings.vocab_size,
    )
    context = settings.max_position_embeddings - (settings.pad_token_id + 1 if is_xlm_r else 0)
    width, takes = head[0].shape
    if takes != settings.hidden_size:
        raise InputError(f"{what}: its linear layer takes {takes} channels, its tower gives {settings.hidden_size}")
    encode_images, vision = _vision(vision_name or VISION.get(width), width, what, options)

    def encode_texts(texts: Sequence[str]) -> Tensor:
        inputs = encode(tokenizer, texts, context, options.device)
        mask = inputs["attention_mask"]
        states = tower(inputs["input_ids"], attention_mask=mask).last_hidden_state
        return linear((states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True), *head)

    protocol = padded(context) | {"images": f"images by {vision}"}
    return DualEncoder("M-CLIP", encode_images, encode_texts, options.batch_size, protocol=protocol)


def _vision(name: str | None, width: int, what: str, options: Options) -> tuple[Callable[..., Tensor], str]:
    """The image encoder of a CLIP, and its name. Raises InputError where its vectors don't have this width, or none is known."""
    if name is None:
        raise InputError(
            f"{what} has vectors of {width} dimensions: name the CLIP that its images go through, TEXT+VISION"
        )
    encode: Callable[..., Tensor]
    if name.startswith(OPEN_CLIP):
        encode = load_open_clip(name.removeprefix(OPEN_CLIP), options).encode_images
    else:
        encode = clip_images(find_folder(name, options), options)
    found = in_batches(encode, [Image.new("RGB", (9, 7))], 1).shape[1]
    if found != width:
        raise InputError(
            f"M-CLIP's text vectors have {width} dimensions, those of {name} {found}: name the CLIP that it was trained "
            "with, m-clip:TEXT+VISION"
        )
    return encode, name
