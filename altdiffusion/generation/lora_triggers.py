"""The trigger words that a LoRA was trained with, read off its file: they stay literal where a bridge reads prompts. No torch.

modelspec.trigger_phrase     of the Stability AI model metadata standard, as kohya's scripts write it
ss_tag_frequency             kohya's count of the captions' tags, in each folder of training images
NAME.json                    beside NAME.safetensors, AUTOMATIC1111's: "activation text"
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from altdiffusion.errors import InputError
from altdiffusion.prompt_syntax import parse_weights, take_loras

logger = logging.getLogger(__name__)

_MAX_HEADER = 100 * 2**20  # bytes, as in safetensors
_MAX_WORDS, _MAX_LETTERS = 50, 75  # of a LoRA; of a word. Files are strangers'
_MAX_TEXT = 10_000  # characters that are looked at for them
_REPEATS = re.compile(r"\d+_")  # of a folder of training images: 10_sks dog


def trigger_words(file: Path) -> list[str]:
    """A LoRA's trigger words and phrases, in order, each once; none where neither the file nor one beside it names any."""
    metadata = _metadata(file)
    texts = [metadata.get("modelspec.trigger_phrase"), _activation_text(file.with_suffix(".json"))]
    words = [word for text in texts if isinstance(text, str) for word in _phrases(text)]
    words += _instance_tags(metadata)
    fitting = [word for word in dict.fromkeys(words) if 1 < len(word) <= _MAX_LETTERS]
    return fitting[:_MAX_WORDS]


def keep_triggers(pipe: Any, name: str, files: Iterable[Path]) -> None:
    """Keep the trigger words of a LoRA's files from a pipeline's bridge, if one stands at its CLIP's entrance, and say so."""
    prompts: Any = getattr(getattr(pipe, "tokenizer", None), "soft_prompts", None)
    if prompts is not None and (words := [word for file in files for word in trigger_words(file)]):
        prompts.literal_words.update(words)
        logger.warning("LoRA %s: its trigger words stay as they are in prompts: %s", name, ", ".join(words))


def _metadata(file: Path) -> dict[str, Any]:
    """What a safetensors file says of itself: its header is JSON behind 8 bytes for the length."""
    if file.suffix.lower() != ".safetensors":
        return {}
    with contextlib.suppress(OSError, ValueError, RecursionError), file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length)) if length <= _MAX_HEADER else {}
        return _mapping(_mapping(header).get("__metadata__"))
    return {}


def _activation_text(file: Path) -> Any:
    try:
        content = file.read_text(encoding="utf-8") if file.is_file() else "{}"
        return _mapping(json.loads(content)).get("activation text")
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s can't be read (%s): trigger words in it aren't known", file, error)
        return None


def _phrases(text: str) -> list[str]:
    """The parts between commas, without weights and LoRAs: triggers are written as they go into a prompt."""
    text = text[:_MAX_TEXT]
    with contextlib.suppress(InputError):
        text = parse_weights(take_loras(text, lenient=True)[0], lenient=True).text
    return [phrase.strip() for phrase in re.split(r"[,，\n]", text) if phrase.strip()]


def _instance_tags(metadata: Mapping[str, Any]) -> Iterator[str]:
    """Tags of every caption in a folder that its name holds: `sks` of `10_sks dog`.

    What merely is in every caption, such as `solo`, is no trigger, and may be a word of another language.
    """
    folders = _json_mapping(metadata.get("ss_dataset_dirs"))
    for folder, tags in _json_mapping(metadata.get("ss_tag_frequency")).items():
        count = _mapping(folders.get(folder)).get("img_count")
        name = f" {_REPEATS.sub('', folder, count=1)} "
        for tag, frequency in _mapping(tags).items():
            is_everywhere = isinstance(count, int) and isinstance(frequency, int) and 0 < count <= frequency
            if is_everywhere and tag.strip() and f" {tag.strip()} " in name:
                yield tag.strip()


def _json_mapping(text: Any) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        return _mapping(json.loads(text)) if isinstance(text, str) else {}
    return {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
