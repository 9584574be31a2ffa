"""The demo under load: `altdiffusion demo` in a process of its own, and visitors who want images.

    python pipelines/load_test_demo.py                          # 50 visitors for 2 minutes, a queue of 10
    python pipelines/load_test_demo.py --seconds 20 --requests 100

It tells how many got an image or "the queue is full", how many were lost (none may be), whether who cancelled freed the
place, how much faster 8 waiting visitors are served together than one by one, and the server's memory as requests go by.
Status 1 where a promise isn't kept: nobody lost, 1.5 times the throughput, memory flat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from typing import Any

import httpx

PROMPTS = ("一只猫", "a dog", "红苹果", "кошка", "قطة", "una pizza", "un château")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=50, metavar="N", help="at once (default: 50)")
    parser.add_argument("--seconds", type=float, default=120, metavar="S", help="(default: 120)")
    parser.add_argument("--max-queue", type=int, default=10, metavar="N", help="that may wait (default: 10)")
    parser.add_argument("--requests", type=int, default=500, metavar="N", help="for the memory (default: 500; 0: skip)")
    parser.add_argument("--steps", type=int, default=15, metavar="N", help="of each image (default: 15)")
    parser.add_argument("--cancel", type=float, default=0.1, metavar="X", help="fraction that cancels (default: 0.1)")
    parser.add_argument("--model", default="mini", metavar="M", help="(default: mini)")
    parser.add_argument("--port", type=int, default=7999, metavar="N", help="(default: 7999)")
    options = parser.parse_args()

    url = f"http://127.0.0.1:{options.port}"
    command = [sys.executable, "-m", "altdiffusion.cli", "demo", "--port", str(options.port), "--models", options.model]
    server = subprocess.Popen([*command, "--max-queue", str(options.max_queue)], stdout=subprocess.DEVNULL)
    try:
        started = time.monotonic()
        while not _answers(url):
            if server.poll() is not None or time.monotonic() - started > 120:
                print("the server did not start", file=sys.stderr)
                return 1
            time.sleep(0.2)
        print(f"served after {time.monotonic() - started:.1f} s")
        return asyncio.run(load(url, server.pid, options))
    finally:
        server.terminate()
        server.wait(timeout=30)


async def load(url: str, pid: int, options: argparse.Namespace) -> int:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=f"{url}/gradio_api", timeout=300, limits=limits) as http:
        config = (await http.get(f"{url}/config")).json()
        draw = next(each["id"] for each in config["dependencies"] if each["api_name"] == "draw")
        visitor = Visitor(http, draw, options.steps)
        first = time.monotonic()
        assert await visitor.draw() == "image"
        print(f"the first image, with loading: {time.monotonic() - first:.1f} s")
        kept = [
            await together(visitor),
            await crowd(visitor, options, url),
            await memory(visitor, pid, options.requests),
        ]
    return 0 if all(kept) else 1


class Visitor:
    """Asks as the browser does: joins the queue, listens, perhaps cancels."""

    def __init__(self, http: httpx.AsyncClient, function: int, steps: int) -> None:
        self.http, self.function, self.steps = http, function, steps

    async def draw(self, cancel_after: float | None = None) -> str:
        """ "image", "full", "cancelled", or what else came."""
        session = secrets.token_hex(6)
        data = [random.choice(PROMPTS), "", "", str(secrets.randbelow(2**32)), self.steps, 7.5, 0, 0, "", 1, 0]
        body = {"data": data, "fn_index": self.function, "session_hash": session}
        joined = await self.http.post("/queue/join", json=body)
        if joined.status_code != 200:
            return "full" if "full" in joined.text.lower() else f"status {joined.status_code}"
        event = joined.json()["event_id"]
        if cancel_after is None:
            return await self._listen(session)
        listening = asyncio.create_task(self._listen(session))
        await asyncio.sleep(cancel_after)
        cancel = {"session_hash": session, "fn_index": self.function, "event_id": event}
        await self.http.post("/cancel", json=cancel)
        outcome = await listening
        return outcome if outcome in ("image", "full") else "cancelled"

    async def _listen(self, session: str) -> str:
        async with self.http.stream("GET", "/queue/data", params={"session_hash": session}) as stream:
            async for line in stream.aiter_lines():
                if not line.startswith("data:"):
                    continue
                message: dict[str, Any] = json.loads(line[5:])
                if message["msg"] == "process_completed":
                    output = message.get("output") or {}
                    if message["success"] and output.get("data"):
                        return "image"
                    text = str(output.get("error"))
                    return "full" if "full" in text else text
                if message["msg"] == "close_stream":
                    break
        return "nothing"


async def together(visitor: Visitor, count: int = 8) -> bool:
    """Eight who wait together, beside eight one after the other."""
    started = time.monotonic()
    for _ in range(count):
        assert await visitor.draw() == "image"
    alone = time.monotonic() - started
    started = time.monotonic()
    assert await asyncio.gather(*(visitor.draw() for _ in range(count))) == ["image"] * count
    both = time.monotonic() - started
    print(f"{count} images one by one: {alone:.1f} s, waiting together: {both:.1f} s, {alone / both:.2f} times as fast")
    return alone / both >= 1.5


async def crowd(visitor: Visitor, options: argparse.Namespace, url: str) -> bool:
    """Many at once, some of whom cancel; who is told that the queue is full comes back a moment later."""
    outcomes: Counter[str] = Counter()
    waits: list[float] = []
    ends = time.monotonic() + options.seconds

    async def visit() -> None:
        while time.monotonic() < ends:
            asked = time.monotonic()
            cancels = random.random() < options.cancel
            try:
                outcome = await visitor.draw(random.uniform(0, 3) if cancels else None)
            except httpx.HTTPError as error:
                outcome = type(error).__name__
            outcomes[outcome] += 1
            if outcome == "image":
                waits.append(time.monotonic() - asked)
            elif outcome == "full":
                await asyncio.sleep(random.uniform(0.5, 2))

    await asyncio.gather(*(visit() for _ in range(options.visitors)))
    lost = {outcome: count for outcome, count in outcomes.items() if outcome not in ("image", "full", "cancelled")}
    waits.sort()
    print(f"{options.visitors} visitors for {options.seconds:.0f} s, a queue of {options.max_queue}: {dict(outcomes)}")
    if waits:
        print(f"waited for an image: median {waits[len(waits) // 2]:.1f} s, longest {waits[-1]:.1f} s")
    started = time.monotonic()
    after = await visitor.draw()
    print(
        f"lost: {sum(lost.values())} {lost or ''}; a visitor afterwards: {after} in {time.monotonic() - started:.1f} s"
    )
    return not lost and bool(waits) and after == "image" and _answers(url)


async def memory(visitor: Visitor, pid: int, requests: int) -> bool:
    """Resident memory of the server after each tenth of the requests; flat: the second half adds less than 5 %."""
    if not requests:
        return True
    sizes = []
    for tenth in range(10):
        for start in range(0, requests // 10, 5):
            await asyncio.gather(*(visitor.draw() for _ in range(min(5, requests // 10 - start))))
        sizes.append(_resident(pid))
        print(f"after {(tenth + 1) * (requests // 10)} requests: {sizes[-1]:.0f} MB", flush=True)
    return sizes[-1] < 1.05 * sizes[4]


def _resident(pid: int) -> float:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/config", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
