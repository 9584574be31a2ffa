"""What is raised when the input is wrong or a training can't go on: one line that says what happened and what to do."""


class InputError(ValueError):
    """The user's input can't be used. The command line prints the message and ends with status 2.

    The message is one line, whatever was quoted in it: control characters, which steer terminals, are spelled out.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(spelled_out(str(message)))


class TrainingStopped(RuntimeError):
    """A training can't go on; what it had saved is whole. The command line prints the message and ends with status 1."""


class GenerationFailed(RuntimeError):
    """No image came out; those before it are kept. The command line prints the message and ends with status 1."""


class BatchStopped(RuntimeError):
    """A batch run can't go on; what it had done is kept. The command line prints the message and ends with status 1."""


# C0 and C1, and what breaks lines or turns the order of letters
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_SPELLED = {code: chr(code).encode("unicode_escape").decode() for code in _CONTROLS}


def spelled_out(text: str, but: str = "") -> str:
    """A text on one line, without characters that a terminal obeys: \\n, \\x1b and the like stand in their place.

    but: those that stay.
    """
    return text.translate({code: spelled for code, spelled in _SPELLED.items() if chr(code) not in but})


def first_line(error: BaseException) -> str:
    """The first line of another library's error, or its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
