"""pipelines/measure_gpu.py on a CPU: its short form as a whole, and its runner with parts that only print."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "pipelines" / "measure_gpu.py"
PARTS = ["generation", "xformers", "memory and attention", "text states and scoring", "training"]
pytestmark = pytest.mark.long
ROW = '{"table": "T", "way": "w", "figures": {"s": 1.5}}'
SAY = f"print('{ROW}', flush=True)"
# The script with other processes in the place of its parts', by name.
DRIVER = """
import sys
sys.path.insert(0, {folder!r})
import measure_gpu
bodies, fractions = {bodies!r}, {fractions!r}
measure_gpu.PARTS.update({{name: ("", fraction) for name, fraction in fractions.items()}})
measure_gpu.child = lambda given, name: [sys.executable, "-c", bodies.get(name, {default!r})]
measure_gpu.main()
"""


def start(out: Path, *arguments: str, fractions: dict[str, float] | None = None, **bodies: str) -> subprocess.Popen:
    """The runner, whose parts run `bodies`; by default each prints a row."""
    named = {name.replace("_", " "): body for name, body in bodies.items()}
    code = DRIVER.format(folder=str(SCRIPT.parent), bodies=named, fractions=fractions or {}, default=SAY)
    command = [sys.executable, "-c", code, "--out", str(out), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen, out: Path) -> dict:
    """The parts that it wrote."""
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return json.loads((out / "gpu.json").read_text(encoding="utf-8"))["parts"]


@pytest.fixture(scope="module")
def short_form(tmp_path_factory):
    out = tmp_path_factory.mktemp("short")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--small", "--budget-seconds", "3600", "--out", str(out)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return out


def test_the_short_form_measures_every_part_or_says_why_not(short_form):
    results = json.loads((short_form / "gpu.json").read_text(encoding="utf-8"))
    assert list(results["parts"]) == PARTS
    for name, part in results["parts"].items():
        assert part["state"] == "measured", (name, part.get("reason"), part.get("stderr"))
        assert part["rows"], name
        assert all(row.get("figures") or row.get("reason") for row in part["rows"]), name
    rows = [row for part in results["parts"].values() for row in part["rows"]]
    reasons = {row["way"] for row in rows if "reason" in row}
    assert {way for way in reasons if "xformers" not in way} == {  # what has no place but on a GPU
        'ours, optimize(compile="graphs")',
        'ours, low_memory="stream"',
        "stock, enable_model_cpu_offload()",
        "stock, enable_sequential_cpu_offload()",
    }
    trained = {row["table"].split()[1] for row in rows if row["way"] == "altdiffusion train" and "figures" in row}
    assert trained == {"bridge,", "align,", "distill,", "contrast,"}


def test_the_short_forms_images_and_text_states_are_stocks(short_form):
    parts = json.loads((short_form / "gpu.json").read_text(encoding="utf-8"))["parts"]
    equality = {row["way"]: row["figures"] for row in parts["generation"]["rows"] if "Equality" in row["table"]}
    assert equality["ours, optimize()"]["largest"] < 1  # steps of 0 to 255
    assert equality["ours, optimize()"]["standard deviation of the image"] > 5  # there is something to compare
    states = [row["figures"] for row in parts["text states and scoring"]["rows"] if "Text states" in row["table"]]
    assert max(figures["largest difference of the states"] for figures in states) < 1e-5


def test_the_tables_for_the_documentation_hold_every_row(short_form):
    parts = json.loads((short_form / "gpu.json").read_text(encoding="utf-8"))["parts"]
    text = (short_form / "gpu.md").read_text(encoding="utf-8")
    assert "say nothing about a GPU" in text
    for row in (row for part in parts.values() for row in part["rows"]):
        assert f"**{row['table']}**" in text
        assert f"| {row['way']} |" in text


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise SystemExit(3)", "status 3"),
        ("import os; os.kill(os.getpid(), 9)", "status -9"),
        ("print('no row', flush=True)", "what is no row"),
        ("""print('{"error": "ValueError: broken", "traceback": ""}', flush=True); raise SystemExit(1)""", "broken"),
    ],
)
def test_a_part_that_fails_is_named_and_the_others_go_on(tmp_path, body, why):
    parts = finish(start(tmp_path, memory_and_attention=f"{SAY}\n{body}"), tmp_path)
    failed = parts.pop("memory and attention")
    assert failed["state"] == "failed"
    assert why in failed["reason"]
    assert failed["rows"] == [json.loads(ROW)]  # what it had measured
    assert {part["state"] for part in parts.values()} == {"measured"}
    assert why in (tmp_path / "gpu.md").read_text(encoding="utf-8")


def test_what_no_time_is_left_for_is_skipped_by_name(tmp_path):
    process = start(
        tmp_path,
        *("--budget-seconds", "2", "--parts", "generation", "training"),
        fractions={"generation": 1.0},
        generation=f"import time\n{SAY}\ntime.sleep(60)",
    )
    parts = finish(process, tmp_path)
    assert parts["generation"]["state"] == "cut off"
    assert parts["generation"]["rows"] == [json.loads(ROW)]
    assert parts["training"]["state"] == "skipped"
    assert "budget of 2 s" in parts["training"]["reason"]
    assert "**training**: skipped" in (tmp_path / "gpu.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_measured_survives_a_kill(tmp_path, number):
    marker = tmp_path / "second"
    second = f"import pathlib, sys, time\nsys.stdin.readline()\npathlib.Path({str(marker)!r}).touch()\ntime.sleep(3)"
    process = start(tmp_path / "out", xformers=second)
    deadline = time.monotonic() + 30
    while not marker.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=30)
    parts = json.loads((tmp_path / "out" / "gpu.json").read_text(encoding="utf-8"))["parts"]
    assert parts["generation"] | {"seconds": 0} == {
        "state": "measured",
        "rows": [json.loads(ROW)],
        "notes": [],
        "seconds": 0,
    }
    assert "| w | 1.5 |" in (tmp_path / "out" / "gpu.md").read_text(encoding="utf-8")


def test_wheels_are_what_is_missing_there_and_nothing_else(tmp_path):
    have = tmp_path / "there.txt"
    have.write_text("torch 2.11.0+cu130\nTransformers==5.17.0\nimportlib_metadata==8.0\npillow\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--wheels", "--have", str(have)], capture_output=True, text=True
    )
    first, second = (line.split() for line in done.stdout.splitlines())
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    names = first[first.index(".whl") + 1 :]
    assert {"diffusers", "accelerate"} <= {name.partition("==")[0] for name in names}
    assert not {"torch", "transformers", "importlib-metadata", "pillow"} & {name.partition("==")[0] for name in names}
    assert next(name for name in names if name.startswith("diffusers")) in constraints
    assert second[-1].startswith("xformers")
