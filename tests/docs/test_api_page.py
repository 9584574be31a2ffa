"""The curl lines of docs/api.md work, one after the other, against served APIs."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import web_server

pytest.importorskip("fastapi", reason="the APIs need FastAPI: pip install altdiffusion[serve]")

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
LINES = [line for block in BLOCKS for line in block.splitlines() if "curl" in line]
ADDRESS = "http://127.0.0.1:7860"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_lines_work(tmp_path):
    assert len(LINES) >= 10
    with web_server.apis_served(tmp_path / "models", port=0) as url:
        for line in LINES:
            asked = line.replace(ADDRESS, url).replace('"mini"', '"alt-small"')
            done = subprocess.run(["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, (line, done.stderr)
            answer = json.loads(done.stdout) if done.stdout else {}
            assert not (isinstance(answer, dict) and {"error", "detail"} & set(answer)), (line, done.stdout)
    assert (tmp_path / "cat.png").is_file()
