"""What is raised when the input is wrong or a training can't go on: one line that says what happened and what to do."""


class InputError(ValueError):
    """The user's input can't be used. The command line prints the message and ends with status 2."""


class TrainingStopped(RuntimeError):
    """A training can't go on; what it had saved is whole. The command line prints the message and ends with status 1."""


class GenerationFailed(RuntimeError):
    """No image came out; those before it are kept. The command line prints the message and ends with status 1."""


class BatchStopped(RuntimeError):
    """A batch run can't go on; what it had done is kept. The command line prints the message and ends with status 1."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error, or its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
