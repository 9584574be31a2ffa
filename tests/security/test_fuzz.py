"""pipelines/fuzz.py in its short form: every parser on what failed once, and on some hundred inputs that nobody would write."""

import importlib.util
import logging
import sys
import time
from pathlib import Path

import pytest

PIPELINES = Path(__file__).parents[2] / "pipelines"


@pytest.fixture(scope="module")
def fuzz():
    """The script as a module, with its own folder on the path as if it was run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PIPELINES))
        spec = importlib.util.spec_from_file_location("fuzz", PIPELINES / "fuzz.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "fuzz", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore")
def test_no_parser_crashes_or_hangs(fuzz):
    import diffusers  # noqa: F401 before the clock of an input runs

    every = sum(parser.weight for parser in fuzz.PARSERS.values())
    failed = []
    for name, parser in fuzz.PARSERS.items():
        count, failure = fuzz.fuzz(name, max(1, round(3000 * parser.weight / every)), "short")
        assert count
        failed += [failure] if failure else []
    assert not failed, "\n".join(failed)


@pytest.mark.filterwarnings("ignore")
def test_what_failed_once_is_mended(fuzz):
    cases = list(fuzz.regressions())
    failed = [
        fuzz.report(name, given, error) for name, given in cases if (error := fuzz.try_one(fuzz.PARSERS[name], given))
    ]
    assert cases
    assert not failed, "\n".join(failed)


def test_the_fuzzer_tells_a_crash_a_hang_and_a_second_line(fuzz):
    def stall(_):
        start = time.process_time()
        while time.process_time() < start + 60:
            pass

    def raising(error):
        def run(_):
            raise error

        return fuzz.Parser(str, run)

    refused, bad_record, _ = fuzz.allowed()
    assert fuzz.try_one(raising(refused("a\nb")), "x") is None  # it spells the line break out
    for error in (
        ZeroDivisionError(),
        RecursionError(),
        MemoryError(),
        AssertionError("a property"),
        bad_record("a\nb"),
    ):
        assert fuzz.try_one(raising(error), "x") is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuzz, "HANG", 0.1)
        assert isinstance(fuzz.try_one(fuzz.Parser(str, stall), "x"), fuzz.Hang)


def test_inputs_are_functions_of_seed_parser_and_number(fuzz):
    for name, parser in fuzz.PARSERS.items():
        one, other = (repr(parser.make(fuzz.Maker(f"1:{name}:7"))) for _ in range(2))
        assert one == other, name
    assert fuzz.literal(repr(("a\ud800", b"\0", float("nan"), [1]))) is not None
