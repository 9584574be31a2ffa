"""`altdiffusion serve` under load, in a process of its own: clients of both APIs who want images, and what the APIs cost.

    python pipelines/load_test_apis.py                          # 50 clients for 2 minutes, a queue of 10
    python pipelines/load_test_apis.py --short                  # the same in seconds, without judging the times

It tells what a request costs beside the work that the service does for it, measured on a service that gets its image at once;
how many clients got an image or "the queue is full" (503, with Retry-After), and that nobody got anything else; and the
server's memory after 100 requests and at the end. Status 1 where a promise isn't kept: under 2 ms, nobody lost, memory flat.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import math
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx

PROMPTS = ("一只猫", "a dog", "红苹果", "кошка", "قطة", "una pizza", "un château")
MOST_ADDED = 2.0  # milliseconds
MOST_GROWN = 1.05  # times the memory after 100 requests


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50, metavar="N", help="at once (default: 50)")
    parser.add_argument("--seconds", type=float, default=120, metavar="S", help="(default: 120; 0: skip)")
    parser.add_argument("--max-queue", type=int, default=10, metavar="N", help="that may wait (default: 10)")
    parser.add_argument(
        "--requests", type=int, default=1000, metavar="N", help="for the memory (default: 1000; 0: skip)"
    )
    parser.add_argument("--steps", type=int, default=15, metavar="N", help="of each image (default: 15)")
    parser.add_argument("--model", default="mini", metavar="M", help="(default: mini)")
    parser.add_argument("--short", action="store_true", help="8 clients for 3 seconds, 20 requests, 1 step")
    options = parser.parse_args()
    if options.short:
        options.clients, options.seconds, options.max_queue, options.requests, options.steps = 8, 3, 2, 20, 1
    with loaded_service(options.model) as service:
        kept = [added(service, 20 if options.short else 200) < MOST_ADDED or options.short]
    with served(options) as url:
        kept += asyncio.run(load(url, options))
    return 0 if all(kept) else 1


@contextmanager
def served(options: argparse.Namespace) -> Iterator[str]:
    """The address of a server in a process of its own."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "altdiffusion.cli", "serve", "--port", str(port), "--models", options.model]
    server = subprocess.Popen([*command, "--max-queue", str(options.max_queue)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        if "/docs" not in server.stdout.readline():  # which it prints once it is served
            raise SystemExit("the server did not start")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


@contextmanager
def loaded_service(model: str) -> Iterator[Any]:
    """What the APIs call, in this process."""
    from altdiffusion.web.limits import Limits
    from altdiffusion.web.model_pool import Models
    from altdiffusion.web.service import DemoService

    with tempfile.TemporaryDirectory() as folder:
        service = DemoService(Models([model]), Limits(), max_waiting=5, folder=Path(folder))
        service.models.pipeline(model)
        yield service
        service.close()


def added(service: Any, rounds: int) -> float:
    """Milliseconds that a request over HTTP takes, client included, beyond the service's own work for the same image: reading
    the settings, its queue, and the file with settings and label inside. The image is there at once.

    By the clock, the fastest of each; and processor time, the mean, which other programs on the machine make less longer.
    """
    from PIL import Image

    from altdiffusion.generation.result import GeneratedImage, encoded
    from altdiffusion.web.service import Unsaved

    image = Image.effect_noise((64, 64), 60).convert("RGB")
    settings = {"prompt": "一只猫在海边的城堡前", "seed": 1, "steps": 25, "width": 64, "height": 64}
    of_openai = {"prompt": settings["prompt"], "seed": 1, "size": "64x64"}

    def draw(pipe: Any, requests: list[Any], after_step: Any) -> list[GeneratedImage]:
        return [GeneratedImage(image, request.settings, False) for request in requests]

    async def work() -> None:
        async for news in service.generate_unsaved(service.read_request(settings), scored=False):
            if isinstance(news, Unsaved):
                await asyncio.to_thread(encoded, news.images[0])

    with (
        patch("altdiffusion.web.draw_queue.draw_batch", draw),
        served_here(service) as post,
        asyncio.Runner() as runner,
    ):
        ways = {
            "the service's work": lambda: runner.run(work()),
            "txt2img": lambda: post("/sdapi/v1/txt2img", settings),
            "generations": lambda: post("/v1/images/generations", of_openai),
        }
        times = in_turns(ways, rounds)
    (_, (own_spent, own)), *requests = times.items()
    told = "".join(f"; {name} adds {clock - own:.2f} ms ({spent - own_spent:.2f})" for name, (spent, clock) in requests)
    about = f"without generating, the fastest of {rounds} and mean processor time"
    print(f"{about}: the service's work takes {own:.2f} ms ({own_spent:.2f}){told}", flush=True)
    return max(clock for _, (_, clock) in requests) - own


def in_turns(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """(mean processor time of this process, fastest time by the clock), in milliseconds, of each way."""
    spent, clock = {name: 0.0 for name in ways}, {name: math.inf for name in ways}
    for turn in range(-5, rounds):  # the first warm up
        for name, way in ways.items():
            began, started = time.process_time(), time.perf_counter()
            way()
            seconds, used = time.perf_counter() - started, time.process_time() - began
            if turn >= 0:
                spent[name] += 1000 * used / rounds
                clock[name] = min(clock[name], 1000 * seconds)
    return {name: (spent[name], clock[name]) for name in ways}


@contextmanager
def served_here(service: Any) -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """A function that posts to the APIs over a service, served in this process, and reads the answer."""
    import uvicorn

    from altdiffusion.web.serve.app import build_app

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = uvicorn.Server(uvicorn.Config(build_app(service), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    client = http.client.HTTPConnection(*listener.getsockname())

    def post(path: str, body: dict[str, Any]) -> None:
        client.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = client.getresponse()
        content = answer.read()
        assert answer.status == 200, content

    try:
        yield post
    finally:
        client.close()
        server.should_exit = True
        thread.join(timeout=10)


async def load(url: str, options: argparse.Namespace) -> list[bool]:
    """Whether each promise is kept."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        assert await draw(client, options.steps) == "image"  # the model is loaded
        kept = [await crowd(client, options)] if options.seconds else []
        return [*kept, await memory(client, options)] if options.requests else kept


async def draw(client: httpx.AsyncClient, steps: int) -> str:
    """ "image", "full", or what else came. One API or the other."""
    asked = {"prompt": random.choice(PROMPTS), "steps": steps}
    if random.random() < 0.5:
        answer = await client.post("/sdapi/v1/txt2img", json=asked)
    else:
        answer = await client.post("/v1/images/generations", json=asked)
    told = answer.json()
    if answer.status_code == 200:
        return "image" if (told.get("images") or told["data"][0]["b64_json"]) else "nothing"
    if answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0 and "full" in answer.text:
        await asyncio.sleep(random.uniform(0.2, 1) * int(answer.headers["Retry-After"]))
        return "full"
    return f"status {answer.status_code}"


async def crowd(client: httpx.AsyncClient, options: argparse.Namespace) -> bool:
    """Many at once; who is told that the queue is full comes back about when it is told to."""
    outcomes: Counter[str] = Counter()
    waits: list[float] = []
    ends = time.monotonic() + options.seconds

    async def visit() -> None:
        while (began := time.monotonic()) < ends:
            try:
                outcome = await draw(client, options.steps)
            except httpx.HTTPError as error:
                outcome = type(error).__name__
            outcomes[outcome] += 1
            if outcome == "image":
                waits.append(time.monotonic() - began)

    await asyncio.gather(*(visit() for _ in range(options.clients)))
    lost = {outcome: count for outcome, count in outcomes.items() if outcome not in ("image", "full")}
    waits.sort()
    asked = f"{options.clients} clients for {options.seconds:.0f} s, a queue of {options.max_queue}"
    print(f"{asked}: {dict(outcomes)}; lost: {lost or 0}")
    print(f"waited for an image: median {waits[len(waits) // 2]:.1f} s, longest {waits[-1]:.1f} s", flush=True)
    return not lost and bool(waits)


async def memory(client: httpx.AsyncClient, options: argparse.Namespace) -> bool:
    """The server's resident memory after 100 requests, and after all."""
    sizes: dict[int, float] = {}
    for done in range(5, options.requests + 1, 5):
        await asyncio.gather(*(draw(client, options.steps) for _ in range(5)))
        if done in (100, options.requests):
            sizes[done] = (await client.get("/sdapi/v1/memory")).json()["ram"]["used"] / 2**20
            print(f"after {done:,} requests {sizes[done]:.0f} MB", flush=True)
    return len(sizes) < 2 or sizes[options.requests] < MOST_GROWN * sizes[100]


if __name__ == "__main__":
    sys.exit(main())
