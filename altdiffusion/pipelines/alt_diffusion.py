"""AltDiffusion's pipelines: diffusers' own, which load every published layout and save as the stock class.

What they save, plain diffusers loads.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import safetensors
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers import pipelines as diffusers_pipelines
from diffusers.pipelines import auto_pipeline
from huggingface_hub.errors import StrictDataclassError
from transformers import AltCLIPTextModel

from altdiffusion.altclip.best_of import with_best_of
from altdiffusion.checkpoints import hub, single_files, tensor_files
from altdiffusion.errors import InputError, first_line
from altdiffusion.files import write_text
from altdiffusion.pipelines import adapters, legacy_import
from altdiffusion.pipelines.model_card import write_model_card
from altdiffusion.pipelines.single_file import build_pipeline
from altdiffusion.prompts.calls import with_prompt_syntax
from altdiffusion.speed.low_memory import save_memory
from altdiffusion.speed.optimize import optimize
from altdiffusion.text_encoder.encoder import check_text_encoder
from altdiffusion.text_encoder.exit_bridge import BridgedTextEncoder
from altdiffusion.text_encoder.forward import patch_forward
from altdiffusion.text_encoder.load_options import read_dtype
from altdiffusion.text_encoder.tokenizer import choose_tokenizer

if TYPE_CHECKING:
    from typing_extensions import Self

legacy_import.install()


class AltDiffusionMixin(DiffusionPipeline):
    """What the three pipelines add to their stock counterparts."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None = None,
        *,
        allow_pickle: bool = False,
        ema: bool = False,
        tokenizer: Any = None,
        low_memory: bool | Literal["stream"] = False,
        **kwargs: Any,
    ) -> Self:
        """Load AltDiffusion from any layout.

        pretrained_model_name_or_path: None (the embedded default, "mini"), "sd-mini", an id on the hub, a folder
            (as published, as `convert` or `save_pretrained` wrote it), or a single file (.safetensors, .ckpt).
        allow_pickle: read .bin and .ckpt files (with torch's weights_only). ema: of a single file, the moving average.
        tokenizer: for single files, which carry none; a folder, an id on the hub, or a tokenizer. config: for those of models
            of unusual sizes, a folder in diffusers' layout whose settings are taken, such as "sd-mini".
        low_memory: put it on the best device so that it takes little memory there, see `save_memory`; "stream": the least.
        kwargs: as in diffusers: dtype (by default float32), variant, device_map, revision, safety_checker=None, any component ...
        Raises InputError: unknown model, missing or left-over tensors (named), damaged files, pickles not allowed.
        """
        if low_memory and kwargs.get("device_map") is not None:
            raise InputError("low_memory and device_map both say where the weights go: pass one of them")
        name = hub.MINI if pretrained_model_name_or_path is None else pretrained_model_name_or_path
        options: dict[str, Any] = {"allow_pickle": allow_pickle, "ema": ema, **kwargs}
        with as_input_error(name):
            path = cls.fetch(name, **options)
        pipeline = cls.from_path(path, str(name), tokenizer=tokenizer, **options)
        if low_memory:
            save_memory(pipeline, stream=low_memory == "stream")
        return pipeline

    @classmethod
    def fetch(cls, name: str | Path, *, allow_pickle: bool = False, ema: bool = False, **kwargs: Any) -> Path:
        """The folder or file of a pipeline; from the hub, the files that it loads are downloaded. Arguments as above.

        Raises InputError for a name that is unknown, or on the hub something else than a pipeline.
        """
        hub_options = {option: kwargs[option] for option in hub.HUB_OPTIONS if option in kwargs}
        path = hub.resolve(name, ["model_index.json", "config.json"], **hub_options)
        if path.is_dir() and kwargs.get("config") is not None:
            raise InputError(f"config= is for single files: {name} is a folder, which has its own settings")
        if not hub.is_local(name):
            _check_index(path, str(name), ema)  # before gigabytes are downloaded
            options = {"use_safetensors": None if allow_pickle else True} | hub_options
            options |= {option: kwargs[option] for option in ("use_safetensors", "variant") if option in kwargs}
            path = Path(hub.on_hub(str(name), lambda name: cls.download(name, **options)))
        return path

    @classmethod
    def from_path(
        cls,
        path: Path,
        name: str,
        *,
        allow_pickle: bool = False,
        ema: bool = False,
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Load the folder or file that `fetch` gave. name: what errors and `name_or_path` call it; the rest as above."""
        with as_input_error(name):
            if path.is_file():
                return cls._from_file(path, ema=ema, allow_pickle=allow_pickle, tokenizer=tokenizer, **kwargs)
            _check_index(path, name, ema)
            if not allow_pickle:
                for part in sorted(part for part in path.iterdir() if part.is_dir() and part.name not in kwargs):
                    tensor_files.refuse_pickles(part)
            kwargs.setdefault("use_safetensors", None if allow_pickle else True)
            kwargs["dtype"] = _dtype_of(kwargs)  # without one, the libraries would each take the stored one, or not
            kwargs.pop("torch_dtype", None)
            pipeline = super().from_pretrained(str(path), **load_checked(path, tokenizer, kwargs))
        pipeline.register_to_config(_name_or_path=name)
        if isinstance(pipeline.text_encoder, AltCLIPTextModel):
            patch_forward(pipeline.text_encoder)
        return pipeline

    @classmethod
    def _from_file(cls, path: Path, *, ema: bool, allow_pickle: bool, tokenizer: Any, **kwargs: Any) -> Self:
        """A pipeline from a single file; components that are passed take the place of the file's."""
        found = single_files.read_kind(path, allow_pickle)
        if found.kind == "xl":
            raise InputError(f"{path} is a Stable Diffusion XL: load it with altdiffusion.load_pipeline")
        if found.inpaints and not issubclass(cls, StableDiffusionInpaintPipeline):
            raise InputError(
                f"{path} is for inpainting, its UNet takes a mask, too: load it with AltDiffusionInpaintPipeline, or give "
                "generate an init image and a mask"
            )
        kwargs["dtype"] = _dtype_of(kwargs)
        kwargs.pop("torch_dtype", None)
        pipeline: Self = build_pipeline(cls, path, ema=ema, allow_pickle=allow_pickle, tokenizer=tokenizer, **kwargs)
        return pipeline

    @classmethod
    def from_single_file(cls, path: str | Path, **kwargs: Any) -> Self:
        """The same as `from_pretrained(path)`."""
        return cls.from_pretrained(path, **kwargs)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Save in the stock layout, which plain diffusers and transformers load, with a model card.

        A LoRA that is loaded is left out, with a warning; one that was fused is in the weights. Raises InputError while an
        IP-Adapter is loaded.
        """
        adapters.refuse_ip_adapter(self.unet)
        with adapters.without_lora_layers([self.unet, self.text_encoder]):
            super().save_pretrained(save_directory, *args, **kwargs)
        agree_on_float32(Path(save_directory))
        if not (Path(save_directory) / "README.md").exists():
            write_model_card(Path(save_directory), self)

    def to_json_string(self) -> str:
        """model_index.json names the stock class, which every diffusers has."""
        settings = json.loads(super().to_json_string())
        settings["_class_name"] = settings["_class_name"].replace("AltDiffusion", "StableDiffusion")
        return json.dumps(settings, indent=2, sort_keys=True) + "\n"

    def load_textual_inversion(self, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> None:
        """As in diffusers; one made for another text encoder is refused with the reason (InputError)."""
        adapters.check_textual_inversion(pretrained_model_name_or_path, self.text_encoder, **kwargs)
        super().load_textual_inversion(pretrained_model_name_or_path, *args, **kwargs)

    optimize = optimize

    @classmethod
    def _get_signature_types(cls) -> dict[str, Any]:
        """diffusers warns of components that are not of these types: AltCLIP's encoders are as good as CLIP's here."""
        types = super()._get_signature_types()
        return types | {"text_encoder": (*types["text_encoder"], AltCLIPTextModel, BridgedTextEncoder)}

    @classmethod
    def lora_state_dict(cls, *args: Any, **kwargs: Any) -> Any:
        """As in diffusers; a kohya LoRA whose layers differ in alpha is read layer by layer."""
        return adapters.with_alphas_in_weights(*super().lora_state_dict(*args, **kwargs))

    load_lora_into_text_encoder = staticmethod(adapters.load_lora_into_text_encoder)


class AltDiffusionPipeline(AltDiffusionMixin, StableDiffusionPipeline):
    """Text to image: a `StableDiffusionPipeline` whose prompts are read by AltCLIP, in any of its languages."""

    __call__ = with_best_of(with_prompt_syntax(StableDiffusionPipeline.__call__))


class AltDiffusionImg2ImgPipeline(AltDiffusionMixin, StableDiffusionImg2ImgPipeline):
    """Image to image: a `StableDiffusionImg2ImgPipeline` whose prompts are read by AltCLIP."""

    __call__ = with_best_of(with_prompt_syntax(StableDiffusionImg2ImgPipeline.__call__))


class AltDiffusionInpaintPipeline(AltDiffusionMixin, StableDiffusionInpaintPipeline):
    """Inpainting: a `StableDiffusionInpaintPipeline` whose prompts are read by AltCLIP."""

    __call__ = with_best_of(with_prompt_syntax(StableDiffusionInpaintPipeline.__call__))


# diffusers finds the pipelines that belong together by the names in these tables.
auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING["alt-diffusion"] = AltDiffusionPipeline
auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING["alt-diffusion"] = AltDiffusionImg2ImgPipeline
auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING["alt-diffusion"] = AltDiffusionInpaintPipeline


def agree_on_float32(folder: Path) -> None:
    """Without a dtype, transformers loads what config.json says and diffusers float32: let a saved pipeline say float32."""
    for name in ("text_encoder", "text_encoder_2", "safety_checker", "image_encoder"):
        path = folder / name / "config.json"
        if path.is_file():
            settings = tensor_files.read_json(path) | {"dtype": "float32"}
            write_text(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def _dtype_of(kwargs: dict[str, Any]) -> Any:
    """The dtype that a pipeline is asked for: float32 by default, a dictionary has one for each part."""
    dtype = kwargs.get("torch_dtype") if kwargs.get("dtype") is None else kwargs["dtype"]
    if isinstance(dtype, dict):
        return {part: _dtype_of({"dtype": of_part}) for part, of_part in dtype.items()}
    found = read_dtype(dtype)
    if found is None:
        raise InputError("dtype='auto' is for single models: a pipeline takes float32, float16 or bfloat16")
    return found


@contextmanager
def as_input_error(name: str | Path) -> Iterator[None]:
    """What the libraries raise for files that are damaged, or not what they seem, becomes one line."""
    try:
        yield
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{name} can't be loaded: {first_line(error)}") from error


_UNREADABLE = (OSError, ArithmeticError, ValueError, LookupError, RuntimeError, TypeError, AttributeError, EOFError,
               AssertionError, StrictDataclassError, pickle.UnpicklingError, safetensors.SafetensorError)  # fmt: skip


def _check_index(folder: Path, name: str, ema: bool) -> None:
    """Raise InputError unless a folder holds a pipeline with one text encoder."""
    if ema:
        raise InputError("ema=True is for single files; a folder holds one set of weights")
    if not (folder / "model_index.json").is_file():
        content = "AltCLIP or a text encoder" if (folder / "config.json").is_file() else "no model"
        raise InputError(
            f"no model_index.json in {folder}: this is {content}, not a pipeline; "
            "its text encoder alone goes into a pipeline by swap_text_encoder(pipe, model)"
        )
    index = tensor_files.read_json(folder / "model_index.json")
    if "text_encoder_2" in index:
        kind = index.get("_class_name")
        raise InputError(
            f"{name} is a {kind}: load it with altdiffusion.load_pipeline, or diffusers' {kind} after `import altdiffusion`"
        )


def load_checked(folder: Path, tokenizer: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Check and load the parts whose missing tensors diffusers and transformers would fill at random.

    Returns `kwargs` with the parts that were loaded. With a device_map or a quantization_config UNet and VAE are left
    to diffusers, which places or quantizes them while it loads.
    """
    check_index(folder)
    passed = dict(kwargs)
    variant, use_safetensors = passed.get("variant"), passed.get("use_safetensors")
    reader = _reader(folder)
    if "text_encoder" not in passed and reader in _ALTCLIP:  # BridgedTextEncoder checks itself
        part = folder / "text_encoder"
        check_text_encoder(part, variant if any(part.glob(f"*.{variant}.*")) else None, use_safetensors)
    if "tokenizer" not in passed and (tokenizer is not None or reader in (*_ALTCLIP, "BridgedTextEncoder")):
        passed["tokenizer"] = choose_tokenizer(tokenizer, folder)
    if passed.get("device_map") is not None or passed.get("quantization_config") is not None:
        return passed
    dtype = passed["dtype"]
    for name, model_class in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        if name in passed:
            continue
        part = hub.vae_folder(folder) if name == "vae" else folder / name
        if not part.is_dir():
            raise InputError(f"{folder} has no folder {name!r}: the download is incomplete")
        passed[name] = tensor_files.load_strict(
            model_class,
            part,
            dtype=dtype.get(name, dtype.get("default", torch.float32)) if isinstance(dtype, dict) else dtype,
            variant=variant if any(part.glob(f"*.{variant}.*")) else None,
            use_safetensors=use_safetensors if any(part.glob("*.safetensors")) else False,
        )
    return passed


# Whose classes a pipeline may name; beside them are diffusers' own pipelines, and what the caller has imported.
_LIBRARIES = {"diffusers", "transformers", "altdiffusion"}
_SETTINGS = ("config.json", "scheduler_config.json", "preprocessor_config.json")


def check_index(folder: Path) -> None:
    """Raise InputError for a pipeline that names code to import, its own or any, and for parts of sizes that none has.

    diffusers imports no such code either, from the version on that asks for `trust_remote_code`.
    """
    index = folder / "model_index.json"
    for name, value in tensor_files.read_json(index).items():
        library = value[0] if isinstance(value, list) and value else None
        known = library in (None, *_LIBRARIES) or (
            isinstance(library, str)
            and name != "_class_name"
            and (hasattr(diffusers_pipelines, library) or library in sys.modules)
        )
        if not known:
            raise InputError(f"{index}: {name} names the code {library!s:.80}, and no code of a model is run")
    for file in sorted(path for part in _SETTINGS for path in folder.glob(f"*/{part}")):
        tensor_files.check_sizes(tensor_files.read_json(file), file)


# The class of its encoder, by today's name and the published one.
_ALTCLIP = ("AltCLIPTextModel", "RobertaSeriesModelWithTransformation")


def _reader(folder: Path) -> str | None:
    """The class of the text encoder, as model_index.json names it."""
    return (tensor_files.read_json(folder / "model_index.json").get("text_encoder") or [None])[-1]
