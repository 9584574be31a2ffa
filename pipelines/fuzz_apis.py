"""Requests that no sane client sends, a million of them, to every endpoint of `altdiffusion serve`: none may fail there.

    python pipelines/fuzz_apis.py                               # 1,000,000; they are the same with the same --seed
    python pipelines/fuzz_apis.py --requests 20000              # the first of them; --first 10000: the second half of these
    python pipelines/fuzz_apis.py --only 4711                   # that one alone, shown

Valid requests with fields of wrong types, out of range, missing, of other APIs, nested deep; texts of any Unicode; damaged
JSON, forms and images. No image is generated: what is accepted gets a black one, so that the rest of an answer is made, too.
Whatever is answered with 500, without JSON in the API's own form, or after more than 30 s is shown with its number; status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from odd_requests import Sent, request_of
from PIL import Image

AT_ONCE = 8
SLOW = 30.0  # seconds, on a machine that does other things, too


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10**6, metavar="N", help="(default: 1000000)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="begin with this one (default: 0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    parser.add_argument("--only", type=int, metavar="N", help="the number of one")
    options = parser.parse_args()

    logging.disable(logging.ERROR)  # a line for much of what is refused
    import psutil

    from altdiffusion.web.limits import Limits
    from altdiffusion.web.model_pool import Models
    from altdiffusion.web.service import DemoService

    with tempfile.TemporaryDirectory() as folder:
        service = DemoService(Models(["mini"]), Limits(), max_waiting=20, folder=Path(folder))
        service.models.pipeline("mini")
        if options.only is not None:
            sent = request_of(options.only, options.seed, service.models.labels)
            print(sent)
            outcome = fuzz(service, [options.only], options.seed)
        else:
            started, process = time.monotonic(), psutil.Process()

            def tell(outcome: Outcome) -> None:
                memory = process.memory_info().rss / 2**20
                rate = outcome.count / (time.monotonic() - started)
                print(f"{outcome.count:,} requests, {rate:.0f} a second, {memory:.0f} MB: {outcome.line}", flush=True)

            numbers = range(options.first, options.requests)
            outcome = fuzz(service, numbers, options.seed, tell, max(1, len(numbers) // 20))
            tell(outcome)
        service.close()
    return 1 if outcome.failures else 0


@dataclass
class Outcome:
    """statuses: how many of each. failures: one line each. slowest: seconds, and its number."""

    count: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, int] = 0.0, 0

    @property
    def line(self) -> str:
        each = ", ".join(f"{count:,} x {status}" for status, count in sorted(self.statuses.items()))
        return f"{each}; the slowest, {self.slowest[1]}, took {self.slowest[0]:.1f} s; {len(self.failures)} failed"


def fuzz(
    service: Any,
    numbers: Iterable[int],
    seed: int = 0,
    tell: Callable[[Outcome], None] = lambda _: None,
    every: int = 0,
) -> Outcome:
    """Send the requests of these numbers, some at once. tell: hears of the outcome after `every` so many."""
    from altdiffusion.web.serve.app import build_app

    app, outcome, waiting = build_app(service), Outcome(), iter(numbers)

    async def send_some() -> None:
        for number in waiting:
            sent = request_of(number, seed, service.models.labels)
            started = time.monotonic()
            try:
                problem, status = check(sent, *await ask(app, sent))
            except Exception as error:
                problem, status = f"{type(error).__name__}: {error}", 500
            seconds = time.monotonic() - started
            outcome.count += 1
            outcome.statuses[status] += 1
            outcome.slowest = max(outcome.slowest, (seconds, number))
            if seconds > SLOW:
                problem = problem or f"{seconds:.1f} s"
            if problem:
                outcome.failures.append(f"--only {number} --seed {seed}: {sent.method} {sent.path}: {problem[:300]}")
                print(outcome.failures[-1], flush=True)
            if every and outcome.count % every == 0:
                tell(outcome)

    async def send_all() -> None:
        await asyncio.gather(*(send_some() for _ in range(AT_ONCE)))

    with without_models(service):
        asyncio.run(send_all())
    return outcome


async def ask(app: Any, sent: Sent) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of the answer."""
    headers = [(b"host", b"127.0.0.1"), (b"content-type", sent.content_type.encode("latin-1"))]
    headers.append((b"content-length", str(len(sent.body)).encode()))
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": sent.method, "scheme": "http",
        "path": sent.path, "raw_path": sent.path.encode("utf-8", "replace"), "query_string": sent.query, "root_path": "",
        "headers": headers, "client": (sent.client, 1), "server": ("127.0.0.1", 7860),
    }  # fmt: skip
    messages = [{"type": "http.request", "body": sent.body, "more_body": False}]
    answer: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()  # this client waits for its answer
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        answer.append(message)

    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in answer[1:])
    return answer[0]["status"], dict(answer[0]["headers"]), body


def check(sent: Sent, status: int, headers: dict[bytes, bytes], body: bytes) -> tuple[str, int]:
    """(what is wrong with an answer, "" for nothing; its status)."""
    if status < 400:
        return "", status
    try:
        told = json.loads(body) if sent.method != "HEAD" else None
    except ValueError:
        return f"{status} without JSON: {body[:100]!r}", status
    problem = ""
    if status >= 500 and not (status == 503 and int(headers.get(b"retry-after", b"0")) > 0):
        problem = f"{status}: {told}"
    elif told is not None:
        # paths that neither API has may be told in either's form
        says = told.get("error", {}).get("message") if isinstance(told.get("error"), dict) else told.get("detail")
        if not isinstance(says, str) or not says or "\n" in says:
            problem = f"{status}: {told}"
        elif sent.path.startswith("/v1/") and not isinstance(told["error"], dict):
            problem = f"{status} in the other API's form: {told}"
    return problem, status


@contextmanager
def without_models(service: Any) -> Iterator[None]:
    """Whatever is accepted gets a small black image, or cosines of 0."""
    from altdiffusion.generation.result import GeneratedImage

    def draw(pipe: Any, requests: list[Any], after_step: Any) -> list[GeneratedImage]:
        return [GeneratedImage(Image.new("RGB", (8, 8)), request.settings, False) for request in requests]

    def score(images: list[Any], prompts: list[str], model: str) -> list[list[float]]:
        return [[0.0] * len(prompts) for _ in images]

    with patch("altdiffusion.web.draw_queue.draw_batch", draw), patch.object(service, "score", score):
        yield


if __name__ == "__main__":
    sys.exit(main())
