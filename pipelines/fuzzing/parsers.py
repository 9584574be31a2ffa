"""The parsers that are fuzzed, by name: how an input is made, and how it is read and what must hold then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from fuzzing import file_parsers, model_parsers, settings_files, text_parsers, web_parsers
from fuzzing.inputs import Maker


@dataclass(frozen=True)
class Parser:
    """run: raises what is wrong. weight: its share of the runs, beside the others'. needs_torch: whether it imports it."""

    make: Callable[[Maker], Any]
    run: Callable[[Any], object]
    weight: float = 1.0
    needs_torch: bool = False


@cache
def allowed() -> tuple[type[Exception], ...]:
    """What a parser may raise: by its docstring, and in one line."""
    from altdiffusion.data.table import BadRecord
    from altdiffusion.errors import InputError
    from altdiffusion.images import BadImage

    return InputError, BadRecord, BadImage


PARSERS: dict[str, Parser] = {
    "weights": Parser(text_parsers.a_prompt, text_parsers.weights),
    "choices": Parser(text_parsers.a_prompt, text_parsers.choices),
    "editing": Parser(text_parsers.a_prompt, text_parsers.editing),
    "loras": Parser(text_parsers.a_prompt, text_parsers.loras),
    "route": Parser(text_parsers.a_routed_prompt, text_parsers.route),
    "all_stages": Parser(text_parsers.a_prompt, text_parsers.all_stages, weight=0.5),
    "settings": Parser(text_parsers.some_settings, text_parsers.settings),
    "infotext": Parser(text_parsers.an_infotext, text_parsers.infotext, weight=2, needs_torch=True),
    "foreign_json": Parser(text_parsers.a_foreign_json, text_parsers.infotext, weight=2, needs_torch=True),
    "exif_comment": Parser(text_parsers.a_comment, text_parsers.exif_comment),
    "xmp": Parser(text_parsers.an_xmp, text_parsers.xmp),
    "grid": Parser(text_parsers.a_grid, text_parsers.grid),
    "model_entry": Parser(text_parsers.an_entry, text_parsers.model_entry),
    "names": Parser(text_parsers.a_name, text_parsers.names),
    "scheduler": Parser(text_parsers.a_scheduler, text_parsers.scheduler, weight=0.5),
    "captions_read": Parser(text_parsers.a_sentence, text_parsers.sentences, weight=0.5),
    "images": Parser(file_parsers.an_image, file_parsers.images, weight=0.5),
    "image_info": Parser(file_parsers.an_image_with_texts, file_parsers.image_info, weight=0.5),
    "line_table": Parser(file_parsers.a_table, file_parsers.line_table),
    "prompts_file": Parser(file_parsers.a_prompts_file, file_parsers.prompts_file),
    "tar": Parser(file_parsers.a_tar, file_parsers.tar),
    "caption_folder": Parser(file_parsers.some_captions, file_parsers.caption_folder, weight=0.5),
    "parquet": Parser(file_parsers.a_parquet, file_parsers.parquet, weight=0.01),
    "caption_formats": Parser(file_parsers.a_caption_file, file_parsers.caption_formats, weight=2),
    "class_files": Parser(file_parsers.a_class_file, file_parsers.class_files),
    "cifar": Parser(file_parsers.a_cifar, file_parsers.cifar),
    "styles": Parser(settings_files.some_styles, settings_files.styles),
    "config_toml": Parser(settings_files.a_config, settings_files.config),
    "manifest": Parser(settings_files.a_manifest, settings_files.manifest),
    "lora_triggers": Parser(settings_files.a_lora_file, settings_files.lora_triggers),
    "inversion_notes": Parser(settings_files.a_lora_file, settings_files.inversion_notes, weight=0.5),
    "calibration": Parser(settings_files.a_calibration, settings_files.calibration),
    "model_json": Parser(model_parsers.a_model_json, model_parsers.model_json, needs_torch=True),
    "tensors": Parser(model_parsers.a_tensor_file, model_parsers.tensors, weight=0.5, needs_torch=True),
    "single_file": Parser(model_parsers.some_tensors, model_parsers.single_file, weight=0.5, needs_torch=True),
    "web_request": Parser(web_parsers.a_request, web_parsers.request, needs_torch=True),
    "openai_request": Parser(web_parsers.an_openai_body, web_parsers.openai, needs_torch=True),
    "sd_request": Parser(web_parsers.an_sd_body, web_parsers.sd, needs_torch=True),
    "key": Parser(web_parsers.a_header, web_parsers.key, weight=0.2, needs_torch=True),
}
