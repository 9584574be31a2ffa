"""Processes of their own, to be killed, to work together or to know nothing of altdiffusion, without importing torch each time.

A server imports everything once, before any thread of torch's has started, and forks for every run.

    Forks().run("train", "distill", ..., kill_after=0.5)            # the command line
    Forks("diffusers").run_script("import diffusers; ...", folder)   # a script of plain diffusers
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Done:
    status: list[int]  # of each process: its exit status, or minus the signal that ended it
    seconds: float
    stdout: str
    stderr: str


class Forks:
    """The server's client. It starts with the first run."""

    def __init__(self, imports: str = "altdiffusion") -> None:
        """imports: what the server has imported, "altdiffusion" or "diffusers" alone."""
        self._imports = imports
        self._server: subprocess.Popen[str] | None = None

    def run(self, *words: object, **options: Any) -> Done:
        """Run `altdiffusion` with these words. options:

        processes: how many work together, as `accelerate launch` starts them.
        kill_after: seconds until SIGKILL. kill_at: a function, "module:name", and which of its calls meets SIGKILL, or the
        signal `sign`, before it begins.
        limit: bytes that any file may have, as on a full disk.
        """
        return self._ask({"words": [str(word) for word in words], **options})

    def run_script(self, script: str, *words: object, **options: Any) -> Done:
        """Run Python code with these words as sys.argv[1:]. options: as in `run`."""
        return self._ask({"words": [str(word) for word in words], "script": script, **options})

    def _ask(self, job: dict[str, Any]) -> Done:
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, __file__, self._imports], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=os.environ | ({"OMP_NUM_THREADS": "1"} if self._imports == "altdiffusion" else {}),
            )  # fmt: skip
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return Done(**json.loads(self._server.stdout.readline()))

    def close(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()


def _serve(imports: str) -> None:
    if imports == "diffusers":
        from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline  # noqa: F401
        from transformers import AltCLIPTextModel, CLIPTextModel, XLMRobertaTokenizer  # noqa: F401
    else:
        import accelerate.state  # noqa: F401
        import torch.utils.tensorboard  # noqa: F401

        import altdiffusion.training.stages.distill  # noqa: F401
        from altdiffusion.cli.main import prepare_environment

        prepare_environment()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        count = job.get("processes", 1)
        with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            free.close()
            started = time.monotonic()
            children = [_fork(job, rank, count, port, Path(folder)) for rank in range(count)]
            if "kill_after" in job:
                time.sleep(job["kill_after"])
                for child in children:
                    os.kill(child, signal.SIGKILL)
            status = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            told = [
                "".join((Path(folder) / f"{name}-{rank}").read_text() for rank in range(count))
                for name in ("stdout", "stderr")
            ]
            answers.write(json.dumps(vars(Done(status, time.monotonic() - started, *told))) + "\n")
            answers.flush()


def _fork(job: dict[str, Any], rank: int, count: int, port: int, folder: Path) -> int:
    child = os.fork()
    if child:
        return child
    status = 70
    signal.alarm(300)  # a run that hangs ends as -14
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / f"{name}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        if count > 1:
            os.environ |= {
                "RANK": f"{rank}",
                "LOCAL_RANK": f"{rank}",
                "WORLD_SIZE": f"{count}",
                "MASTER_PORT": f"{port}",
            }
            os.environ |= {"LOCAL_WORLD_SIZE": f"{count}", "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
        if "limit" in job:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
        if "kill_at" in job:
            _arm(*job["kill_at"], job.get("sign", signal.SIGKILL))
        if "script" in job:
            sys.argv = ["-c", *job["words"]]
            exec(job["script"], {"__name__": "__main__"})
            status = 0
        else:
            from altdiffusion.cli.main import main

            status = main(job["words"])
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _arm(function: str, call: int, sign: int) -> None:
    module, _, name = function.partition(":")
    real, calls = getattr(importlib.import_module(module), name), []

    def deadly(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), sign)
        return real(*args, **kwargs)

    setattr(sys.modules[module], name, deadly)


if __name__ == "__main__":
    _serve(sys.argv[1])
