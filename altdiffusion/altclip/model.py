"""The full AltCLIP, both towers: how well an image fits a text in any of its languages.

    model, processor = AltCLIP.from_pretrained("BAAI/AltCLIP"), AltCLIPProcessor.from_pretrained("BAAI/AltCLIP")
    inputs = processor(text=["一只猫", "a dog"], images=image, return_tensors="pt", padding=True)
    probabilities = model(**inputs).logits_per_image.softmax(dim=1)

Stock transformers classes, loaded from every layout that was published; what they save is stock again.
`PromptScorer` (scorer.py) is the quicker and easier way to scores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    AltCLIPVisionConfig,
    CLIPImageProcessor,
    CLIPModel,
    XLMRobertaTokenizer,
)

from altdiffusion.altclip import calibration
from altdiffusion.checkpoints import hub, layouts, tensor_files
from altdiffusion.errors import InputError
from altdiffusion.text_encoder.forward import patch_forward
from altdiffusion.text_encoder.load_options import MODEL_OPTIONS, LoadOptions, read_dtype, read_options
from altdiffusion.text_encoder.tokenizer import choose_tokenizer, hub_files, load_any_tokenizer, read_tokenizer


class AltCLIP(AltCLIPModel):
    """transformers' AltCLIPModel that reads every layout, and whose features are tensors, as before transformers 5.

    Padding is trimmed before it is computed; outputs stay the same.
    """

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        dtype: torch.dtype | str | None = None,
        allow_pickle: bool = False,
        variant: str | None = None,
        use_safetensors: bool | None = None,
        **options: Any,
    ) -> Any:
        """Load a full AltCLIP, in eval mode.

        model: None or "mini" (the embedded default), an id on the hub, or a folder: AltCLIP, -m9, -m18, or what
            `save_pretrained` and the trainers wrote. pretrained_model_name_or_path is the same.
        dtype: of the weights, or its name; None means float32, "auto" as they are stored. torch_dtype is the same.
        allow_pickle: read .bin files (with torch's weights_only).
        variant, use_safetensors: which files of the folder, as in diffusers.
        options: as in transformers: attn_implementation, device_map, max_memory, quantization_config, subfolder,
            output_loading_info (True: the model and a report), and the hub's: revision, token, cache_dir, ...
        Raises InputError for what can't be found or read, for another architecture, for tensors that are missing or left
        over, and for any other option.
        """
        takes = (_STOCK_NAME, *MODEL_OPTIONS, "output_loading_info")
        read = read_options("AltCLIP.from_pretrained", options, takes, ("dtype", "allow_pickle", *_FILE_OPTIONS))
        weights_dtype = read_dtype(dtype, options)
        folder = altclip_folder(read.find(_one_name(model, read), hub_files(allow_pickle)))
        files: dict[str, Any] = {"allow_pickle": allow_pickle, "variant": variant, "use_safetensors": use_safetensors}
        report = bool(read.others.pop("output_loading_info", False))
        loaded, loading_info = cls._from_folder(folder, weights_dtype, read.others, **files)
        return (loaded, loading_info) if report else loaded

    @classmethod
    def _from_folder(
        cls, folder: Path, dtype: torch.dtype | None, model_options: dict[str, Any], **files: Any
    ) -> tuple[Any, dict[str, Any]]:
        """The AltCLIP in the folder that `altclip_folder` gives, and transformers' report of its tensors.

        files: of `tensor_files.read_weights`.
        """
        config, stock = _to_stock(tensor_files.read_weights(folder, dtype=dtype, **files), folder)
        model, report = super().from_pretrained(
            None,
            config=config,
            state_dict=stock,
            dtype=dtype or stock["text_projection.weight"].dtype,
            output_loading_info=True,
            **model_options,
        )
        patch_forward(model.text_model)
        return model.eval(), report

    def get_text_features(self, *args: Any, **kwargs: Any) -> Tensor:
        """float (texts, projection_dim), not normalised. Takes what AltCLIPModel takes: input_ids, attention_mask, ..."""
        return super().get_text_features(*args, **{**kwargs, "return_dict": True}).pooler_output

    def get_image_features(self, *args: Any, **kwargs: Any) -> Tensor:
        """float (images, projection_dim), not normalised. Takes what AltCLIPModel takes: pixel_values, ..."""
        return super().get_image_features(*args, **{**kwargs, "return_dict": True}).pooler_output

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """As in transformers. The folder names AltCLIPModel as its class: it needs nothing of ours."""
        super().save_pretrained(save_directory, *args, **kwargs)
        self.config.architectures = [AltCLIPModel.__name__]
        if kwargs.get("is_main_process", True):
            self.config.save_pretrained(save_directory)


class AltCLIPProcessor(transformers.AltCLIPProcessor):
    """transformers' AltCLIPProcessor, which cuts texts at the 77 tokens that AltCLIP was trained with."""

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        tokenizer: str | Path | XLMRobertaTokenizer | None = None,
        **options: Any,
    ) -> AltCLIPProcessor:
        """Tokenizer and image processor of an AltCLIP, or of what this class or transformers' own saved.

        model: as in `AltCLIP.from_pretrained`. tokenizer: where to take it from instead.
        options: the image processor's settings (size, crop_size, do_resize, image_mean, ...), the tokenizer's
            (model_max_length, padding_side, truncation_side), subfolder, and the hub's: revision, token, cache_dir, ...
        Raises InputError where one of the two is missing or damaged, and for any other option.
        """
        of_images = tuple(CLIPImageProcessor.valid_kwargs.__annotations__)
        read = read_options(
            "AltCLIPProcessor.from_pretrained", options, (_STOCK_NAME, *of_images, *_TOKENIZER_OPTIONS), ["tokenizer"]
        )
        folder = _processor_folder(read.find(_one_name(model, read), _PROCESSOR_FILES))
        chosen = choose_tokenizer(tokenizer, folder, **read.elsewhere)
        for name in _TOKENIZER_OPTIONS:
            if name in read.others:
                chosen.init_kwargs[name] = read.others.pop(name)  # what is saved
                setattr(chosen, name, chosen.init_kwargs[name])
        return cls(load_image_processor(folder, **read.others), chosen)

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> Any:
        """Tokens and pixels, as in transformers. Texts are cut at 77 tokens unless `truncation` says otherwise."""
        of_text, common = kwargs.get("text_kwargs", {}), kwargs.get("common_kwargs", {})
        if "truncation" not in of_text:
            kwargs = {"truncation": True} | kwargs
        given = kwargs | common | of_text
        padding, multiple = given.get("padding"), given.get("pad_to_multiple_of")
        if text is None or not (padding and multiple and given["truncation"]):
            return super().__call__(images=images, text=text, **kwargs)

        # The tokenizers library refuses to cut at 77 and to pad to a multiple of 8 in one call: first cut, then pad.
        def without_padding(options: dict[str, Any]) -> dict[str, Any]:
            return {
                key: options[key] for key in options if key not in ("padding", "pad_to_multiple_of", "return_tensors")
            }

        plain = without_padding(kwargs)
        plain |= {"text_kwargs": without_padding(of_text)} if of_text else {}
        plain |= {"common_kwargs": without_padding(common)} if common else {}
        rows = dict(super().__call__(text=text, **plain))
        if isinstance(text, str) and given.get("return_tensors"):  # as in transformers: tensors of one row
            rows = {name: [row] for name, row in rows.items()}
        inputs = self.tokenizer.pad(
            rows,
            padding=padding,
            max_length=given.get("max_length"),
            pad_to_multiple_of=multiple,
            return_tensors=given.get("return_tensors"),
        )
        if images is not None:
            inputs.update(super().__call__(images=images, **kwargs))
        return inputs


def load_with_processor(
    model: str | Path | None,
    *,
    dtype: torch.dtype | str | None = None,
    allow_pickle: bool = False,
    caller: str = "load_with_processor",
    **options: Any,
) -> tuple[AltCLIP, AltCLIPProcessor, Path]:
    """A full AltCLIP, its processor and their folder; arguments as in `AltCLIP.from_pretrained`. caller: its name in errors."""
    read = read_options(caller, options, (*MODEL_OPTIONS, *_FILE_OPTIONS), ["dtype", "allow_pickle"])
    files = {name: read.others.pop(name) for name in _FILE_OPTIONS if name in read.others}
    weights_dtype = read_dtype(dtype, options)
    folder = altclip_folder(read.find(model, [*hub_files(allow_pickle), calibration.TENSORS]))
    loaded, _ = AltCLIP._from_folder(folder, weights_dtype, read.others, allow_pickle=allow_pickle, **files)
    return loaded, AltCLIPProcessor(load_image_processor(folder), read_tokenizer(folder)), folder


def _one_name(model: str | Path | None, read: LoadOptions) -> str | Path | None:
    """The model by either name of the first argument; transformers' is taken out of the options."""
    by_stock_name: str | Path | None = read.others.pop(_STOCK_NAME, None)
    if model is not None and by_stock_name is not None:
        raise InputError(f"model= and {_STOCK_NAME}= say the same: pass one of them")
    return by_stock_name if model is None else model


_STOCK_NAME = "pretrained_model_name_or_path"  # what transformers calls the first argument
_PROCESSOR_FILES = ["*.json", "*.model", "tokenizer/*.json", "tokenizer/*.model"]
_FILE_OPTIONS = ("variant", "use_safetensors")
_TOKENIZER_OPTIONS = ("model_max_length", "padding_side", "truncation_side")
_IMAGE_SETTINGS = ("preprocessor_config.json", "processor_config.json")  # who saved the processor alone has the second
EMBEDDED = "altclip"  # the embedded default's folder in mini, where the text encoder's is the text tower alone


def altclip_folder(folder: Path) -> Path:
    """The folder of a full AltCLIP: this one, or inside mini's. Raises InputError where there is none."""
    if (folder / EMBEDDED).is_dir():
        return folder / EMBEDDED
    if (folder / "model_index.json").is_file():
        raise InputError(
            f"{folder} is a Stable Diffusion, of AltCLIP it has no more than the text tower: "
            "expected a full AltCLIP, such as 'BAAI/AltCLIP-m9'"
        )
    if not (folder / "config.json").is_file():
        raise InputError(f"no full AltCLIP in {folder}: expected a folder with config.json and its weights")
    return folder


def _processor_folder(folder: Path) -> Path:
    """The same for a processor alone, which comes without a model's config.json."""
    alone = not (folder / EMBEDDED).is_dir() and any((folder / name).is_file() for name in _IMAGE_SETTINGS)
    return folder if alone else altclip_folder(folder)


def _to_stock(state: layouts.State, folder: Path) -> tuple[AltCLIPConfig, dict[str, Tensor]]:
    """The stock config and state dict of a full AltCLIP in any layout. Raises InputError unless its tensors fit exactly."""
    given = tensor_files.read_json(folder / "config.json")
    settings, stock = layouts.altclip_to_stock(state, tensor_files.read_config(folder))
    vision = given.get("vision_config") or given.get("vision_config_dict") or {}
    config = AltCLIPConfig(
        text_config=settings,
        # What configs of 2022 hold besides describes text generation, or a class that is gone.
        vision_config={name: vision[name] for name in AltCLIPVisionConfig.__annotations__ if name in vision},
        projection_dim=given.get("projection_dim", AltCLIPConfig.projection_dim),
        logit_scale_init_value=given.get("logit_scale_init_value", AltCLIPConfig.logit_scale_init_value),
    )
    with torch.device("meta"):
        expected = AltCLIPModel(config).state_dict()
    layouts.check_names(stock, expected, f"the AltCLIP in {folder}")
    return config, stock


# A repository's files that are needed of a CLIP, an XLM-R, an AltCLIP; of a Stable Diffusion, its text encoder alone.
HUB_FILES = [*hub_files(allow_pickle=False), "*.txt"]


def load_image_processor(folder: Path, **settings: Any) -> CLIPImageProcessor:
    """How the vision tower in a folder wants its images, with other settings. Raises InputError where it doesn't say."""
    if not any((folder / name).is_file() for name in _IMAGE_SETTINGS):
        raise InputError(f"no preprocessor_config.json in {folder}: it says how the vision tower wants its images")
    processor: CLIPImageProcessor = CLIPImageProcessor.from_pretrained(folder, **settings)
    return processor


def text_features(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """(batch, projection_dim), not normalized, of a CLIPModel or an AltCLIPModel."""
    return model.text_projection(model.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output)


def image_features(model: Any, pixel_values: Tensor) -> Tensor:
    """(batch, projection_dim), not normalized."""
    return model.visual_projection(model.vision_model(pixel_values=pixel_values).pooler_output)


def load_similarity(model: str | Path) -> tuple[Any, Any, CLIPImageProcessor]:
    """(AltCLIPModel or CLIPModel in float32, tokenizer, image processor)."""
    folder = altclip_folder(hub.resolve(model, HUB_FILES))
    kind = tensor_files.read_config_type(folder)
    if kind not in ("altclip", "clip"):
        raise InputError(f"{model} is of type {kind!r}: expected a full AltCLIP or CLIP, with both towers")
    loaded = tensor_files.load_strict(AltCLIPModel if kind == "altclip" else CLIPModel, folder)
    return loaded, load_any_tokenizer(folder), load_image_processor(folder)
