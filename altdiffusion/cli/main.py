"""The command line: `altdiffusion generate | score | convert | train | evaluate | info`. It parses, calls the library, prints.

Exit status 0: done; 2: the input was wrong, in one line on standard error; 130: interrupted; 1: anything else.
torch is imported by the commands alone, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from altdiffusion import __version__
from altdiffusion.cli import benchmark, demo, evaluate
from altdiffusion.cli.terminal import hide_loading, print_json, say
from altdiffusion.errors import InputError, TrainingStopped
from altdiffusion.training.settings import Settings, read_settings
from altdiffusion.training.stage_settings import STAGES, run_stage

MINI_NOTE = (
    "mini: the model inside this package draws small pictures of 316 things, from nine languages; "
    "for a large one: --model BAAI/AltDiffusion-m9"
)


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

    evaluate.add_score(commands)
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


def _add_stage(stages: Any, name: str, settings: type[Settings]) -> None:
    """A flag for every setting. They are read as text: `read_settings` names all that is wrong at once."""
    summary = (settings.__doc__ or "").strip()
    stage = stages.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    stage.add_argument(
        "--config",
        type=Path,
        metavar="F",
        help="file of settings: TOML, or the settings.json of a training; flags win over it",
    )
    for each in dataclasses.fields(settings):
        about = each.metadata["help"]
        default = [] if each.default_factory is not dataclasses.MISSING else each.default
        if default is dataclasses.MISSING:
            about += " (must be given)"
        elif default is not None and default is not False and default != []:
            about += f" (default: {default})"
        name_of = "--" + each.name.replace("_", "-")
        options: dict[str, Any] = {"dest": each.name, "default": argparse.SUPPRESS, "help": about.replace("%", "%%")}
        if default is False:
            stage.add_argument(name_of, nargs="?", const="true", metavar="true|false", **options)
        else:
            metavar = "|".join(each.metadata["choices"]) or each.name.split("_")[-1].upper()
            several = {"nargs": "+", "action": "extend"} if str(each.type).startswith("list") else {}
            stage.add_argument(name_of, metavar=metavar, **several, **options)
    stage.set_defaults(run=_train, stage=name)


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(side) for side in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected WIDTHxHEIGHT, such as 512x512") from None
    return width, height


def _batch_size(text: str) -> int | str:
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of pictures, or auto")
    return text if text == "auto" else int(text)


def _generate(options: argparse.Namespace) -> None:
    single = options.out.suffix.lower() == ".png"
    if single and len(options.prompts) * options.num_images != 1:
        raise InputError(f"--out {options.out} is one file, but several pictures are asked for: give a folder")
    _check_writable(options.out)
    say("loading ...")
    started = time.monotonic()
    from altdiffusion.generation.generate import free_path, generate, save_picture

    hide_loading()
    drawn = generate(
        options.prompts,
        model=options.model,
        negative_prompt=options.negative_prompt,
        seed=options.seed,
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        size=options.size,
        num_images=options.num_images,
        batch_size=options.batch_size,
        best_of=options.best_of,
        scorer=options.scorer,
        init_image=options.init_image,
        strength=options.strength,
        mask=options.mask,
        scheduler=options.scheduler,
        lora=options.lora,
        text_encoder=options.text_encoder,
        bridge=options.bridge,
        device=options.device,
        dtype=options.dtype,
        low_memory=options.low_memory,
        optimize=options.optimize,
        allow_pickle=options.allow_pickle,
    )
    results: list[dict[str, Any]] = []
    for picture in drawn:
        if not results and options.model in (None, "mini"):
            say(MINI_NOTE)
        elif not results and options.model.startswith("BAAI/"):
            say("BAAI's weights are under CreativeML OpenRAIL-M, whose use restrictions bind you")
        path = options.out if single else free_path(options.out, picture.settings)
        save_picture(picture, path)
        results.append({"path": str(path), "filtered": picture.filtered, **asdict(picture.settings)})
        if picture.filtered:
            say(f"{path} is black: the safety checker found something in the picture")
        if not options.json:
            score = "" if picture.settings.score is None else f"  {picture.settings.score:.4f}"
            print(f"{path}{score}", flush=True)
    if options.json:
        print_json({"pictures": results, "seconds": round(time.monotonic() - started, 2)})


def _convert(options: argparse.Namespace) -> None:
    say("loading ...")
    import torch

    from altdiffusion.devices import choose_dtype
    from altdiffusion.pipelines.convert import convert

    hide_loading()
    dtype = choose_dtype(options.dtype, torch.device("cpu")) if options.dtype else None
    folder = convert(
        options.source,
        options.destination,
        allow_pickle=options.allow_pickle,
        ema=options.ema,
        tokenizer=options.tokenizer,
        dtype=dtype,
    )
    if options.json:
        print_json({"path": str(folder)})
    else:
        print(folder)
    say("plain diffusers loads it; weights that BAAI published stay under their licence, CreativeML OpenRAIL-M")


def _train(options: argparse.Namespace) -> None:
    flags = {name: value for name, value in vars(options).items() if name not in ("run", "stage", "config", "unknown")}
    flags |= {name.replace("-", "_"): "" for name in options.unknown}
    settings = read_settings(STAGES[options.stage][0], flags, options.config)
    say("loading ...")
    hide_loading()
    from altdiffusion.training.checkpoint import has_checkpoint

    try:
        run_stage(options.stage, settings)
    except KeyboardInterrupt:
        if has_checkpoint(settings.output_dir / "checkpoints"):
            say(f"{settings.output_dir} keeps the checkpoints: the same command with --resume goes on from the last")
        else:
            say(
                f"no checkpoint was due yet (--checkpointing-steps {settings.checkpointing_steps}): nothing to go on from"
            )
        raise
    if os.environ.get("RANK", "0") == "0":  # of several processes, one speaks
        print(settings.output_dir / "model")


def _info(options: argparse.Namespace) -> None:
    if options.picture is not None:
        from altdiffusion.generation.infotext import to_command
        from altdiffusion.images import open_info

        settings = open_info(options.picture)
        if options.json:
            print_json({**asdict(settings), "command": to_command(settings)})
        else:
            for name, value in asdict(settings).items():
                if value not in (None, ""):
                    print(f"{name.replace('_', ' ')}: {value}")
            print(f"\n{to_command(settings)}")
        return
    from altdiffusion.cli.info import describe

    hide_loading()
    facts = describe()
    if options.json:
        print_json(facts)
    else:
        width = max(len(name) for name in facts)
        for name, value in facts.items():
            print(f"{name.replace('_', ' '):{width}}  {', '.join(value) if isinstance(value, list) else value}")


def _check_writable(out: Path) -> None:
    """Say before anything is loaded that pictures could not be written."""
    from altdiffusion.checkpoints.hub import local_path

    folder = local_path(out.parent if out.suffix.lower() == ".png" else out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file: expected a folder")
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise InputError(f"--out {folder} can't be written ({there}: {error.strerror}): pick another folder") from None


def _prepare() -> None:
    """What must be set before the libraries are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM cleans up as Ctrl-C does
