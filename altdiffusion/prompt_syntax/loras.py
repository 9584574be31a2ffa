"""LoRAs that a prompt names: <lora:name:0.8>."""

from __future__ import annotations

import re
from dataclasses import dataclass

from altdiffusion.errors import InputError
from altdiffusion.prompt_syntax.tokens import ascii_number, malformed

MAX_LORA_WEIGHT = 10.0  # either way: sliders have negative weights

_TAG = re.compile(r"\\.|[<＜](\w+)[:：]([^<>＜＞]*)([>＞]?)", re.DOTALL)
_KINDS = ("lora", "lyco")  # the web UIs read both as one


@dataclass(frozen=True)
class LoraTag:
    """A LoRA and its weight in the UNet; its weight in the text encoder, where that is another one."""

    name: str
    weight: float = 1.0
    text_encoder_weight: float | None = None


def take_loras(prompt: str, lenient: bool = False) -> tuple[str, tuple[LoraTag, ...]]:
    """The prompt without its LoRAs, and these in order.

    Raises InputError for a tag that isn't closed, has no name or no number from -10 to 10, and for other tags than LoRAs'.
    lenient: all of these are text.
    """
    loras: list[LoraTag] = []

    def take(found: re.Match[str]) -> str:
        kind, written, closed = found.groups()
        if kind is None or not (closed or kind in _KINDS):  # an escape, or a < in a sentence
            return found[0]
        try:
            loras.append(_lora(kind, written, closed))
        except InputError as error:
            if lenient:
                return found[0]
            remedy = "expected <lora:NAME:WEIGHT>; write \\< for text"
            raise malformed(prompt, found.start(), str(error), remedy, found[0]) from None
        return ""

    return _TAG.sub(take, prompt), tuple(loras)


def _lora(kind: str, written: str, closed: str) -> LoraTag:
    """A tag as A1111 has it: NAME, NAME:WEIGHT, NAME:TEXT-ENCODER:UNET, or these two by name, te= and unet=."""
    if not closed:
        raise InputError("the > is missing")
    if kind not in _KINDS:
        raise InputError(f"{kind} is no LoRA")
    name, *parts = (part.strip() for part in re.split("[:：]", written))
    if not name:
        raise InputError("it has no name")
    weights: dict[str, float] = {}
    for place, part in enumerate(parts):
        label, equals, number = part.rpartition("=")
        key = label if equals else ("te", "unet", "")[min(place, 2)]
        if key not in ("te", "unet") or key in weights:
            raise InputError(f"“{part}” isn't read")
        weights[key] = _weight(number)
    text_encoder = weights.get("te", 1.0)
    unet = weights.get("unet", text_encoder)
    return LoraTag(name, unet, None if text_encoder == unet else text_encoder)


def _weight(written: str) -> float:
    number = ascii_number(written)
    if number is None:
        raise InputError(f"the weight “{written}” is no number")
    if abs(float(number)) > MAX_LORA_WEIGHT:
        raise InputError(f"the weight is {number}, beyond {MAX_LORA_WEIGHT:g}")
    return float(number)
