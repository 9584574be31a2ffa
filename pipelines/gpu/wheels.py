"""What to carry to a machine that reaches no package registry."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
# What images for deep learning on a GPU usually hold, with PyTorch and transformers in them.
USUAL = """accelerate annotated-doc anyio attrs certifi charset-normalizer click filelock fsspec h11 hf-xet httpcore httpx
huggingface-hub idna jinja2 lazy-loader lightning-utilities markdown-it-py markupsafe mdurl mpmath networkx numpy packaging
peft pillow protobuf psutil pygments pyyaml regex requests rich safetensors sentencepiece setuptools shellingham six sympy
tokenizers torch torchmetrics tqdm transformers triton typer typing-extensions urllib3 zipp"""
THERE = {
    "python_version": "3.12",
    "python_full_version": "3.12.0",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
}
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")


def commands(have: Path | None = None) -> list[str]:
    """The pip commands that fetch what is missing there, for Python 3.12 on x86-64; xformers by itself.

    have: the packages there, a name first on each line; None: what such images usually hold.
    """
    words = USUAL.split() if have is None else re.findall(r"^\s*([A-Za-z0-9][\w.-]*)", have.read_text(), re.M)
    pinned = [pin(name) for name in missing({canonicalize_name(word) for word in words})]
    fetch = ["python3", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--python-version", "3.12"]
    fetch += ["--implementation", "cp", *(word for name in PLATFORMS for word in ("--platform", name))]
    return [shlex.join([*fetch, "-d", ".whl", *pinned]), shlex.join([*fetch, "-d", ".whl-xformers", pin("xformers")])]


def missing(there: set[str]) -> list[str]:
    """What altdiffusion needs, and what that needs, as far as it is known here; sorted."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting, found = list(project["dependencies"]), set()
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate(THERE | {"extra": ""})
        if not applies or name in there | found:
            continue
        found.add(name)
        try:
            waiting += importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed here: what it needs is not known", file=sys.stderr)
    return sorted(found)


def pin(name: str) -> str:
    """With the version that constraints.txt names, else the one that is installed here, else any."""
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        found, _, version = line.partition("==")
        if canonicalize_name(found) == name:
            return f"{name}=={version}"
    try:
        return f"{name}=={importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return name
