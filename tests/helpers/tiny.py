"""The smallest models and data that the trainers take: width 8, one layer, forty records."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from transformers import (
    AltCLIPTextConfig,
    AltCLIPTextModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaTokenizer,
)

WIDTH = 8
THINGS = {
    "cat": "Katze",
    "dog": "Hund",
    "sun": "Sonne",
    "moon": "Mond",
    "fish": "Fisch",
    "tree": "Baum",
    "egg": "Ei",
    "hat": "Hut",
}
COLOURS = {"red": "rot", "blue": "blau", "green": "grün", "black": "schwarz", "pink": "rosa"}
PAIRS = [
    (f"{colour} {thing}" + " today" * (number % 3), f"{COLOURS[colour]} {THINGS[thing]}" + " heute" * (number % 5))
    for number, (colour, thing) in enumerate((colour, thing) for colour in COLOURS for thing in THINGS)
]  # fmt: skip


def save_pairs(path: Path, pairs: list[tuple[str, str]] = PAIRS) -> Path:
    path.write_text("en\tde\n" + "".join(f"{en}\t{de}\n" for en, de in pairs), encoding="utf-8")
    return path


def save_pictures(folder: Path, pictures: int = 40) -> Path:
    """One plain 8 x 8 image a record, or fewer, which the records then share; both languages."""
    folder.mkdir()
    lines = []
    for number, (en, de) in enumerate(PAIRS):
        shown = number % pictures
        Image.new("RGB", (8, 8), (shown * 6, 255 - shown * 5, shown * 37 % 256)).save(folder / f"{shown}.png")
        lines.append(json.dumps({"image": f"{shown}.png", "en": en, "de": de}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer().train_new_from_iterator([[en for en, _ in PAIRS]], vocab_size=60)


def roberta_tokenizer() -> XLMRobertaTokenizer:
    return XLMRobertaTokenizer().train_new_from_iterator([[" ".join(pair) for pair in PAIRS]], vocab_size=60)


def save_clip(folder: Path, seed: int = 0) -> CLIPModel:
    """A whole CLIP as on the hub; its towers are 8 wide, its common space 4."""
    tokenizer = clip_tokenizer()
    text = dict(vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1)
    text |= dict(num_attention_heads=2, eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id)
    text |= dict(pad_token_id=tokenizer.pad_token_id)
    vision = dict(hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    vision |= dict(image_size=8, patch_size=4)
    torch.manual_seed(seed)
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=4)).eval()
    for parameter in clip.text_model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # so that texts differ
    clip.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}).save_pretrained(folder)
    return clip


def save_student(folder: Path, width: int = WIDTH) -> AltCLIPTextModel:
    """AltCLIP's text tower, whose vectors have the width given."""
    tokenizer = roberta_tokenizer()
    torch.manual_seed(1)
    config = AltCLIPTextConfig(**_roberta(tokenizer), project_dim=width)
    student = AltCLIPTextModel(config).eval()
    for parameter in student.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)  # the usual 0.02 of a width of 8 is next to nothing
    student.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return student


def save_roberta(folder: Path) -> XLMRobertaForMaskedLM:
    """A plain XLM-R as on the hub, with the head of its training."""
    tokenizer = roberta_tokenizer()
    torch.manual_seed(2)
    model = XLMRobertaForMaskedLM(XLMRobertaConfig(**_roberta(tokenizer))).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def _roberta(tokenizer: XLMRobertaTokenizer) -> dict[str, int]:
    settings = dict(vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1)
    settings |= dict(num_attention_heads=2, max_position_embeddings=80, type_vocab_size=1)
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    return settings | {name: getattr(tokenizer, name) for name in names}
