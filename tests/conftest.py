"""Small checkpoints in every layout, made once a run; no network, ever."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
# A worker has a core, so its models have a thread: several threads that wait for a busy core spin, six times as slow.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from helpers import layouts, tiny
from helpers.forks import Forks

# Processes in the background of a script ignore SIGINT, and hand that on to those that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = (
            False  # xdist's own order, files of many tests first, leaves the longest to the end
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files marked as long come first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """made_once(name, make): the folder that `make` fills, once for all workers of a run. Read it, never write into it."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder, half_made = root / name, root / f"{name}.part"
        with FileLock(root / f"{name}.lock"):
            if not folder.exists():
                make(half_made)
                half_made.rename(folder)
        return folder

    return folder_of


@pytest.fixture(scope="session")
def published(made_once: Callable[..., Path]) -> Callable[..., Path]:
    """published(kind, weights): a folder as BAAI published it."""

    def make(kind: str = "m9", weights: str = "safetensors") -> Path:
        return made_once(f"{kind}-{weights}", lambda folder: layouts.save_published(folder, kind, weights))

    return make


@pytest.fixture
def own_copy(published: Callable[..., Path], tmp_path: Path) -> Path:
    """A published folder to damage."""
    return Path(shutil.copytree(published("m9", "safetensors"), tmp_path / "own"))


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_models(made_once: Callable[..., Path]) -> Path:
    """A folder with clip, student, xlm-r, pairs.tsv and pictures, see tiny.py."""

    def make(folder: Path) -> None:
        folder.mkdir()
        tiny.save_clip(folder / "clip")
        tiny.save_student(folder / "student")
        tiny.save_roberta(folder / "xlm-r")
        tiny.save_pairs(folder / "pairs.tsv")
        tiny.save_pictures(folder / "pictures")

    return made_once("tiny", make)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """The command line in processes of their own."""
    server = Forks()
    yield server
    server.close()


@pytest.fixture(scope="session")
def plain_diffusers() -> Iterator[Forks]:
    """Scripts in processes of their own that have diffusers and transformers, and nothing of ours."""
    server = Forks("diffusers")
    yield server
    server.close()
