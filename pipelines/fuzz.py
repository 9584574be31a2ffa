"""Every parser of this project on inputs that nobody would write: a crash, a hang or a wrong property ends the run.

    python pipelines/fuzz.py --runs 3000                      # all parsers, half a minute
    python pipelines/fuzz.py --runs 1000000 --seed 7          # all, an hour
    python pipelines/fuzz.py --runs 50000 --only infotext     # one; --list names them
    python pipelines/fuzz.py --only infotext --input "'a\\nSteps: 1'"   # what a failure printed, again
    python pipelines/fuzz.py --runs 50000 --only infotext --coverage    # steered by coverage (pip install atheris)

A parser may refuse an input by `InputError` (or by what its docstring names), in one line, and within 5 seconds. Inputs are
pure functions of the seed, the parser's name and their number. Seeds are in tests/corpora/; what failed once, and was mended,
is in tests/corpora/regressions.jsonl, and is tried first.
"""

from __future__ import annotations

import argparse
import ast
import faulthandler
import json
import logging
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

if "--coverage" in sys.argv:  # what is measured must be imported so
    import atheris

    with atheris.instrument_imports(include=["altdiffusion"]):
        import fuzzing.parsers  # noqa: F401
from fuzzing.inputs import CORPORA, Maker
from fuzzing.parsers import PARSERS, Parser, allowed

HANG = 5.0  # seconds that an input may take
REGRESSIONS = CORPORA / "regressions.jsonl"


class Hang(BaseException):
    """An input takes longer than it may."""


@contextmanager
def no_hang(seconds: float) -> Iterator[None]:
    """Raises Hang after so many seconds of this process's time; ends it after minutes by the clock, should C code hang."""

    def stop(*_: object) -> None:
        raise Hang(f"over {seconds:g} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    faulthandler.dump_traceback_later(60 * max(1, seconds), exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGPROF, before)


def try_one(parser: Parser, given: Any) -> BaseException | None:
    """What was wrong when a parser read an input; None for nothing."""
    try:
        with no_hang(HANG):
            parser.run(given)
    except allowed() as error:
        lines = str(error).splitlines()
        return None if len(lines) <= 1 else AssertionError(f"an error of {len(lines)} lines: {error!s:.500}")
    except (Exception, Hang, RecursionError, MemoryError) as error:
        return error
    return None


def report(name: str, given: Any, error: BaseException) -> str:
    """A failure as a person mends it: the trace, the input, and the line for the regressions."""
    trace = "".join(traceback.format_exception(error)[-12:])
    line = json.dumps({"parser": name, "input": repr(given)})
    return (
        f"{trace}\nparser {name}, input {given!r:.2000}\n\n{line}"
        if len(line) < 5000
        else f"{trace}\nparser {name}, {len(line)} characters: {line[:2000]} ... {line[-200:]}"
    )


def regressions() -> Iterator[tuple[str, Any]]:
    """(parser, input) of all that failed once."""
    for line in REGRESSIONS.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        yield case["parser"], literal(case["input"])


def literal(written: str) -> Any:
    """An input as `repr` writes it; `"a" * 9` stands for a long one, and nan and inf for themselves."""
    return eval(
        compile(ast.parse(written, mode="eval"), "input", "eval"),
        {"__builtins__": {}},
        {"nan": float("nan"), "inf": float("inf")},
    )


def fuzz(name: str, runs: int, seed: str) -> tuple[int, str | None]:
    """How many inputs a parser has read, and the report of the first failure, if there is one."""
    parser = PARSERS[name]
    for number in range(runs):
        given = parser.make(Maker(f"{seed}:{name}:{number}"))
        if error := try_one(parser, given):
            return number + 1, report(name, given, error)
    return runs, None


def fuzz_by_coverage(name: str, runs: int, seed: str) -> None:
    """The same by atheris, whose bytes choose what is made; ends the process."""
    parser = PARSERS[name]

    def one(data: bytes) -> None:
        given = parser.make(Maker(data.hex()))
        if error := try_one(parser, given):
            print(report(name, given, error), flush=True)
            raise error

    atheris.Setup([sys.argv[0], f"-runs={runs}", f"-seed={abs(hash(seed)) % 2**31}"], one)
    atheris.Fuzz()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=10_000, help="inputs over all parsers")
    options.add_argument("--seed", default="0")
    options.add_argument("--only", choices=sorted(PARSERS), action="append", help="a parser; may be repeated")
    options.add_argument("--input", help="one input, as a failure printed it")
    options.add_argument("--coverage", action="store_true", help="by atheris, of one parser")
    options.add_argument("--light", action="store_true", help="the parsers that need no torch")
    options.add_argument("--keep-going", action="store_true", help="after a failure with the next parser")
    options.add_argument("--list", action="store_true")
    given = options.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")
    names = given.only or [name for name, parser in PARSERS.items() if not (given.light and parser.needs_torch)]
    if given.list:
        print("\n".join(names))
        return 0
    if any(PARSERS[name].needs_torch for name in names):
        import diffusers  # noqa: F401 which takes longer than an input may
    if given.input is not None:
        error = try_one(PARSERS[names[0]], literal(given.input))
        print(report(names[0], given.input, error) if error else "nothing is wrong")
        return error is not None
    if given.coverage:
        fuzz_by_coverage(names[0], given.runs, given.seed)
    for name, known in regressions():
        if name in names and (error := try_one(PARSERS[name], known)):
            print(report(name, known, error))
            return 1
    failed: list[str] = []
    total, every = 0, sum(PARSERS[name].weight for name in names)
    for name in names:
        start = time.process_time()
        count, failure = fuzz(name, max(1, round(given.runs * PARSERS[name].weight / every)), given.seed)
        total += count
        print(f"{name:20} {count:9,} inputs, {1000 * (time.process_time() - start) / count:.2f} ms each", flush=True)
        if failure:
            print(failure, flush=True)
            failed.append(name)
            if not given.keep_going:
                break
    print(f"{'all':20} {total:9,} inputs, {f'failed: {failed}' if failed else 'no crash, no hang'}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
