"""The folder of a run: nothing is lost, nothing is done twice, nothing foreign is overwritten."""

import errno
import os

import pytest

from altdiffusion.batch.folder import Done, OutputFolder, Unwritable
from altdiffusion.batch.partitions import plan
from altdiffusion.errors import InputError


@pytest.fixture
def parts(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"caption": "a"}\n' * 6)
    return plan(str(tmp_path / "t.jsonl"), 2)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return OutputFolder(tmp_path / "out")


def test_a_partition_is_done_when_its_mark_and_files_are_there(folder, parts):
    assert not folder.begin("score", {"a": 1}, 3)
    assert folder.done(parts[0]) is None
    with folder.new_file("scores/0.parquet") as path:
        path.write_bytes(b"x")
    error = {"id": "7", "where": "t:7", "reason": "no image"}
    done = folder.finish(parts[0], ["scores/0.parquet"], 1, [error, error | {"id": "8"}])
    assert done == folder.done(parts[0]) == Done(1, {"no image": 2}, ["scores/0.parquet", "errors/00000.jsonl"])
    assert folder.begin("score", {"a": 1}, 3)
    assert folder.done(parts[1]) is None
    (folder.path / "scores/0.parquet").unlink()
    assert folder.done(parts[0]) is None
    assert folder.was_done(parts[0])
    assert not folder.was_done(parts[1])


def test_a_partition_of_a_changed_input_is_not_done(tmp_path, folder, parts):
    folder.begin("score", {}, 3)
    folder.finish(parts[0], [], 2, [])
    os.utime(tmp_path / "t.jsonl", ns=(5, 5))
    (changed, *_) = plan(str(tmp_path / "t.jsonl"), 2)
    assert folder.done(parts[0])
    assert folder.done(changed) is None


def test_errors_of_an_earlier_try_go(folder, parts):
    folder.begin("score", {}, 3)
    folder.finish(parts[0], [], 1, [{"id": "7", "where": "t:7", "reason": "no image"}])
    folder.finish(parts[0], [], 2, [])
    assert list((folder.path / "errors").iterdir()) == []


@pytest.mark.parametrize(
    ("task", "settings", "partitions", "said"),
    [
        ("embed", {"a": 1}, 3, "is of `batch score`"),
        ("score", {"a": 2}, 3, r"begun with other settings \(a was 1\)"),
        ("score", {"a": 1, "b": 2}, 3, r"\(b was None\)"),
        ("score", {"a": 1}, 2, "has 3 partitions, the input now 2"),
    ],
)
def test_a_folder_of_something_else_is_refused(folder, task, settings, partitions, said):
    folder.begin("score", {"a": 1}, 3)
    with pytest.raises(InputError, match=said):
        folder.begin(task, settings, partitions)


def test_a_folder_with_other_files_is_refused(folder):
    (folder.path / "photo.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="holds other files"):
        folder.begin("score", {}, 1)
    (folder.path / "manifest.json").write_text("[]")
    with pytest.raises(InputError, match=r"no manifest\.json of a batch run"):
        folder.begin("score", {}, 1)


def test_a_second_run_is_told_of_the_first(tmp_path, folder):
    with folder.locked(), pytest.raises(InputError, match="another run is writing"), OutputFolder(folder.path).locked():
        pass
    with folder.locked():
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is no folder"), OutputFolder(tmp_path / "file").locked():
        pass


def test_what_a_killed_worker_left_goes(folder):
    folder.begin("score", {}, 1)
    (folder.path / "scores").mkdir()
    (folder.path / "scores/.00000.parquet.x1").write_bytes(b"half")
    folder.begin("score", {}, 1)
    assert list((folder.path / "scores").iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing_half_written(folder, parts, monkeypatch):
    folder.begin("score", {}, 3)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unwritable, match=r"No space left on device.*the same command goes on"):
        folder.finish(parts[0], [], 2, [])
    assert folder.done(parts[0]) is None
    assert list((folder.path / "partitions").iterdir()) == []
