"""Small systems, saved once a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import small_systems, tiny


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """(the folder of clip, chinese_clip and taiyi, their models). Read them, never write into them."""
    root = tmp_path_factory.mktemp("systems")
    clip = tiny.save_clip(root / "clip")
    small_systems.excite(clip).save_pretrained(root / "clip")
    small_systems.add_position_ids(
        root / "clip", "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"
    )
    models = {"clip": clip, "chinese_clip": small_systems.save_chinese_clip(root / "chinese_clip")}
    models["taiyi"] = small_systems.save_taiyi(root / "taiyi", width=4)
    return root, models


@pytest.fixture
def copy_of(folders: tuple[Path, dict[str, Any]], tmp_path: Path) -> Callable[[str], Path]:
    """copy_of("clip"): a folder to damage."""
    return lambda name: Path(shutil.copytree(folders[0] / name, tmp_path / name))
