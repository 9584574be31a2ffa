"""Small checkpoints in every layout, made once; no network, ever."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers import layouts, tiny
from helpers.forks import Forks

# Processes in the background of a script ignore SIGINT, and hand that on to those that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """published(kind, weights): a folder as BAAI published it. Read it, never write into it."""
    root = tmp_path_factory.mktemp("published")

    def make(kind: str = "m9", weights: str = "safetensors") -> Path:
        folder = root / f"{kind}-{weights}"
        if not folder.exists():
            layouts.save_published(folder, kind, weights)
        return folder

    return make


@pytest.fixture
def own_copy(published: Callable[..., Path], tmp_path: Path) -> Path:
    """A published folder to damage."""
    return Path(shutil.copytree(published("m9", "safetensors"), tmp_path / "own"))


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clip, student, xlm-r, pairs.tsv and images, see tiny.py. Read it, never write into it."""
    root = tmp_path_factory.mktemp("tiny")
    tiny.save_clip(root / "clip")
    tiny.save_student(root / "student")
    tiny.save_roberta(root / "xlm-r")
    tiny.save_pairs(root / "pairs.tsv")
    tiny.save_pictures(root / "pictures")
    return root


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """The command line in processes of their own."""
    server = Forks()
    yield server
    server.close()
