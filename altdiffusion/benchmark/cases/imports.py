"""What it costs to start: imports and a first image, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import torch

from altdiffusion.benchmark.models import Sizes
from altdiffusion.benchmark.timing import Comparison, in_turns


def measure(sizes: Sizes, device: torch.device) -> Iterator[Comparison]:
    cpu = torch.device("cpu")
    yield Comparison(
        "import altdiffusion, nothing of it used",
        in_turns({"altdiffusion": python("import altdiffusion"), "an empty program": python("")}, sizes.rounds, cpu),
    )
    light = "from altdiffusion import AltDiffusionPipeline"
    heavy = "import torch, diffusers; from diffusers import StableDiffusionPipeline; from transformers import AltCLIPTextModel"
    with tempfile.TemporaryDirectory() as folder:
        generating = [
            "-m",
            "altdiffusion.cli",
            "generate",
            "一只猫",
            "--steps",
            "10",
            "--out",
            folder,
            "--device",
            "cpu",
        ]
        ways = {
            light: python(light),
            heavy: python(heavy),
            "generate on mini, 10 steps": lambda: subprocess.run(
                [sys.executable, *generating], check=True, capture_output=True
            ),
        }
        contenders = in_turns(ways, sizes.rounds, cpu)
    result = Comparison("the first pipeline", contenders)
    _, libraries, whole = (contender.median for contender in contenders)
    if whole and libraries:
        result.limits.append(f"importing torch, diffusers and transformers is {libraries / whole:.0%} of generate")
    yield result


def python(program: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", program], check=True)
