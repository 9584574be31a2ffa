"""Texts and tables on which a careless pattern or loop takes minutes: read in a second, as a stranger may send them.

A quadratic reader takes from ten seconds to hours at the lengths that a PNG's text may have.
"""

import io
import json
import signal
import tarfile

import pytest

from altdiffusion.data.line_file import LineFile
from altdiffusion.data.tar_shards import TarTable
from altdiffusion.errors import InputError
from altdiffusion.generation.infotext import read_infotext, to_command
from altdiffusion.generation.lora_triggers import trigger_words
from altdiffusion.generation.runnable import runnable
from altdiffusion.generation.settings import ImageSettings
from altdiffusion.prompt_syntax import parse_weights, stretches, take_loras
from altdiffusion.prompt_syntax.clauses import clauses_of

LONG = 60_000


@pytest.fixture(autouse=True)
def _soon():
    """10 s by this process's own clock, as other programs may have the machine."""

    def stop(*_):
        pytest.fail("over 10 s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, 10)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


INFOTEXTS = {
    "a word": "a" * LONG,
    "spaces": " " * LONG + "a",
    "words": "a " * (LONG // 2),
    "labels": "a\nSteps: 1, " + "a-b/" * (LONG // 4),
    "open quotes": "a\nSteps: 1, " + 'a: "b, ' * (LONG // 7),
    "escapes": 'a\nSteps: 1, a: "' + '\\"a: ' * (LONG // 5),
    "Steps": "Steps:" + " " * LONG,
    "nested JSON": "a\nSteps: 1, Exact prompts: " + "[" * LONG,
    "nested objects": '{"prompt":' * 20_000,
}


@pytest.mark.parametrize("text", INFOTEXTS.values(), ids=INFOTEXTS)
def test_an_infotext(text):
    read_infotext(text)


IMAGES = {
    "an open LoRA": {"prompt": "<lora:" + "a" * LONG},
    "open LoRAs": {"prompt": "a <lora:" * (LONG // 8)},
    "many LoRAs": {"prompt": "".join(f"<lora:{number}>" for number in range(LONG // 12))},
    "schedules": {"scheduler": "euler" + " karras" * (LONG // 7)},
    "a schedule's words": {"scheduler": "euler" + "_ays" * (LONG // 4) + "!"},
    "a long model": {"model": "a/" * LONG},
    "the whole disk's LoRAs": {"prompt": "a <lora:x:1>", "lora_dir": "/"},
}


@pytest.mark.parametrize("values", IMAGES.values(), ids=IMAGES)
def test_settings_of_an_image(values):
    settings = ImageSettings.model_construct(**({"prompt": "a cat"} | values))
    runnable(settings)
    to_command(settings)


PROMPTS = {
    "spaces before a break": "BREAK" + " " * LONG + "a",
    "open brackets": "(a" * (LONG // 4),
    "both brackets": "[a(" * (LONG // 6) + ")" * (LONG // 6),
    "closing": "(" * 100 + "a)" * (LONG // 2),
    "backslashes": "\\" * LONG,
    "colons": "(a" + ":" * LONG,
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_a_lenient_prompt(prompt):
    take_loras(prompt, lenient=True)
    parse_weights(prompt, lenient=True)


@pytest.mark.parametrize("text", ["." * LONG, ", " * (LONG // 2), "a` `` " * (LONG // 6), "猫 a" * (LONG // 10)])
def test_clauses_and_stretches(text):
    clauses_of(text)
    if "`" not in text:
        stretches(text[: LONG // 4], holes=True)


@pytest.mark.parametrize("unit", ["(", "(a", "[a(", "<lora:"])
def test_a_loras_trigger_phrase(tmp_path, unit):
    header = json.dumps({"__metadata__": {"modelspec.trigger_phrase": unit * LONG}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert len(trigger_words(tmp_path / "x.safetensors")) <= 50


@pytest.mark.parametrize("line", [b'x"\t"""\n', b'"a\n', b'\t"a""\n', b'""\t"\n'])
@pytest.mark.parametrize("start", [b"", b'\t"a\n'])
def test_a_table_whose_quotes_never_close(tmp_path, line, start):
    (tmp_path / "x.tsv").write_bytes(b"en\tzh\n" + start + line * (LONG // len(line)))
    records = list(LineFile(tmp_path / "x.tsv").records())
    assert b"".join(records) == start + line * (LONG // len(line))


def header(name, size=0, kind=b"0"):
    """A tar header with this size, which may be negative or huge: GNU's binary form."""
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (size % 256**12).to_bytes(12, "big") if size < 0 else bytes([128]) + size.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


TARS = {
    "a negative size": header("a.txt", -512) * 3,
    "a negative long name": header("a", -512, b"L") * 3,
    "a huge long name": header("a", 2**62, b"L"),
    "huge attributes": header("a", 2**40, b"x"),
    "a name of names": header("a", 1, b"L") * 3000,
    "attributes of digits": header("a", 10**6, b"x") + b"1" * (10**6 + 448),
    "a sparse map without an end": header("a", 512, b"x")
    + b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n".ljust(512, b"\0")
    + header("b", 512) + b"9" * 512,
    "a size beyond numbers": header("a.txt", 2**70),
}  # fmt: skip


@pytest.mark.parametrize("content", TARS.values(), ids=TARS)
def test_a_tar_without_an_end(tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content + bytes(1024))
    with pytest.raises(InputError, match="tar"):
        TarTable(tmp_path / "x.tar", [], images=False, skip=lambda *_: None)


def test_tar_headers_of_real_files_are_read(tmp_path):
    """Names as long as systems allow them, and attributes beside."""
    name = "/".join(["猫" * 60] * 10) + ".txt"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        member = tarfile.TarInfo(name)
        member.size, member.pax_headers = 5, {"SCHILY.xattr.user.note": "x" * 4000}
        with tarfile.open(tmp_path / "x.tar", "w", format=form) as tar:
            tar.addfile(member, io.BytesIO(b"a cat"))
        assert TarTable(tmp_path / "x.tar", [], images=False, skip=lambda *_: None)[0] == {"caption": "a cat"}
