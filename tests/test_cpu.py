"""How PyTorch uses a CPU: how threads share it, which commands choose before torch is there, and what memory is kept."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import altdiffusion
from altdiffusion.cpu import ALLOCATOR, cpu_quota, keep_memory, share_cores, thread_variables, usable_cores

MINI = Path(altdiffusion.__file__).parent / "mini"


@pytest.mark.parametrize(
    ("environ", "cores", "quota", "expected"),
    [
        ({}, 2, None, {"OMP_WAIT_POLICY": "passive"}),
        ({"OMP_NUM_THREADS": "2"}, 4, None, {"OMP_WAIT_POLICY": "passive"}),
        ({"OMP_WAIT_POLICY": "active"}, 2, None, {}),
        ({"GOMP_SPINCOUNT": "1000"}, 2, None, {}),
        ({"KMP_BLOCKTIME": "200"}, 2, None, {}),
        ({"OMP_WAIT_POLICY": "active"}, 64, 2.0, {"OMP_NUM_THREADS": "2"}),
        ({}, 64, 1.5, {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "2"}),
        ({}, 64, 0.25, {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}),
        ({}, 2, 2.0, {"OMP_WAIT_POLICY": "passive"}),
        ({}, 2, 8.0, {"OMP_WAIT_POLICY": "passive"}),
        ({"OMP_NUM_THREADS": "16"}, 64, 2.0, {"OMP_WAIT_POLICY": "passive"}),
    ],
)
def test_threads_sleep_and_fit_the_quota_where_the_user_says_nothing(environ, cores, quota, expected):
    assert thread_variables(environ, cores, quota) == expected


def test_what_is_chosen_is_added_to_the_environment():
    environ = {"OMP_NUM_THREADS": "3"}
    share_cores(environ)
    assert environ == {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "passive"}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "?"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota_is_read_in_either_version(tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    assert cpu_quota(tmp_path) == cores


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity")
def test_the_cores_are_those_of_the_affinity(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 6})
    assert usable_cores() == 3


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's allocator")
def test_memory_that_is_freed_is_kept_unless_the_user_says_otherwise():
    """Counted in page faults: ten times 100 MB, in a process of its own, as nothing takes the setting back."""
    script = """
import resource, sys
from altdiffusion.cpu import keep_memory
if "keep" in sys.argv:
    assert keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [bytearray(2**20) for _ in range(100)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
    environ = {name: value for name, value in os.environ.items() if name not in (*ALLOCATOR, "LD_PRELOAD")}
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", script, word], capture_output=True, env=environ, check=True).stdout)
        for word in ("give", "keep")
    )
    assert given_back > 100_000
    assert kept < 1000
    assert all(not keep_memory({name: "1"}) for name in ALLOCATOR)


def test_every_command_chooses_before_torch_is_imported_and_the_package_chooses_nothing(tmp_path):
    """In one process, where the import of torch interrupts a command and prints what is set by then."""
    image = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(image)
    commands = [
        ["generate", "一只猫", "--out", str(tmp_path)],
        ["score", str(image), "--prompt", "猫"],
        ["demo"],
        ["train", "autoencoder", "--model", str(MINI / "vae"), "--train-data", str(tmp_path), "--output-dir", "out"],
        ["evaluate", "mini"],
        ["benchmark", "--quick"],
    ]
    script = f"""
import os, sys
class Torch:
    def find_spec(self, name, *others):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"))
            raise KeyboardInterrupt
sys.meta_path.insert(0, Torch())
import altdiffusion
assert "OMP_WAIT_POLICY" not in os.environ
from altdiffusion.cli.main import main
for words in {commands!r}:
    os.environ.pop("OMP_WAIT_POLICY", None)
    assert main(words) == 130, words
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["passive"] * len(commands)
