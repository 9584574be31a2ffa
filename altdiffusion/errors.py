"""What is raised when the input is wrong: one line that says what was got, what was expected and what to do."""


class InputError(ValueError):
    """The user's input can't be used. The command line prints the message and ends with status 2."""
