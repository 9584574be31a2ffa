"""What docs/batch.md says of `altdiffusion batch`, measured here: kills, engines, nodes that die, memory.

    python pipelines/check_batch.py OUT [--images 100000] [--kills 25] [--parts kills engines nodes memory]

kills: a run whose main process and workers are killed at random moments, begun again each time, has the bytes of a whole one.
engines: the time of `batch score` over that of a bare loop of `PromptScorer.score_pairs`, in turns; local and Ray.
nodes: Ray on two local nodes, of which one is killed midway; complete, and the same bytes.
memory: of all processes while --images small images are scored, at a tenth of the way and at the end.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

WORDS = (
    "a cat",
    "一只猫",
    "ein Hund",
    "красный автомобиль",
    "寿司",
    "a house on a hill",
    "月亮",
    "the sun over the sea",
)


def save_shards(folder: Path, images: int, shard: int, side: int = 64) -> str:
    """Tars of random images with captions. Returns the pattern that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for first in range(0, images, shard):
        path = folder / f"{first // shard:05}.tar"
        if path.exists():
            continue
        with tarfile.open(path.with_suffix(".part"), "w") as tar:
            for number in range(first, min(images, first + shard)):
                buffer = io.BytesIO()
                small = rng.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG")
                caption = f"{WORDS[number % len(WORDS)]} {number}".encode()
                for ending, content in (("jpg", buffer.getvalue()), ("txt", caption)):
                    member = tarfile.TarInfo(f"{number:09}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        path.with_suffix(".part").rename(path)
    return f"{folder}/*.tar"


def command(source: str, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "altdiffusion", "batch", "score", source, str(out), *more]


def run(words: list[str]) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def output_of(folder: Path) -> dict[str, bytes]:
    """The files that a run is for, by name."""
    paths = [path for part in ("scores", "errors") for path in (folder / part).glob("*")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def kills(work: Path, count: int) -> dict[str, object]:
    source, rng = save_shards(work / "few", 4000, 100), random.Random(0)
    whole, killed = work / "whole", work / "killed"
    for folder in (whole, killed):
        shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    run(command(source, whole))
    seconds, done = time.monotonic() - started, 0
    for number in range(count):
        process = subprocess.Popen(command(source, killed), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        # most of the time is loading: the kill comes where files are written
        waiting = time.monotonic() + rng.uniform(0.3, 1.0) * seconds
        while time.monotonic() < waiting and process.poll() is None:
            now = len(list((killed / "partitions").glob("*.json"))) if (killed / "partitions").exists() else 0
            if now > done and rng.random() < 0.5:
                break
            time.sleep(0.01)
        done = now
        workers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for each in [process, *workers][:: -1 if number % 2 else 1][: 1 + number % 3]:
            if each.pid and psutil.pid_exists(each.pid):
                os.kill(each.pid, signal.SIGKILL)
        if number % 2:  # the worker alone was killed: it is replaced, and the run goes on; then it is killed, too
            time.sleep(rng.uniform(0, 0.2) * seconds)
            process.kill()
        process.wait()
    run(command(source, killed))
    return {"kills": count, "partitions": 40, "bytes equal": output_of(whole) == output_of(killed)}


def engines(work: Path, turns: int = 3) -> dict[str, object]:
    """The median time of 2,000 images, and of all that comes before the first of them are done and after the last."""
    source, shards, size = save_shards(work / "some", 20000, 2000), 10, 2000
    bare = "import sys; sys.path.insert(0, sys.argv[1]); import check_batch; check_batch.bare_loop(sys.argv[2], sys.argv[3])"
    steps: dict[str, list[float]] = {}
    besides: dict[str, list[float]] = {}
    for _ in range(turns):  # in turns, as other programs on the machine slow it down for a while
        for name, words in {
            "bare": [sys.executable, "-c", bare, str(Path(__file__).parent), source, str(work / "bare")],
            "local": command(source, work / "local"),
            "ray": command(source, work / "ray", "--engine", "ray", "--threads", str(os.cpu_count() or 1)),
        }.items():
            shutil.rmtree(work / name, ignore_errors=True)
            started = time.time()
            run(words)
            seconds = time.time() - started
            done = sorted(mark.stat().st_mtime for mark in (work / name / "partitions").iterdir())
            assert len(done) == shards
            steps.setdefault(name, []).extend(later - earlier for earlier, later in itertools.pairwise(done))
            besides.setdefault(name, []).append(seconds - (done[-1] - done[0]) * shards / (shards - 1))
    step = {name: statistics.median(some) for name, some in steps.items()}
    return {
        f"seconds for {size:,} images": {name: round(value, 2) for name, value in step.items()},
        "over the bare loop": {name: round(step[name] / step["bare"] - 1, 3) for name in ("local", "ray")},
        "seconds for start and end": {name: round(statistics.median(some), 1) for name, some in besides.items()},
        "bytes equal": output_of(work / "local") == output_of(work / "ray"),
    }


def bare_loop(source: str, out: str) -> None:
    """What one would write: each shard's images and captions through the scorer, the scores into a file a shard."""
    import glob

    from altdiffusion import PromptScorer

    folder = Path(out) / "partitions"
    folder.mkdir(parents=True)
    scorer = PromptScorer.from_pretrained(cache_size=0)
    for path in sorted(glob.glob(source)):
        with tarfile.open(path) as tar:
            contents = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        names = sorted(name for name in contents if name.endswith(".jpg"))
        pairs = [(Image.open(io.BytesIO(contents[n])), contents[n[:-3] + "txt"].decode()) for n in names]
        np.save(folder / f"{Path(path).stem}.npy", np.fromiter(scorer.score_pairs(pairs), np.float32))


def nodes(work: Path) -> dict[str, object]:
    """A head without CPUs for workers and two nodes; the first that has done something is killed."""
    from ray.cluster_utils import Cluster

    source = save_shards(work / "few", 4000, 100)
    for name in ("whole", "nodes"):
        shutil.rmtree(work / name, ignore_errors=True)
    run(command(source, work / "whole"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    two = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    words = command(source, work / "nodes", "--engine", "ray", "--ray-address", cluster.address, "--workers", "2")
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    marks = work / "nodes/partitions"
    while process.poll() is None and len(list(marks.glob("*.json")) if marks.exists() else ()) < 10:
        time.sleep(0.05)
    at = len(list(marks.glob("*.json")))
    cluster.remove_node(two[0], allow_graceful=False)
    status = process.wait()
    cluster.shutdown()
    return {
        "a node killed after": f"{at} of 40 partitions",
        "exit status": status,
        "bytes equal": output_of(work / "whole") == output_of(work / "nodes"),
    }


def memory(work: Path, images: int) -> dict[str, object]:
    source = save_shards(work / "many", images, 2000)
    shutil.rmtree(work / "memory", ignore_errors=True)
    process = subprocess.Popen(command(source, work / "memory"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peaks: dict[int, float] = {}
    total = -(-images // 2000)
    marks = work / "memory/partitions"
    while process.poll() is None:
        done = len(list(marks.glob("*.json"))) if marks.exists() else 0
        peaks[done] = max(peaks.get(done, 0), _resident(process.pid))
        time.sleep(0.2)
    early = max(value for done, value in peaks.items() if done <= max(1, total // 10))
    late = max(value for done, value in peaks.items() if done >= total * 9 // 10)
    items = sum(json.loads(mark.read_text())["items"] for mark in marks.glob("*.json"))
    return {
        "images scored": items,
        "peak MB in the first tenth": round(early),
        "peak MB in the last tenth": round(late),
        "exit status": process.returncode,
    }


def _resident(pid: int) -> float:
    """MB of a process and its children."""
    try:
        parent = psutil.Process(pid)
        every = [parent, *parent.children(recursive=True)]
        return sum(each.memory_info().rss for each in every) / 1e6
    except psutil.Error:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--parts", nargs="+", default=["kills", "engines", "nodes", "memory"])
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], dict[str, object]]] = {
        "kills": lambda: kills(arguments.out, arguments.kills),
        "engines": lambda: engines(arguments.out),
        "nodes": lambda: nodes(arguments.out),
        "memory": lambda: memory(arguments.out, arguments.images),
    }
    for name in arguments.parts:
        print(json.dumps({name: parts[name]()}, indent=2), flush=True)


if __name__ == "__main__":
    main()
