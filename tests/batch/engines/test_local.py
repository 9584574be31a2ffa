"""Processes on this machine: what dies is replaced, and the output is that of a run where nothing did."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
from helpers.batch_data import files_of, run_here, save_data, save_tar

from altdiffusion.batch.engines.local import run_local
from altdiffusion.batch.folder import OutputFolder
from altdiffusion.batch.partitions import plan
from altdiffusion.batch.settings import FilterBatch, ScoreBatch
from altdiffusion.batch.tasks.load import task_class
from altdiffusion.batch.worker import Job
from altdiffusion.errors import BatchStopped, InputError


@pytest.fixture
def settings(tmp_path):
    """Copies of 10 images, a partition each: no model is loaded, so that processes begin at once."""
    save_data(tmp_path / "data")
    source = str(tmp_path / "data/rows.csv")
    _save_scores(source, tmp_path / "scores")
    return FilterBatch(source=source, out=tmp_path / "out", scores=tmp_path / "scores", minimum=0, partition_size=1)


def _save_scores(source, out):
    import numpy as np

    from altdiffusion.batch.tasks.base import write_parquet

    settings = ScoreBatch(source=source, out=out, partition_size=1)
    folder, parts = OutputFolder(out), plan(source, 1)
    out.mkdir()
    folder.begin("score", settings.result, len(parts))
    for part in parts:
        with folder.new_file(f"scores/{part.number:05}.parquet") as path:
            write_parquet(path, {"index": np.arange(1), "id": ["a"], "cosine": np.float32([part.number])})
        folder.finish(part, [], 1, [])


def test_partitions_are_shared_among_workers(settings, tmp_path):
    folder = OutputFolder(settings.out)
    folder.path.mkdir()
    parts, counts = plan(settings.source, 1), []
    outcomes = list(run_local(Job("filter", settings), parts, 2, [None], counts.append))
    assert sorted(outcome.number for outcome in outcomes) == list(range(10))
    assert sum(counts) == 10
    alone = run_here("filter", settings.model_copy(update={"out": tmp_path / "alone"}))
    assert len(alone) == 10
    written, expected = files_of(settings.out), files_of(tmp_path / "alone")
    assert written == {name: content for name, content in expected.items() if name != "manifest.json"}


def test_a_worker_that_dies_is_replaced(settings):
    OutputFolder(settings.out).path.mkdir()
    parts, numbers = plan(settings.source, 1), []
    for outcome in run_local(Job("filter", settings), parts, 1, [None], lambda count: None):
        numbers.append((outcome.number, outcome.failed))
        if len(numbers) in (2, 5):
            (worker,) = [each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline())]
            worker.kill()
    assert sorted(numbers) == [(number, "") for number in range(10)]


def test_a_partition_that_kills_its_workers_is_left_out_and_named(settings, monkeypatch):
    """A class of the input that ends the process as it is read: the others are done all the same."""
    OutputFolder(settings.out).path.mkdir()
    parts = plan(settings.source, 1)
    deadly = replace(parts[3], at=_Deadly(3))
    parts[3] = deadly
    outcomes = {
        outcome.number: outcome for outcome in run_local(Job("filter", settings), parts, 2, [None], lambda n: None)
    }
    assert sorted(outcomes) == list(range(10))
    assert "its worker died 3 times (exit status 7)" in outcomes[3].failed
    assert [number for number, outcome in outcomes.items() if outcome.failed] == [3]


class _Deadly(int):
    """A number that ends the process which unpickles it, unless that is the test's own."""

    def __reduce__(self):
        return _end, (os.getpid(),)


def _end(parent):
    if os.getpid() != parent:
        os._exit(7)
    return 3


def test_a_model_that_cannot_be_loaded_ends_the_run(settings, tmp_path):
    score = ScoreBatch(source=settings.source, out=tmp_path / "out", model=str(tmp_path), partition_size=1)
    with pytest.raises(InputError, match=str(tmp_path)):
        list(run_local(Job("score", score), plan(score.source, 1), 1, [None], lambda count: None))


def test_a_worker_that_ends_while_it_loads_ends_the_run(settings):
    with pytest.raises(BatchStopped, match="while it loaded"):
        list(run_local(Job("no such task", settings), plan(settings.source, 1), 1, [None], lambda count: None))


@pytest.mark.long
def test_killed_at_any_moment_and_begun_again_the_bytes_are_the_same(tmp_path, settings):
    """The main process and its worker; the second run finds what the first had done."""
    members = {f"{number:03}.png": b"x" * 100_000 for number in range(5)}
    source = tmp_path / "big"
    source.mkdir()
    content = (tmp_path / "data/images/000.png").read_bytes()
    for number in range(30):
        save_tar(source / f"{number:03}.tar", {name: content + extra for name, extra in members.items()})
    expected = None
    command = [sys.executable, "-m", "altdiffusion", "batch", "filter", f"{source}/*.tar"]
    _save_scores(f"{source}/*.tar", tmp_path / "of-tars")
    rest = ["--scores", str(tmp_path / "of-tars"), "--min", "0", "--partition-size", "1"]
    for out, kills in (("whole", 0), ("killed", 4)):
        rng = random.Random(0)
        for _ in range(kills):
            process = subprocess.Popen([*command, str(tmp_path / out), *rest], stderr=subprocess.DEVNULL)
            time.sleep(rng.uniform(1, 3))
            process.send_signal(signal.SIGKILL)
            process.wait()
        done = subprocess.run([*command, str(tmp_path / out), *rest], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        files = files_of(tmp_path / out)
        expected = expected or files
        assert files == expected
        assert len([name for name in files if name.startswith("data/")]) == 30


def test_tasks_are_found_by_name():
    assert task_class("filter").__name__ == "FilterTask"
