"""The owner's key, which clients send as OpenAI's do, `Authorization: Bearer KEY`, or as the web UIs' do, as a password."""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Any

from altdiffusion.web.guard import answer
from altdiffusion.web.serve.errors import error_form

OPEN = ("/docs", "/openapi.json")
OPEN_BELOW = "/v1/images/files/"  # whose names can't be guessed, and which browsers ask for without a key


class KeyCheck:
    """ASGI middleware: without the key, nothing of a request is read."""

    def __init__(self, app: Any, key: str) -> None:
        self.app, self._key = app, key.encode()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        is_open = scope["type"] == "lifespan" or path in OPEN or path.startswith(OPEN_BELOW)
        if is_open or secrets.compare_digest(_key(dict(scope["headers"]).get(b"authorization", b"")), self._key):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            message = "the key is missing or wrong: expected Authorization: Bearer KEY, or the key as password"
            # one challenge alone: with Bearer behind it, Chromium takes the header for none and doesn't ask
            asks = (b"www-authenticate", b'Basic realm="altdiffusion"')
            await answer(send, 401, error_form(path, 401, message), asks)
        else:
            await send({"type": "websocket.close", "code": 1008})


def _key(header: bytes) -> bytes:
    """The key in an Authorization header; nothing where there is none."""
    kind, _, value = header.partition(b" ")
    if kind.lower() == b"bearer":
        return value.strip()
    if kind.lower() == b"basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""
