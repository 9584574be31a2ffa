"""Where a model is: the embedded default, a folder, a single file, or a repository of the Hugging Face hub.

Names are resolved once, where they come in: public functions call `resolve`, and what they call takes a Path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from altdiffusion.errors import InputError, first_line
from altdiffusion.files import local_path

MINI = "mini"  # the embedded default
SD_MINI = "sd-mini"  # the Stable Diffusion it came from, which reads English alone; bridges are shown on it
EMBEDDED = (MINI, SD_MINI)
PUBLISHED = ("BAAI/AltDiffusion", "BAAI/AltDiffusion-m9", "BAAI/AltDiffusion-m18")
HUB_OPTIONS = (
    "revision",
    "token",
    "cache_dir",
    "local_files_only",
    "force_download",
)  # keywords of ours that its client takes
XLM_R = "FacebookAI/xlm-roberta-large"  # the tokenizer of every AltDiffusion, for files that come without one
CLIP = "openai/clip-vit-large-patch14"  # the tokenizer of every Stable Diffusion 1.x, 2.x and XL, for the same
_M9 = "en zh es fr ru ja ko ar it"
_M18 = f"{_M9} th hi uk tr vi pl nl pt de"
# Of the last part of a model's name, or of its file's.
LANGUAGES = {"AltDiffusion": "en zh", "AltDiffusion-m9": _M9, "AltDiffusion-m18": _M18}
LANGUAGES |= {"AltCLIP": "en zh", "AltCLIP-m9": _M9, "AltCLIP-m18": _M18, "mini": _M9, "sd-mini": "en"}
_FILE_ENDINGS = {".safetensors", ".ckpt", ".bin", ".pt", ".pth"}


def mini_folder() -> Path:
    """The embedded default's folder, in diffusers' layout."""
    return Path(__file__).parents[1] / "mini"


def sd_mini_folder() -> Path:
    """SD-mini's folder, in diffusers' layout but for the VAE, which is mini's."""
    return mini_folder() / "sd-mini"


def vae_folder(root: Path) -> Path:
    """The folder of the VAE in a pipeline's; SD-mini's is mini's."""
    return (mini_folder() if root == sd_mini_folder() else root) / "vae"


def is_local(name: str | Path) -> bool:
    """Whether a model is on this machine: an embedded one, or a path that exists. Raises InputError for no possible path."""
    return str(name) in EMBEDDED or local_path(name).exists()


def resolve(name: str | Path | None, files: Sequence[str] | None = None, **hub_options: Any) -> Path:
    """The folder or file that a model's name stands for.

    name: None or "mini", "sd-mini", a path (a training's output_dir stands for its model), or "owner/name" on the hub. A
        folder that is called mini is meant by "./mini" or a Path.
    files: patterns of what to download from the hub; None: all.
    hub_options: revision, token, cache_dir, local_files_only... of `huggingface_hub`.
    Raises InputError for what is neither here nor on the hub.
    """
    embedded = {MINI: mini_folder(), SD_MINI: sd_mini_folder()}
    if name is None or (isinstance(name, str) and name in embedded):
        return embedded[name or MINI]
    path = local_path(name)
    if path.exists():
        return result_of_training(path)
    if str(name) in embedded:
        return embedded[str(name)]
    if not is_hub_id(str(name)):
        raise InputError(
            f"unknown model {str(name)!r}: expected a folder or file that exists, an id on the hub such as "
            f"{PUBLISHED[1]!r}, or {MINI!r}, the embedded default"
        )
    from huggingface_hub import snapshot_download

    patterns = None if files is None else list(files)
    return Path(on_hub(str(name), lambda name: snapshot_download(name, allow_patterns=patterns, **hub_options)))


def result_of_training(path: Path) -> Path:
    """The trained model of a training's output_dir; any other path as it is. Raises InputError where none was saved yet."""
    if not all((path / name).is_file() for name in ("settings.json", "log.jsonl")):
        return path
    if not (path / "model").is_dir():
        raise InputError(f"{path} holds a training that has not ended: go on with --resume")
    return path / "model"


def is_hub_id(name: str) -> bool:
    """Whether this reads as "owner/name" rather than as a path."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and Path(name).suffix not in _FILE_ENDINGS


def on_hub(name: str, download: Callable[[str], Any]) -> Any:
    """Run a download; its failures become one line (InputError) that says what to do."""
    from huggingface_hub import errors

    http_error: type[Exception] = vars(errors)["HTTPError"]  # of the HTTP library that the hub's client uses
    try:
        return download(name)
    except errors.HFValidationError:
        raise InputError(f"unknown model {name!r}: no folder here, and no valid id on the hub") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no answer")
        raise InputError(
            f"the hub refused {name!r} (status {status}): check name and revision; a gated model asks you to accept its licence "
            "on its page and to log in with `hf auth login`"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError):
        raise InputError(
            f"{name!r} is no folder here and the hub can't be reached: check the spelling, the network, or HF_ENDPOINT, which "
            "names a mirror of the hub"
        ) from None
    except http_error as error:
        raise InputError(f"the download of {name!r} broke off ({first_line(error)}): try again, it goes on") from None
    except OSError as error:  # among others, how diffusers reports a repository that holds pickles alone
        raise InputError(
            f"{name!r} can't be downloaded: {first_line(error)} "
            "(if it holds .bin files alone: --allow-pickle, allow_pickle=True)"
        ) from None
