"""What is raised when the input is wrong: one line that says what was got, what was expected and what to do."""


class InputError(ValueError):
    """The user's input can't be used. The command line prints the message and ends with status 2."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error, or its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
