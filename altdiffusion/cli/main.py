"""The command line: `altdiffusion COMMAND ...`. It parses, calls the library and prints; each command has a file of its own.

Exit status 0: done; 2: the input was wrong, in one line on standard error; 130: interrupted; 1: anything else.
A command is imported when it is asked for, and torch by the commands alone, so that --help answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from altdiffusion import __version__
from altdiffusion.cli.terminal import escape_the_unprintable, say
from altdiffusion.cpu import keep_memory, share_cores
from altdiffusion.errors import BatchStopped, GenerationFailed, InputError, TrainingStopped
from altdiffusion.files import as_utf8

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError

    from altdiffusion.cli.flags import Call


class Command(NamedTuple):
    """A line of the table below."""

    name: str
    path: str  # what is imported for it
    group: str
    help: str


COMMANDS = (
    Command("generate", "altdiffusion.cli.generate:generate", "Images", "images from prompts"),
    Command("score", "altdiffusion.cli.score:score", "Images", "how well images fit prompts"),
    Command("invert", "altdiffusion.cli.invert:invert", "Images", "prompts as textual inversions, for every tool"),
    Command("tokens", "altdiffusion.cli.tokens:tokens", "Images", "what a model reads of a prompt"),
    Command("info", "altdiffusion.cli.info:info", "Images", "the settings inside an image; or versions and devices"),
    Command("demo", "altdiffusion.cli.demo:demo", "Images", "the page in the browser"),
    Command("serve", "altdiffusion.cli.serve:serve", "Images", "the APIs of AUTOMATIC1111 and OpenAI, and scores"),
    Command(
        "batch", "altdiffusion.cli.batch:batch", "Many", "millions of images: score, embed, filter, generate, index"
    ),
    Command("search", "altdiffusion.cli.search:search", "Many", "images of an index, by a prompt or an image"),
    Command("convert", "altdiffusion.cli.convert:convert", "Models", "any layout to one that plain diffusers loads"),
    Command("export", "altdiffusion.cli.export:export", "Models", "AltCLIP for other runtimes: ONNX"),
    Command("train", "altdiffusion.cli.train:train", "Models", "the stages of the method: distill, bridge, ..."),
    Command("evaluate", "altdiffusion.cli.evaluate:evaluate", "Measures", "what models can do, on your data"),
    Command("benchmark", "altdiffusion.cli.benchmark:benchmark", "Measures", "this machine's times beside the peers'"),
)
_HELP = ("--help", "-h")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    escape_the_unprintable()
    try:
        call = parse([as_utf8(word) for word in (sys.argv[1:] if arguments is None else arguments)])
        if call is not None:
            prepare_environment()
            call.run(call.settings)
        sys.stdout.flush()
        return 0
    except (InputError, BatchStopped, GenerationFailed, TrainingStopped) as error:
        say(f"altdiffusion: {' '.join(str(error).split())}")
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        say("altdiffusion: interrupted; what was finished is kept")
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def parse(arguments: Sequence[str]) -> Call | None:
    """The command and its settings; None where help or the like was asked for, and printed. Raises InputError."""
    words = list(arguments)
    if not words or words[0] in _HELP:
        from altdiffusion.cli.help import root_page

        print(root_page(COMMANDS))
        return None
    if words[0] == "--version":
        print(f"altdiffusion {__version__}")
        return None
    return _parse_command(words)


def prepare_environment() -> None:
    """What must be set before the libraries are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    share_cores()
    keep_memory()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM cleans up as Ctrl-C does


def build_app() -> App:
    """All commands, none of them imported."""
    from cyclopts import App

    app = App(name="altdiffusion", help_flags=_HELP, version_flags=())
    for command in COMMANDS:
        app.command(command.path, name=command.name, group=command.group, help=command.help)
    return app


def _parse_command(words: list[str]) -> Call | None:
    from cyclopts import CycloptsError, UnknownOptionError

    app, unknown = build_app(), []
    if words[0] == "--install-completion":
        app.register_install_completion_command()
    before_prompts = words[: words.index("--")] if "--" in words else words
    if any(word in _HELP for word in before_prompts):
        from altdiffusion.cli.help import page

        chain, apps, rest = app.parse_commands([word for word in words if word not in _HELP])
        if rest and apps[-1].default_command is None:
            raise InputError(_no_command(rest[0], apps[-1]))
        print(page(["altdiffusion", *chain], apps[-1]))
        return None
    while True:
        try:
            command, bound, unused, ignored = app.parse_known_args(words)
            break
        except UnknownOptionError as error:  # so that all of them are named at once
            word = error.token.value
            unknown.append(word.partition("=")[0])
            words.remove(word)
        except CycloptsError as error:
            raise InputError(_explain(error)) from None
    if command == app.help_print:  # a group without its command
        raise InputError(f"{' '.join(words)} what? Expected one of {', '.join(_subcommands(app[words[0]]))}")
    unknown += [word.partition("=")[0] for word in unused if word.startswith("-")]
    if unused and not unknown:
        raise InputError(f"unrecognized arguments: {' '.join(unused)}")
    if "unknown" not in ignored:  # cyclopts' own, such as --install-completion
        command(*bound.args, **bound.kwargs)
        return None
    call: Call = command(*bound.args, **bound.kwargs, unknown=unknown)
    return call


def _explain(error: CycloptsError) -> str:
    from cyclopts import ConsumeMultipleError, MissingArgumentError, UnknownCommandError

    if isinstance(error, UnknownCommandError) and error.unused_tokens and error.app:
        return _no_command(error.unused_tokens[0], error.app)
    if isinstance(error, MissingArgumentError | ConsumeMultipleError):
        return f"{error.keyword}: expected one argument{' or more' * isinstance(error, ConsumeMultipleError)}, got none"
    return " ".join(str(error).split())


def _no_command(word: str, app: App) -> str:
    from altdiffusion.settings import suggest

    names = _subcommands(app)
    return f"{word} is no command{suggest(word, names) or ': expected one of ' + ', '.join(names)}"


def _subcommands(app: App) -> list[str]:
    return [name for name in app if not name.startswith("-")]
