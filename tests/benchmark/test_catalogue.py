"""The catalogue of cases: complete, and light enough for the command line's help."""

import subprocess
import sys

import pytest

from altdiffusion.benchmark.catalogue import CASES, load_case


@pytest.mark.parametrize("name", CASES)
def test_every_case_can_be_loaded(name):
    assert callable(load_case(name))


def test_the_names_are_read_without_torch():
    program = (
        "import sys; from altdiffusion.benchmark.catalogue import CASES; print(len(CASES), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(CASES)), "False"]
