"""pipelines/two_hosts.py in its short form: two network namespaces, one process killed, the weights of one process."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "pipelines/two_hosts.py"
pytestmark = pytest.mark.long


def test_two_hosts_of_which_one_loses_its_process_equal_one_process(tmp_path):
    command = [sys.executable, SCRIPT, tmp_path / "out", "--checks", "killed", "--steps", "6"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[1])
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ok")]
    assert "distill, killed and begun again: 292 of 292 tensors of the checkpoint equal" in line
