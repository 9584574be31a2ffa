"""The command line: `altdiffusion generate | score | convert | train | evaluate | info`. It parses, calls the library, prints.

Exit status 0: done; 2: the input was wrong, in one line on standard error; 130: interrupted; 1: anything else.
torch is imported by the commands alone, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from altdiffusion import __version__
from altdiffusion.cli import benchmark, demo, evaluate, score
from altdiffusion.cli.convert import _convert
from altdiffusion.cli.generate import _batch_size, _generate, _size
from altdiffusion.cli.info import _info
from altdiffusion.cli.train import _add_stage
from altdiffusion.errors import InputError, TrainingStopped
from altdiffusion.training.stage_settings import STAGES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    try:
        options = _parse(arguments)
        _prepare()
        options.run(options)
        sys.stdout.flush()
        return 0
    except (InputError, TrainingStopped) as error:
        print(f"altdiffusion: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print("altdiffusion: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """A stage's unknown flags are left to `read_settings`, which names all that is wrong at once."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown and not ("stage" in options and unknown[0].startswith("--")):
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    options.unknown = [word[2:].partition("=")[0] for word in unknown if word.startswith("--")]
    return options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="altdiffusion", description="Stable Diffusion in Chinese, English and sixteen more languages."
    )
    parser.add_argument("--version", action="version", version=f"altdiffusion {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    generate = commands.add_parser("generate", help="draw pictures from prompts")
    generate.add_argument("prompts", nargs="+", metavar="PROMPT", help="what to draw, in any of the model's languages")
    generate.add_argument("--out", type=Path, default=Path("pictures"), metavar="PATH",
                          help="folder, or a .png file for one picture (default: pictures)")  # fmt: skip
    generate.add_argument(
        "--model", default=None, metavar="M", help="id on the hub, folder or single file (default: mini)"
    )
    generate.add_argument("--negative-prompt", default="", metavar="T", help="what not to draw")
    generate.add_argument(
        "--seed", type=int, metavar="N", help="of each prompt's first picture; picture i has N+i (default: random)"
    )
    generate.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: 25)")
    generate.add_argument(
        "--guidance-scale", type=float, metavar="X", help="how closely to follow the prompt (default: 7.5, mini: 4)"
    )
    generate.add_argument("--size", type=_size, metavar="WxH", help="pixels, multiples of 8 (default: the model's own)")
    generate.add_argument("--num-images", type=int, default=1, metavar="N", help="pictures of each prompt (default: 1)")
    generate.add_argument(
        "--batch-size",
        type=_batch_size,
        default=1,
        metavar="N",
        help="pictures drawn together; auto: as many as pay off",
    )
    generate.add_argument(
        "--best-of", type=int, metavar="N", help="draw N of each prompt, keep the --num-images that AltCLIP scores best"
    )
    generate.add_argument("--scorer", metavar="M", help="that AltCLIP (default: the one that belongs to the model)")
    generate.add_argument("--init-image", metavar="F", help="picture to start from")
    generate.add_argument(
        "--strength", type=float, metavar="X", help="how much to change it, above 0 to 1 (default: 0.8; with a mask 1)"
    )
    generate.add_argument("--mask", metavar="F", help="white where --init-image is drawn anew")
    generate.add_argument(
        "--scheduler", metavar="NAME", help="ddim, pndm, euler, euler-a, dpm++, unipc, ... (default: the model's own)"
    )
    generate.add_argument("--lora", metavar="F", help="LoRA file, folder or id on the hub")
    generate.add_argument(
        "--text-encoder",
        metavar="M",
        help="AltCLIP in place of the model's own encoder (with --bridge default: mini's)",
    )
    generate.add_argument(
        "--bridge", metavar="B", help="from AltCLIP to a model trained with CLIP: folder, id on the hub, mini"
    )
    generate.add_argument("--device", metavar="D", help="cuda, cuda:1, mps, cpu (default: the best there is)")
    generate.add_argument(
        "--dtype", metavar="T", help="float32, float16, bfloat16 (default: float16 on a GPU, else float32)"
    )
    generate.add_argument(
        "--low-memory", action="store_true", help="little GPU memory: the text tower stays on the CPU"
    )
    generate.add_argument("--optimize", action="store_true", help="as fast as the device allows; compiles on a GPU")
    generate.add_argument("--allow-pickle", action="store_true", help="read .bin and .ckpt files, which can carry code")
    generate.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    generate.set_defaults(run=_generate)

    convert = commands.add_parser(
        "convert", help="any AltDiffusion or AltCLIP layout to one that plain diffusers loads"
    )
    convert.add_argument("source", metavar="SRC", help="id on the hub, folder or single file")
    convert.add_argument("destination", type=Path, metavar="DST", help="new folder")
    convert.add_argument("--allow-pickle", action="store_true", help="read .bin and .ckpt files, which can carry code")
    convert.add_argument("--ema", action="store_true", help="of a single file, take the moving average of the UNet")
    convert.add_argument("--tokenizer", metavar="T", help="for single files, which carry none: folder or id on the hub")
    convert.add_argument("--dtype", metavar="T", help="float32, float16, bfloat16 (default: as stored)")
    convert.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    convert.set_defaults(run=_convert)

    train = commands.add_parser("train", help="distill, contrast, align, bridge, ...: the stages of the method")
    stages = train.add_subparsers(title="stages", metavar="STAGE", required=True)
    for name, (settings, _) in STAGES.items():
        _add_stage(stages, name, settings)

    score.add_score(commands)
    evaluate.add_evaluate(commands)
    demo.add_demo(commands)
    benchmark.add_benchmark(commands)

    info = commands.add_parser("info", help="versions, device and attention; or the settings inside a picture")
    info.add_argument(
        "picture", nargs="?", metavar="PICTURE.png", help="print its settings and the command that draws it again"
    )
    info.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    info.set_defaults(run=_info)
    return parser


def _prepare() -> None:
    """What must be set before the libraries are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM cleans up as Ctrl-C does
