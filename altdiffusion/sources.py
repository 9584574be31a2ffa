"""Where a model is: the embedded default, a folder, a single file, or a repository of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from altdiffusion.errors import InputError, first_line

MINI = "mini"  # the name of the embedded default
PUBLISHED = ("BAAI/AltDiffusion", "BAAI/AltDiffusion-m9", "BAAI/AltDiffusion-m18")
XLM_R = "FacebookAI/xlm-roberta-large"  # the tokenizer of every AltDiffusion, for files that come without one


def mini_folder() -> Path:
    """The embedded default's folder, in diffusers' layout."""
    return Path(__file__).parent / "mini"


def locate(model: str | Path | None, hub_patterns: list[str] | None = None, **hub: Any) -> Path:
    """The local path of a model: a folder or a file.

    model: None or "mini", a path, or "owner/name" on the hub. hub_patterns: the files to download, None for what
    the repository's pipeline needs. hub: revision, token, cache_dir, local_files_only... of `huggingface_hub`.
    Raises InputError for what is neither here nor there.
    """
    if model is None or str(model) == MINI:
        return mini_folder()
    path = Path(model).expanduser()
    if path.exists():
        return path
    name = str(model)
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or path.suffix in {".safetensors", ".ckpt", ".bin"}:
        raise InputError(
            f"unknown model {name!r}: expected a folder or file that exists, an id on the hub such as {PUBLISHED[1]!r}, "
            f"or {MINI!r}, the embedded default"
        )
    from huggingface_hub import snapshot_download

    return Path(on_hub(name, lambda name: snapshot_download(name, allow_patterns=hub_patterns, **hub)))


def on_hub(name: str, download: Callable[[str], Any]) -> Any:
    """Run a download; its failures become one line (InputError) that says what to do."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        return download(name)
    except HFValidationError:
        raise InputError(f"unknown model {name!r}: no folder here, and no valid id on the hub") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no answer")
        raise InputError(
            f"the hub refused {name!r} (status {status}): check the name; a gated model asks you to accept its licence "
            "on its page and to log in with `hf auth login`"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError):
        raise InputError(
            f"{name!r} is no folder here and the hub can't be reached: check the spelling or the network"
        ) from None
    except OSError as error:  # among others, how diffusers reports a repository that holds pickles alone
        raise InputError(
            f"{name!r} can't be downloaded: {first_line(error)} "
            "(if it holds .bin files alone: --allow-pickle, allow_pickle=True)"
        ) from None
