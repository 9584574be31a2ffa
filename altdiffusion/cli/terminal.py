"""What the command line prints: notes on standard error, results on standard output."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any


def hide_loading() -> None:
    """The libraries' bars and notices while they load; their bars while they draw and their warnings stay."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("diffusers.utils.deprecation_utils").setLevel(logging.ERROR)
    logging.getLogger("diffusers.loaders.lora_base").addFilter(_is_no_lora_of_the_unet_alone)


def _is_no_lora_of_the_unet_alone(record: logging.LogRecord) -> bool:
    """Most LoRAs have no half for the text encoder, which diffusers warns of."""
    return not record.getMessage().startswith("No LoRA keys associated")


def say(line: str) -> None:
    """A note for the person, on standard error."""
    print(line, file=sys.stderr, flush=True)


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(document, ensure_ascii=False, indent=2))
