"""What a community makes for models, put into a pipeline: LoRAs, VAEs, ControlNets, IP-Adapters, textual inversions."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DiffusionPipeline
from huggingface_hub import constants
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from altdiffusion.checkpoints import hub, tensor_files
from altdiffusion.errors import InputError, first_line
from altdiffusion.files import local_path
from altdiffusion.generation.lora_triggers import keep_triggers
from altdiffusion.generation.loras import NamedLora
from altdiffusion.generation.settings import ImageSettings
from altdiffusion.pipelines.single_file import XL_SCALING, load_vae_file
from altdiffusion.prompts.loras import adapter_name, loaded_adapters, set_weights

_NO_PEFT = "a LoRA needs peft: pip install peft"
_FAMILIES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}  # by text width
_IP_ADAPTER = "ip-adapter_sd15.safetensors"  # of the collection h94/IP-Adapter, the one for Stable Diffusion 1.x
_DOWN = ("lora_down.weight", "lora_A.weight", "lora.down.weight", "lora_A.default.weight")


def check_peft() -> None:
    """Raise InputError where LoRAs can't be loaded, before a model is."""
    if importlib.util.find_spec("peft") is None:
        raise InputError(_NO_PEFT)


def load_loras(pipe: DiffusionPipeline, loras: Sequence[NamedLora], allow_pickle: bool = False) -> None:
    """Put LoRAs beside a pipeline's weights, in kohya's or diffusers' format; those with a weight act.

    Where a bridge reads prompts, their trigger words are kept from it, and named in a line; those of a LoRA that is fetched
    from the hub aren't known. Raises InputError for one that is damaged, or was made for another kind of model.
    """
    for lora in loras:
        with _as_input_error(f"{lora.source} can't be loaded as a LoRA"):
            files = _load_lora(pipe, lora, allow_pickle)
        keep_triggers(pipe, lora.name, files)
        if adapter_name(lora.name) not in loaded_adapters(pipe):
            raise InputError(
                f"{lora.source} has nothing for this model: expected a LoRA for its UNet, or for its text encoder"
            )
    set_weights(
        pipe, {adapter_name(lora.name): (lora.weight, lora.weight) for lora in loras if lora.weight is not None}
    )


# On damaged files, the libraries raise whatever they stumble over.
_UNREADABLE = (OSError, ArithmeticError, AssertionError, AttributeError, ValueError, LookupError, RuntimeError, TypeError,
               pickle.UnpicklingError, SafetensorError, StrictDataclassError)  # fmt: skip


@contextmanager
def _as_input_error(problem: str) -> Iterator[None]:
    """What the libraries raise for files that are damaged, or not what they seem, becomes one line."""
    try:
        yield
    except InputError:
        raise
    except ImportError as error:  # of a version that doesn't fit
        raise InputError(f"{_NO_PEFT} ({first_line(error)})") from None
    except _UNREADABLE as error:
        raise InputError(f"{problem}: {first_line(error)}") from None


def _load_lora(pipe: Any, lora: NamedLora, allow_pickle: bool) -> list[Path]:
    """Its files that are here."""
    options = {"adapter_name": adapter_name(lora.name), "use_safetensors": None if allow_pickle else True}
    path = local_path(lora.source)
    if path.exists() or constants.HF_HUB_OFFLINE:  # offline diffusers wants a file's name, so look into the cache
        patterns = ["*.safetensors", *(["*.bin"] if allow_pickle else [])]
        path = hub.resolve(lora.source, patterns)
        files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
        for file in files:
            _check_lora_fits(file, lora.source, pipe)
        pipe.load_lora_weights(str(path), **options)
        return files
    hub.on_hub(lora.source, lambda name: pipe.load_lora_weights(name, **options))
    return []


def _check_lora_fits(file: Path, source: str, pipe: Any) -> None:
    """Raise InputError for a LoRA whose cross-attention reads text states of another width than the UNet's."""
    for key, shape in _shapes(file):
        if "attn2" in key and ("to_k" in key or "to_v" in key) and key.endswith(_DOWN):
            _check_width(shape[1], f"{source} is a LoRA", pipe)


def _family(width: int) -> str:
    """A kind of model, by the width of the text states that its UNet attends to."""
    return f"{_FAMILIES.get(width, 'a model of its own kind')} (text states of width {width})"


def load_textual_inversion(pipe: Any, source: str | Path, allow_pickle: bool = False) -> None:
    """Teach the text encoders the words of a file. Raises InputError where they were trained for another encoder.

    A file in the web UIs' layouts names no word: it is the file's name, as there.
    """
    path = hub.resolve(source, ["*.safetensors", *(["*.bin", "*.pt"] if allow_pickle else [])])
    if path.is_dir():
        path = _only_file(path, "textual inversion", allow_pickle)
    with _as_input_error(f"{source} can't be loaded as a textual inversion"):
        names = {name for name, _ in _shapes(path)} if path.suffix == ".safetensors" else set()
        if names == {"clip_l", "clip_g"}:
            _load_xl_inversion(pipe, path)
            return
        word = {"token": path.stem} if names == {"emb_params"} else {}
        pipe.load_textual_inversion(str(path), use_safetensors=None if allow_pickle else True, **word)


def _load_xl_inversion(pipe: Any, path: Path) -> None:
    if not hasattr(pipe, "text_encoder_2"):
        raise InputError(f"{path} is a textual inversion for Stable Diffusion XL: expected one for this model's CLIP")
    vectors = load_file(path)
    for number, name in (("", "clip_l"), ("_2", "clip_g")):
        parts = {part: getattr(pipe, part + number) for part in ("text_encoder", "tokenizer")}
        pipe.load_textual_inversion(vectors[name], token=path.stem, **parts)


def load_vae(pipe: Any, source: str | Path, allow_pickle: bool = False) -> None:
    """Take another VAE: a folder in diffusers' layout, or a single file, whose scaling is that of the model's own.

    A model that came without any takes one of its kind's sizes.

    Raises InputError for one whose latents are others: their channels, their size, or their scaling.
    """
    path = hub.resolve(
        source, ["config.json", "diffusion_pytorch_model.safetensors", "vae/*.json", "vae/*.safetensors"]
    )
    own = (_published_vae(pipe) if pipe.vae is None else pipe.vae).config
    dtype = pipe.unet.dtype if pipe.vae is None else pipe.vae.dtype
    with _as_input_error(f"{source} can't be loaded as a VAE"):
        if path.is_file():
            vae = load_vae_file(path, dtype=dtype, allow_pickle=allow_pickle)
            vae.register_to_config(scaling_factor=own.scaling_factor)
        else:
            vae = _load_folder(AutoencoderKL, path / "vae" if (path / "vae").is_dir() else path, dtype, allow_pickle)
    for name, got, expected in (
        ("channels", vae.config.latent_channels, own.latent_channels),
        ("pixels a side", 2 ** (len(vae.config.block_out_channels) - 1), 2 ** (len(own.block_out_channels) - 1)),
        ("scaling", vae.config.scaling_factor, own.scaling_factor),
    ):
        if got != expected:
            raise InputError(
                f"{source}: the latents of this VAE have {name} {got:g}, those of {pipe.name_or_path} {expected:g}: "
                "take one made for this kind of model"
            )
    pipe.register_modules(vae=vae)


def _published_vae(pipe: Any) -> Any:
    """The VAE of all of a kind, without weights."""
    with torch.device("meta"):
        blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
        scaling = {"scaling_factor": XL_SCALING} if hasattr(pipe, "text_encoder_2") else {}
        return AutoencoderKL(**blocks, **scaling, block_out_channels=[32] * 4, latent_channels=4)


def load_controlnet(pipe: Any, source: str | Path, allow_pickle: bool = False) -> ControlNetModel:
    """A ControlNet in diffusers' layout. Raises InputError for one of another kind of model."""
    path = hub.resolve(source, ["config.json", "diffusion_pytorch_model.safetensors"])
    if path.is_file():
        raise InputError(f"{source}: expected a ControlNet in diffusers' layout, a folder or an id on the hub")
    with _as_input_error(f"{source} can't be loaded as a ControlNet"):
        controlnet = _load_folder(ControlNetModel, path, pipe.unet.dtype, allow_pickle)
    _check_width(controlnet.config.cross_attention_dim, f"{source} is a ControlNet", pipe)
    return controlnet


def with_controlnet(pipe: Any, controlnet: Any, kind: type[Any]) -> Any:
    """diffusers' pipeline of this kind, with a pipeline's parts."""
    if type(pipe) is kind:
        return pipe
    made = kind(
        **(pipe.components | {"controlnet": controlnet}),
        requires_safety_checker=pipe.config.get("requires_safety_checker", False),
    )
    made.register_to_config(_name_or_path=pipe.name_or_path)
    made.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return made


def load_ip_adapter(pipe: Any, source: str | Path, scale: float, allow_pickle: bool = False) -> None:
    """Let the UNet attend to an image, too. source: a file or a folder, with the folder image_encoder beside the weights.

    Raises InputError for one of another kind of model.
    """
    path = hub.resolve(
        source, [f"models/{_IP_ADAPTER}", "models/image_encoder/config.json", "models/image_encoder/*.safetensors"]
    )
    if path.is_dir():
        folder = path / "models" if (path / "models").is_dir() else path
        path = (
            folder / _IP_ADAPTER if (folder / _IP_ADAPTER).is_file() else _only_file(folder, "IP-Adapter", allow_pickle)
        )
    if not (path.parent / "image_encoder").is_dir():
        raise InputError(f"{source} has no image encoder: expected the folder {path.parent / 'image_encoder'}")
    if path.suffix in tensor_files.PICKLES and not allow_pickle:
        raise InputError(f"{path} is a pickle, which can carry code: allow it with allow_pickle, or take .safetensors")
    with _as_input_error(f"{source} can't be loaded as an IP-Adapter"):
        for key, shape in _shapes(path):
            if key.endswith("to_k_ip.weight"):
                _check_width(shape[1], f"{source} is an IP-Adapter", pipe)
        pipe.load_ip_adapter(str(path.parent), subfolder="", weight_name=path.name)
    pipe.set_ip_adapter_scale(scale)


def check_shown(pipe: Any, settings: ImageSettings) -> None:
    """Raise InputError for an IP-Adapter and no image for it, or the other way round."""
    has_adapter = getattr(pipe.unet.config, "encoder_hid_dim_type", None) == "ip_image_proj"
    if has_adapter and settings.ip_image is None:
        raise InputError("this pipeline has an IP-Adapter: give it an image, ip_image")
    if settings.ip_image is not None and not has_adapter:
        raise InputError("this pipeline has no IP-Adapter that would read the image: name one with ip_adapter")


def _load_folder(model_class: Any, folder: Path, dtype: Any, allow_pickle: bool) -> Any:
    if not allow_pickle:
        tensor_files.refuse_pickles(folder)
    options = {"use_safetensors": True} if any(folder.glob("*.safetensors")) else {}
    return tensor_files.load_strict(model_class, folder, dtype=dtype, **options).eval()


def _only_file(folder: Path, what: str, allow_pickle: bool) -> Path:
    files = sorted(folder.glob("*.safetensors")) or (sorted(folder.glob("*.bin")) if allow_pickle else [])
    if len(files) != 1:
        found = ", ".join(file.name for file in files[:3]) or "none"
        raise InputError(f"{folder}: expected one .safetensors file of the {what}, found {found}: name the file")
    return files[0]


def _shapes(file: Path) -> Iterator[tuple[str, list[int]]]:
    """(name, shape) of the tensors in a safetensors file, which aren't read."""
    if file.suffix.lower() == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                yield key, tensors.get_slice(key).get_shape()


def _check_width(width: int, what: str, pipe: Any) -> None:
    """Raise InputError for a part that was made for text states of another width than the UNet's."""
    own = pipe.unet.config.cross_attention_dim
    if width != own:
        raise InputError(f"{what} for {_family(width)}, {pipe.name_or_path} is {_family(own)}: take one made for it")
