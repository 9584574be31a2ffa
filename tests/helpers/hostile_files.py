"""What tests of hostile files share: a pickle with code, and what a refusal is."""

from __future__ import annotations

import pytest

from altdiffusion import InputError


class Touch:
    """A pickle that creates a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def files_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(call, *words, match=None):
    """The one line by which a call is refused."""
    with pytest.raises(InputError, match=match) as caught:
        call(*words)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 2000
    return str(caught.value)
