"""Where a model is: the embedded default, a folder, a single file, or a repository of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from altdiffusion.errors import InputError, first_line

MINI = "mini"  # the name of the embedded default
SD_MINI = "sd-mini"  # and of the Stable Diffusion it came from, which reads English alone: what a bridge is shown on
PUBLISHED = ("BAAI/AltDiffusion", "BAAI/AltDiffusion-m9", "BAAI/AltDiffusion-m18")
_FILE_ENDINGS = {".safetensors", ".ckpt", ".bin", ".pt", ".pth"}
XLM_R = "FacebookAI/xlm-roberta-large"  # the tokenizer of every AltDiffusion, for files that come without one


def mini_folder() -> Path:
    """The embedded default's folder, in diffusers' layout."""
    return Path(__file__).parents[1] / "mini"


def sd_mini_folder() -> Path:
    """SD-mini's folder, in diffusers' layout but for the VAE, which is mini's."""
    return mini_folder() / "sd-mini"


def local_path(name: str | Path) -> Path:
    """The path that a name stands for, `~` expanded. Raises InputError for what no file system could hold."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such home, no permission to look
        raise InputError(f"{str(name)[:80]!r} can't be a file or folder here: {first_line(error)}") from None
    return path


def locate(model: str | Path | None, hub_patterns: list[str] | None = None, **hub: Any) -> Path:
    """The local path of a model: a folder or a file.

    model: None or "mini", "sd-mini", a path, a training's output_dir among them, or "owner/name" on the hub.
    hub_patterns: the files to download, None for all.
    hub: revision, token, cache_dir, local_files_only... of `huggingface_hub`.
    Raises InputError for what is neither here nor there.
    """
    if model is None or model == MINI:
        return mini_folder()
    if model == SD_MINI:
        return sd_mini_folder()
    path = local_path(model)
    if path.exists():
        return result_of_training(path)
    name = str(model)
    if not is_hub_id(name):
        raise InputError(
            f"unknown model {name!r}: expected a folder or file that exists, an id on the hub such as "
            f"{PUBLISHED[1]!r}, or {MINI!r}, the embedded default"
        )
    from huggingface_hub import snapshot_download

    return Path(on_hub(name, lambda name: snapshot_download(name, allow_patterns=hub_patterns, **hub)))


def result_of_training(path: Path) -> Path:
    """The trained model, if the path is a training's output_dir; any other path as it is. Raises InputError without a model."""
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
            f"{name!r} is no folder here and the hub can't be reached: check the spelling or the network"
        ) from None
    except http_error as error:
        raise InputError(f"the download of {name!r} broke off ({first_line(error)}): try again, it goes on") from None
    except OSError as error:  # among others, how diffusers reports a repository that holds pickles alone
        raise InputError(
            f"{name!r} can't be downloaded: {first_line(error)} "
            "(if it holds .bin files alone: --allow-pickle, allow_pickle=True)"
        ) from None


HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
