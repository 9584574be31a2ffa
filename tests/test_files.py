"""Paths from names, whatever the locale's encoding is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from altdiffusion.files import as_json, as_utf8
from altdiffusion.settings import Settings, setting

NAMES = ["一只猫", "café", "قطة", "😀", "plain"]
SCRIPT = """
import sys
from altdiffusion.files import as_utf8, local_path, write_text
for word in sys.argv[1:]:
    write_text(local_path(as_utf8(word)), as_utf8(word))
    assert local_path(word).read_text(encoding="utf-8") == as_utf8(word)
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.skipif(sys.platform == "win32", reason="file names are Unicode there")
@pytest.mark.parametrize("locale", [ASCII, {"PYTHONUTF8": "1"}])
def test_names_in_every_script_are_utf_8_on_the_disk(tmp_path, locale):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *NAMES], env=os.environ | locale, cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert {os.fsencode(path.name) for path in tmp_path.iterdir()} == {name.encode() for name in NAMES}
    assert all(path.read_text(encoding="utf-8") == path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("word", NAMES)
def test_what_an_ascii_locale_left_as_bytes_is_read(word):
    assert as_utf8(word.encode().decode("ascii", "surrogateescape")) == as_utf8(word) == word


@pytest.mark.parametrize("word", ["\udcb9\udcb7", "a\udcff", "half \ud83d"])
def test_what_is_no_utf_8_stays(word):
    assert as_utf8(word) == word


@pytest.mark.parametrize("name", ["猫", "\udce7\udc8c\udcab", "\udcb9\udcb7"])
def test_settings_are_saved_whatever_bytes_their_paths_hold(name):
    class Some(Settings):
        folder: Path = setting(Path("."), "a folder")

    saved = json.loads(Some(folder=name).save_as_json().encode())
    assert saved["folder"] == as_utf8(name)


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "latin-1", "utf-8"])
@pytest.mark.parametrize("name", NAMES)
def test_json_is_in_the_letters_of_an_encoding(encoding, name):
    assert json.loads(as_json([name], encoding).encode(encoding).decode(encoding)) == [name]
