"""Scoring images imports what it needs, and nothing of training, data sets or evaluation."""

import resource
import subprocess
import sys

OTHER_WINGS = {"benchmark", "cli", "data", "evaluation", "generation", "toy", "training", "web"}
# In one process, as torch takes seconds: the libraries first, then what this package adds to them.
SCORER = """
import sys, time
start = time.process_time()
import torch
from transformers import AltCLIPModel, CLIPImageProcessor, XLMRobertaTokenizer
libraries = time.process_time() - start
import altdiffusion.altclip.scorer
print(libraries, time.process_time() - start - libraries, *sys.modules)
"""


def run(program: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()


def wings(modules: list[str]) -> set[str]:
    return {name.split(".")[1] for name in modules if name.startswith("altdiffusion.")}


def cpu_seconds(program: str) -> float:
    """The user CPU time of a new Python: the least of three."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        run(program)
        seconds.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    return min(seconds)


def test_the_package_and_the_wing_take_a_tenth_of_a_second_and_no_torch():
    modules = run("import altdiffusion.altclip, sys; print(*sys.modules)")
    assert not {"torch", "transformers", "diffusers", "numpy"} & set(modules)
    assert not wings(modules) & OTHER_WINGS
    nothing = cpu_seconds("")
    for name in ("altdiffusion", "altdiffusion.altclip"):
        assert cpu_seconds(f"import {name}") - nothing < 0.1


def test_the_scorer_imports_neither_training_nor_data_nor_evaluation_and_adds_little_to_its_libraries():
    libraries, ours, *modules = run(SCORER)
    assert "scorer" in {name.rpartition(".")[2] for name in modules}
    assert not wings(modules) & OTHER_WINGS
    assert float(ours) < 0.1 * float(libraries)
