"""Training on two hosts, which are network namespaces of this machine: the weights of one process, whatever is killed.

    sudo python pipelines/two_hosts.py OUT [--checks killed whole bridge disks] [--steps 12]

Each host runs torchrun with one process; they meet by the rendezvous c10d over a veth pair and share OUT, as hosts share NFS.
killed: the second host's process is killed after its first checkpoint; torchrun begins both again, and --resume goes on.
whole:  nothing is killed; and one process with whole batches, whose sums are rounded otherwise.
bridge: nothing is killed, of `train bridge`.
disks:  each host has an output folder of its own: refused.
The models are those inside the package. What is compared: all weights and AdamW's states of the last checkpoint, the model,
the losses, with one process that takes as many micro-batches as there are hosts. Status 3: namespaces can't be made here.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

ADDRESSES = ("10.77.0.1", "10.77.0.2")
NO_NAMESPACES = 3
THINGS = {
    "cat": "猫",
    "dog": "狗",
    "tree": "树",
    "house": "房子",
    "sun": "太阳",
    "moon": "月亮",
    "fish": "鱼",
    "hat": "帽子",
}
COLOURS = {"red": "红色的", "blue": "蓝色的", "green": "绿色的", "black": "黑色的", "white": "白色的"}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def two_hosts() -> Iterator[list[str]]:
    """Two network namespaces with a cable between them; they are gone afterwards, with whatever still runs in them."""
    names = [f"altdiffusion-{os.getpid()}-{letter}" for letter in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip()
        print(f"network namespaces can't be made here: {said}", file=sys.stderr)
        sys.exit(NO_NAMESPACES)
    finally:
        for name in names:
            ended = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
            for pid in ended.stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def write_texts(path: Path) -> None:
    rows = [f"{colour} {thing}\t{COLOURS[colour]}{THINGS[thing]}" for colour in COLOURS for thing in THINGS]
    path.write_text("\n".join(["en\tzh", *rows]) + "\n", encoding="utf-8")


def command(stage: str, texts: Path, out: Path, steps: int, **settings: object) -> list[str]:
    """The words after `python -m`."""
    models = {
        "distill": {"teacher": "sd-mini", "student": "mini"},
        "bridge": {"text-encoder": "mini", "model": "sd-mini"},
    }
    common = {
        "train-data": texts, "languages": "zh", "output-dir": out, "max-train-steps": steps, "batch-size": 8,
        "learning-rate": 1e-4, "checkpointing-steps": 2, "logging-steps": 1, "device": "cpu",
    }  # fmt: skip
    flags = {**models[stage], **common, **settings}
    return [
        "altdiffusion.cli",
        "train",
        stage,
        *(str(word) for flag in flags.items() for word in (f"--{flag[0]}", flag[1])),
    ]


def environment() -> dict[str, str]:
    # gloo would take the address that the hostname has, which in these namespaces is none of theirs
    return os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0", "HF_HUB_OFFLINE": "1"}


def on_hosts(
    names: Sequence[str], words: Sequence[str], log: Path, restarts: int, before: Sequence[str] = ()
) -> list[subprocess.Popen[bytes]]:
    """Start torchrun on each host, with --resume. before: words that start the second host's torchrun."""
    hosts = []
    for number, (name, address) in enumerate(zip(names, ADDRESSES, strict=True)):
        torchrun = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
            "--max-restarts", str(restarts), "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:29400",
            "--rdzv-id", "two-hosts", "--rdzv-conf", f"is_host={1 - number}", "--local-addr", address, "-m", *words, "--resume",
        ]  # fmt: skip
        start = ["ip", "netns", "exec", name, *(before if number else ()), *torchrun]
        with log.with_suffix(f".{number}.txt").open("wb") as output:
            hosts.append(subprocess.Popen(start, stdout=output, stderr=output, env=environment()))
    return hosts


def wait(hosts: Sequence[subprocess.Popen[bytes]], log: Path, seconds: float = 600) -> list[int]:
    """Their exit statuses; what they said is in files beside `log`."""
    ends = time.monotonic() + seconds
    try:
        return [host.wait(max(0.1, ends - time.monotonic())) for host in hosts]
    except subprocess.TimeoutExpired:
        sys.exit(f"no end after {seconds:.0f} s: see {log}.*.txt")


def kill_second(hosts: Sequence[subprocess.Popen[bytes]], out: Path) -> None:
    """SIGKILL the second host's process of the training, once there is a checkpoint."""
    while not list((out / "checkpoints").glob("step-*")):
        if any(host.poll() is not None for host in hosts):
            sys.exit(f"a host ended before the first checkpoint: see {out}.*.txt")
        time.sleep(0.01)
    workers = [child for child in psutil.Process(hosts[1].pid).children() if "altdiffusion.cli" in child.cmdline()]
    for worker in workers:
        worker.kill()
    if not workers or (out / "model").exists():
        sys.exit("the training had ended before its process could be killed: take more --steps")


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def tensors(out: Path) -> dict[str, torch.Tensor]:
    """All that the last checkpoint holds of the weights and the optimizer."""
    state = torch.load(max((out / "checkpoints").glob("step-*")) / "state.pt", weights_only=True)
    found = dict(state["model"])
    for number, entry in state["optimizer"]["state"].items():
        found |= {f"optimizer {number} {name}": tensor for name, tensor in entry.items()}
    return found


def compare(title: str, found: Path, expected: Path, exact: bool = True) -> bool:
    """Print a line: what is equal, what not, and by how much."""
    left, right = tensors(found), tensors(expected)
    equal = sum(torch.equal(left[name], right[name]) for name in right)
    model = (found / "model/model.safetensors").read_bytes() == (expected / "model/model.safetensors").read_bytes()
    pairs = list(zip(losses(found), losses(expected), strict=True))
    error = max(abs(a - b) / abs(b) for a, b in pairs)
    good = left.keys() == right.keys() and (equal == len(right) and model and error == 0 if exact else error < 1e-4)
    print(
        f"{'ok  ' if good else 'FAIL'} {title}: {equal} of {len(right)} tensors of the checkpoint equal bit for bit, "
        f"the model's file {'too' if model else 'not'}, losses of {len(pairs)} steps within {error:.1e}",
        flush=True,
    )
    return good


def one_process(words: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, env=environment(), check=False
    )
    if done.returncode:
        sys.exit(done.stderr)


def two_processes(names: Sequence[str], words: Sequence[str], out: Path, kill: bool = False) -> None:
    started = time.monotonic()
    # a process that is begun again may read its peer's former address out of torchrun's store, and needs another turn
    hosts = on_hosts(names, words, out, restarts=10 if kill else 0)
    if kill:
        kill_second(hosts, out)
    if any(statuses := wait(hosts, out)):
        sys.exit(f"torchrun ended with {statuses}: see {out}.*.txt")
    print(f"     two hosts took {time.monotonic() - started:.0f} s{', one process killed' if kill else ''}", flush=True)


def check(names: Sequence[str], out: Path, checks: Sequence[str], steps: int) -> bool:
    texts, good = out / "texts.tsv", []
    write_texts(texts)
    if "killed" in checks or "whole" in checks:
        one_process(command("distill", texts, out / "one", steps, **{"gradient-accumulation-steps": 2}))
    if "killed" in checks:
        two_processes(names, command("distill", texts, out / "killed", steps), out / "killed", kill=True)
        good.append(compare("distill, killed and begun again", out / "killed", out / "one"))
    if "whole" in checks:
        two_processes(names, command("distill", texts, out / "whole", steps), out / "whole")
        good.append(compare("distill", out / "whole", out / "one"))
        one_process(command("distill", texts, out / "batches", steps))
        good.append(compare("distill, one process with whole batches", out / "whole", out / "batches", exact=False))
    if "bridge" in checks:
        one_process(command("bridge", texts, out / "bridge-one", steps, **{"gradient-accumulation-steps": 2}))
        two_processes(names, command("bridge", texts, out / "bridge", steps), out / "bridge")
        good.append(compare("bridge", out / "bridge", out / "bridge-one"))
    if "disks" in checks:
        good.append(refuses_own_disks(names, texts, out / "disks", steps))
    return all(good)


def refuses_own_disks(names: Sequence[str], texts: Path, out: Path, steps: int) -> bool:
    """The second host sees another, empty file system in the output folder's place."""
    out.mkdir()
    own = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(out)]
    statuses = wait(on_hosts(names, command("distill", texts, out, steps), out, restarts=0, before=own), out)
    said = out.with_suffix(".1.txt").read_text(encoding="utf-8")
    good = all(statuses) and "isn't one folder for all processes" in said
    print(f"{'ok  ' if good else 'FAIL'} hosts that don't share their output folder are refused", flush=True)
    return good


parser = argparse.ArgumentParser(description="Training on two hosts, which are network namespaces.")
parser.add_argument("out", type=Path, help="a new folder")
parser.add_argument("--checks", nargs="+", default=["killed", "whole", "bridge", "disks"])
parser.add_argument("--steps", type=int, default=12)

if __name__ == "__main__":
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the namespaces go, too
    with two_hosts() as hosts:
        good = check(hosts, given.out.absolute(), given.checks, given.steps)
    sys.exit(0 if good else 1)
