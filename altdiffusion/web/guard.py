"""What stands before Gradio and the APIs on the way in: too large bodies are refused, and browsers are told to be careful."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def _detail(path: str, status: int, detail: str) -> dict[str, Any]:
    return {"detail": detail}


class Guard:
    """ASGI middleware. max_upload: bytes of one request of uploads, all its files together. uploads: the ends of their paths.
    form: what an error's JSON looks like, of the path, the status and a sentence."""

    def __init__(
        self,
        app: Any,
        max_upload: int,
        uploads: tuple[str, ...] = ("/upload",),
        form: Callable[[str, int, str], dict[str, Any]] = _detail,
    ) -> None:
        self.app, self._max_upload, self._uploads, self._form = app, max_upload, uploads, form

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"].rstrip("/").endswith(_CLOSED):
            await self._answer(scope, send, 404, "not found")
            return
        most = self._max_upload if scope["path"].rstrip("/").endswith(self._uploads) else MAX_JSON
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > most:
            await self._answer(scope, send, 413, "the request is too large")
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
                await self._answer(scope, send, 413, "the request is too large")

    async def _answer(self, scope: dict[str, Any], send: Any, status: int, detail: str) -> None:
        await answer(send, status, self._form(scope["path"], status, detail))


async def answer(send: Any, status: int, content: dict[str, Any], *more: tuple[bytes, bytes]) -> None:
    """Answer an ASGI request with JSON. more: headers."""
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *_HEADERS, *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
