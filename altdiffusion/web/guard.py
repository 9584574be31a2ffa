"""What stands before Gradio on the way in: bodies that are too large are refused, and browsers are told to be careful."""

from __future__ import annotations

import json
from typing import Any

MAX_JSON = 2 * 2**20  # bytes of a request that is no upload: texts, settings, names of files
_CLOSED = ("/dev/reload",)  # for developers: answers twenty times a second, for ever, whoever asks
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
]


class TooLarge(Exception):
    """A body grew beyond what it may have."""


class Guard:
    """ASGI middleware. max_upload: bytes of one request of uploads, all its files together."""

    def __init__(self, app: Any, max_upload: int) -> None:
        self.app, self._max_upload = app, max_upload

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"].rstrip("/").endswith(_CLOSED):
            await _answer(send, 404, "not found")
            return
        most = self._max_upload if scope["path"].rstrip("/").endswith("/upload") else MAX_JSON
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > most:
            await _answer(send, 413, "the request is too large")
            return
        got, started = 0, False

        async def counted() -> Any:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > most:
                raise TooLarge
            return message

        async def careful(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        try:
            await self.app(scope, counted, careful)
        except TooLarge:
            if not started:
                await _answer(send, 413, "the request is too large")


async def _answer(send: Any, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
