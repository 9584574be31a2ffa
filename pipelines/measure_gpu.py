"""What this project does on a GPU, measured in under 8 minutes: speed, memory, kernels, training, each beside stock.

    python pipelines/measure_gpu.py --out results           # writes results/gpu.json and results/gpu.md after each part
    python pipelines/measure_gpu.py --out results --small   # the same path with tiny models, on a CPU too, in a minute

On a machine that reaches no package registry: on one that does, in the checkout,

    python pipelines/measure_gpu.py --wheels [--have packages-there.txt]      # prints two commands; run them

then take the checkout along, with .whl/ and .whl-xformers/, and there

    install="python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade"
    $install --target /tmp/site .whl/*.whl && $install --target /tmp/xformers .whl-xformers/*.whl
    PYTHONPATH=/tmp/site python3 pipelines/measure_gpu.py --xformers /tmp/xformers --out results

The parts, most wanted first: generation (with xformers apart), memory and attention, text states and scoring, training.
Each runs in a process of its own; what fails, or what no time is left for, is named with its reason, and the rest goes on.
Models are random, at full size, in float16; nothing is downloaded. They take 8 GB in the folder for temporary files.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import queue
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Part -> (module and function in gpu/, the fraction of the budget that it may take at most)
PARTS = {
    "generation": ("generation:generation", 0.5),
    "xformers": ("memory:xformers", 0.1),
    "memory and attention": ("memory:memory", 0.2),
    "text states and scoring": ("text:text", 0.12),
    "training": ("training:training", 0.5),
}
LEAST = 0.03  # of the budget; with less left, a part is not begun


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed, memory, kernels and training on a GPU, beside stock.")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder for gpu.json and gpu.md")
    parser.add_argument("--budget-seconds", type=float, default=480, help="of all parts together (default: 480)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="by default all, in this order")
    parser.add_argument("--small", action="store_true", help="tiny models, and the CPU where there is no GPU")
    parser.add_argument("--device", help="by default cuda; with --small cpu")
    parser.add_argument("--xformers", type=Path, help="folder that xformers was unpacked into")
    parser.add_argument(
        "--wheels", action="store_true", help="print how to fetch what a machine without registry lacks"
    )
    parser.add_argument("--have", type=Path, help="with --wheels: packages there, a name a line (pip list, pip freeze)")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.device = given.device or ("cpu" if given.small else "cuda")
    if given.wheels:
        from gpu.wheels import commands

        print("\n".join(commands(given.have)))
    elif given.part:
        sys.exit(run_part(given))
    else:
        measure(given)


# One part, in a process of its own


def run_part(given: argparse.Namespace) -> int:
    """Print a part's rows, a JSON document a line. Returns the exit status."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes elsewhere

    def tell(row: dict[str, Any]) -> None:
        print(json.dumps(row, ensure_ascii=False), file=out, flush=True)

    class Warnings(logging.Handler):
        """What ours says that it could not do: `optimize` and others go a slower way aloud."""

        def emit(self, record: logging.LogRecord) -> None:
            tell({"note": record.getMessage()})

    try:
        logging.getLogger("altdiffusion").addHandler(Warnings(logging.WARNING))
        rows = prepare(given)
        if sys.stdin.readline():  # it is this part's turn; nothing comes where the parent has gone
            for row in rows:
                tell(row)
    except BaseException as error:
        traceback.print_exc()
        tell({"error": f"{type(error).__name__}: {error}".splitlines()[0], "traceback": traceback.format_exc()})
        return 1
    return 0


def prepare(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Import what a part needs, which takes seconds and no GPU. Returns its rows, which are computed as they are taken."""
    if given.part == "xformers" and importlib.util.find_spec("xformers") is None:
        why = "xformers: not installed"
        return iter([{"table": "Generation with xformers", "way": "stock with xformers", "reason": why}])
    import torch
    from gpu.models import SMALL, Setup

    module, name = PARTS[given.part][0].split(":")
    function = getattr(importlib.import_module(f"gpu.{module}"), name)
    dtype = torch.float16 if given.device.startswith("cuda") else torch.float32
    setup = Setup(given.folder, torch.device(given.device), dtype, **(SMALL if given.small else {}))

    def rows() -> Iterator[dict[str, Any]]:
        yield {"about": versions(given.device)}
        torch.manual_seed(0)
        yield from function(setup)

    return rows()


def versions(device: str) -> dict[str, str]:
    """Of what the figures depend on."""
    import torch

    names = ("torch", "triton", "diffusers", "transformers", "accelerate", "tokenizers", "xformers", "numpy")
    found = {"Python": platform.python_version(), "device": platform.processor() or platform.machine()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    found |= {"torch": torch.__version__, "altdiffusion": importlib.import_module("altdiffusion").__version__}
    found["CPU cores"] = str(os.cpu_count())
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        found["device"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        found["cuDNN"] = str(torch.backends.cudnn.version())
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        with contextlib.suppress(OSError):
            found["driver"] = subprocess.run(asked, capture_output=True, text=True).stdout.strip() or "unknown"
    return found


# All parts


def measure(given: argparse.Namespace) -> None:
    """Run the parts in order, and write the results after each row."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part's process ends too
    begun = time.monotonic()
    command = shlex.join(["python", "pipelines/measure_gpu.py", *sys.argv[1:]])
    now = datetime.datetime.now(datetime.timezone.utc)
    results: dict[str, Any] = {"about": {"date": f"{now:%Y-%m-%d}", "command": command}, "parts": {}}
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        given.folder = Path(folder)
        process, waiting = None, launch(given, given.parts[0])
        try:
            for name, following in zip(given.parts, [*given.parts[1:], None], strict=True):
                process, waiting = waiting, launch(given, following) if following else None
                part: dict[str, Any] = {"state": "running", "rows": [], "notes": []}
                results["parts"][name] = part
                started = time.monotonic()
                left = given.budget_seconds - (started - begun)
                if left < LEAST * given.budget_seconds:
                    part |= {"state": "skipped", "reason": f"the budget of {given.budget_seconds:g} s was spent"}
                    stop(process)
                else:
                    follow(process, min(left, PARTS[name][1] * given.budget_seconds), part, results, given.out)
                    part["seconds"] = round(time.monotonic() - started, 1)
                if part["state"] in ("failed", "cut off"):
                    part["stderr"] = stderr(given, name).read_text(encoding="utf-8", errors="replace")[-4000:]
                write(given.out, results)
                print(f"{name}: {part['state']}", part.get("reason", ""), file=sys.stderr, flush=True)
        finally:
            for each in filter(None, (process, waiting)):
                stop(each)
    results["seconds"] = round(time.monotonic() - begun, 1)
    write(given.out, results)
    print((given.out / "gpu.md").read_text(encoding="utf-8"))


def launch(given: argparse.Namespace, name: str) -> subprocess.Popen[bytes]:
    """A part's process, which imports and waits: while the part before is measured, on another core."""
    with stderr(given, name).open("wb") as errors:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            child(given, name),
            stdin=pipe,
            stdout=pipe,
            stderr=errors,
            start_new_session=True,
            env=environment(given, name),
        )


def stderr(given: argparse.Namespace, name: str) -> Path:
    return given.folder / f"{name}.stderr"


def stop(process: subprocess.Popen[bytes]) -> None:
    """And whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def follow(
    process: subprocess.Popen[bytes], seconds: float, part: dict[str, Any], results: dict[str, Any], out: Path
) -> None:
    """Let one part run for so long at most; each row is written when it comes."""
    lines: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=pump, args=(process.stdout, lines), daemon=True).start()
    deadline = time.monotonic() + seconds
    try:
        with contextlib.suppress(OSError), process.stdin as door:
            door.write(b"go\n")
        while (line := lines.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
            take(json.loads(line), part, results["about"])
            write(out, results)
        code = process.wait(timeout=10)
        if code and "reason" not in part:
            part["reason"] = f"its process ended with status {code}"
        part["state"] = "failed" if code else "measured"
    except (queue.Empty, subprocess.TimeoutExpired):
        part |= {"state": "cut off", "reason": f"after {seconds:.0f} s; what had been measured is kept"}
    except ValueError as error:
        part |= {"state": "failed", "reason": f"its process printed what is no row: {error}"}
    finally:
        stop(process)


def child(given: argparse.Namespace, name: str) -> list[str]:
    small = ["--small"] if given.small else []
    return [sys.executable, __file__, "--part", name, "--folder", str(given.folder), "--device", given.device, *small]


def environment(given: argparse.Namespace, name: str) -> dict[str, str]:
    """This checkout's altdiffusion; xformers where it is asked for alone, as a broken one breaks the import of diffusers."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    if name == "xformers" and given.xformers is not None:
        paths.insert(1, str(given.xformers))
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "true"}
    return os.environ | quiet | {"PYTHONPATH": os.pathsep.join(paths)}


def pump(stream: Any, lines: queue.Queue[bytes | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def take(row: dict[str, Any], part: dict[str, Any], about: dict[str, str]) -> None:
    if "about" in row:
        about |= row["about"]
    elif "note" in row:
        part["notes"].append(row["note"])
    elif "error" in row:
        part |= {"reason": row["error"], "traceback": row["traceback"]}
    else:
        part["rows"].append(row)


# The results


def write(out: Path, results: dict[str, Any]) -> None:
    """Both files, each whole at any moment."""
    texts = {"gpu.json": json.dumps(results, indent=1, ensure_ascii=False), "gpu.md": markdown(results)}
    for name, text in texts.items():
        partial = out / f".{name}.partial"
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(out / name)


def markdown(results: dict[str, Any]) -> str:
    """The tables, as docs/benchmarks.md shows them."""
    about = dict(results["about"])
    command, date, device = (about.pop(name, "unknown") for name in ("command", "date", "device"))
    found = [f"{device}, {date}; {', '.join(f'{name} {value}' for name, value in about.items())}. `{command}`"]
    if "--small" in command:
        found.append("Tiny models, to see that everything runs: **the figures say nothing about a GPU.**")
    for name, part in results["parts"].items():
        tables: dict[str, list[dict[str, Any]]] = {}
        for row in part["rows"]:
            tables.setdefault(row["table"], []).append(row)
        found += [table_of(title, rows) for title, rows in tables.items()]
        if part["state"] not in ("measured", "running"):
            found.append(f"**{name}**: {part['state']}: {part.get('reason', '')}")
        found += [f"{name} says: {note}" for note in dict.fromkeys(part["notes"])]
    return "\n\n".join(found)


def table_of(title: str, rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.get("figures", {}))) or ["not measured"]
    lines = [f"**{title}**", "", f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        cells = [shown(row.get("figures", {}).get(name)) for name in names]
        if "reason" in row:
            cells[0] = f"not measured: {row['reason']}"
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in [row["way"], *cells]) + " |")
    return "\n".join(lines)


def shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
