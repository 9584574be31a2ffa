"""`altdiffusion invert`: prompts as textual inversions."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from altdiffusion.checkpoints.textual_inversions import ENDINGS, check_free, notes_of, read_notes, triggers
from altdiffusion.cli.flags import command
from altdiffusion.cli.options import JsonSettings
from altdiffusion.cli.terminal import hide_loading, print_json, print_line, say
from altdiffusion.errors import InputError
from altdiffusion.files import local_path
from altdiffusion.generation.prompts_file import BadRow, Row, read_prompts_file
from altdiffusion.generation.result import stem_of
from altdiffusion.generation.settings import ImageSettings
from altdiffusion.prompt_syntax import PromptSyntax, only_words
from altdiffusion.prompt_syntax.route import Route, stretches
from altdiffusion.settings import device_setting, setting

_READ = frozenset(["prompt", "prompt_syntax"])  # the columns that say something of an inversion, beside name


class InvertSettings(JsonSettings):
    """Prompts, and what makes inversions of them."""

    prompts: list[str] = setting([], "what to invert, in any of AltCLIP's languages", positional="PROMPT")
    bridge: str = setting(..., "at CLIP's entrance: a folder, an id on the hub, or mini", source="model", metavar="B")
    text_encoder: str | None = setting(
        None, "the AltCLIP that the bridge reads (default: the one that it names)", source="model", metavar="M"
    )
    prompts_file: Path | None = setting(
        None, "more prompts: .txt, a line each; .csv, .tsv or .jsonl, with columns prompt and name",
        source="path", metavar="F",
    )  # fmt: skip
    out: Path = setting(Path("embeddings"), "folder, or for one prompt a .safetensors or .pt file, named as in prompts")
    route: Route = setting("auto", "what goes through the bridge: what isn't English, all or none of it")
    literal: list[str] = setting(
        [], "a word that doesn't, such as a LoRA's trigger; as do those in `backquotes`", repeat=True, metavar="W"
    )
    prompt_syntax: PromptSyntax = setting("webui", "as for generate; weights are refused, none: text", metavar="S")
    dtype: Literal["float32", "float16"] = setting("float32", "of the file: 3 KB or half of it for a token of SD 1.x")
    overwrite: bool = setting(False, "replace files that are there")
    resume: bool = setting(False, "leave files that are there as they are, if they were made from the same")
    device: str | None = device_setting()
    allow_pickle: bool = setting(False, "read .bin, .pt and .ckpt files, which can carry code")
    as_json: bool = setting(False, "print one JSON document on standard output", flag="json")

    def problems(self) -> list[str]:
        """What is wrong between settings."""
        problems = []
        if not self.prompts and self.prompts_file is None:
            problems.append("PROMPT is missing: what to invert; or name a --prompts-file")
        if self.out.suffix and not self.is_file and not self.out.is_dir():
            problems.append(f"--out {self.out}: expected a folder, or a file that ends in {' or '.join(ENDINGS)}")
        if self.is_file and (self.prompts_file is not None or len(self.prompts) > 1):
            problems.append(f"--out {self.out} is one file, but several prompts are asked for: give a folder")
        if self.overwrite and self.resume:
            problems.append("--overwrite replaces files that are there, --resume leaves them: leave one out")
        return problems

    @property
    def is_file(self) -> bool:
        """Whether one inversion is written to a name, and not into a folder."""
        return self.out.suffix.lower() in ENDINGS and not self.out.is_dir()


@dataclass(frozen=True)
class _Planned:
    where: str
    prompt: str
    syntax: PromptSyntax
    path: Path


@command(InvertSettings)
def invert(settings: InvertSettings) -> None:
    """Prompts as textual inversions, which A1111, Forge, ComfyUI, InvokeAI and diffusers load.

    altdiffusion invert "黑暗精灵公主，月光" --bridge bridge-sd15 --out dark-elf.safetensors
    altdiffusion invert --prompts-file prompts.csv --bridge bridge-sd15 --out embeddings
    """
    started = time.monotonic()
    planned, bad = _planned(settings)
    there = [each for each in planned if settings.resume and each.path.exists()]
    if there:
        say(f"{len(there)} of {len(planned)} inversions are there already")
    wanted = [each for each in planned if each not in there]
    documents, failed = _invert(wanted, settings) if wanted else ([], [])
    _say_bad(failed)
    if documents:
        _say_triggers(documents, settings.is_file)
    if settings.as_json:
        failures = [row._asdict() for row in [*bad, *failed]]
        seconds = round(time.monotonic() - started, 2)
        print_json(
            {
                "inversions": documents,
                "there": [str(each.path) for each in there],
                "failed": failures,
                "seconds": seconds,
            }
        )
    if wrong := len(bad) + len(failed):
        rest = "; the others are done" if len(failed) < len(planned) else ""
        raise InputError(f"{wrong} of {len(planned) + len(bad)} prompts can't be used (above){rest}")


def _invert(planned: list[_Planned], settings: InvertSettings) -> tuple[list[dict[str, Any]], list[BadRow]]:
    """Write what is planned; a document of each, and what can't be inverted. Raises InputError where it is all there is."""
    say("loading ...")
    from altdiffusion.checkpoints.textual_inversions import save_textual_inversion
    from altdiffusion.prompts.inversion import load_inverter

    hide_loading()
    inverter = load_inverter(
        settings.bridge, settings.text_encoder, settings.route, settings.literal,
        device=settings.device, allow_pickle=settings.allow_pickle,
    )  # fmt: skip
    documents, failed = [], []
    for each in planned:
        try:
            inversion = inverter.invert(each.prompt, each.syntax)
        except InputError as error:
            if len(planned) == 1:
                raise
            failed.append(BadRow(each.where, str(error)))
            continue
        notes = _notes(each.prompt, settings) | {"english": inversion.english}
        save_textual_inversion(
            inversion.vectors, each.path, dtype=settings.dtype, notes=notes, overwrite=settings.overwrite
        )
        count = len(inversion.tokens)
        if not settings.as_json:
            understood = " ".join(map(_shown, inversion.tokens))
            print_line(f"{each.path}  {count} vector{'s' * (count > 1)}  {understood}")
        if inverter.is_word(each.path.stem):
            say(
                f"{each.path.stem} is a word of CLIP's: A1111 and Forge would replace it in every prompt; better another name"
            )
        documents.append({"path": str(each.path), **inversion.document(each.path.stem)})
    return documents, failed


def _planned(settings: InvertSettings) -> tuple[list[_Planned], list[BadRow]]:
    """Every file before any is written, and the bad rows, which are told. Raises InputError for names that are taken."""
    rows, bad = _rows(settings)
    planned = list[_Planned]()
    names = set[str]()
    taken = list[str]()
    for row in rows:
        prompt, syntax = row.settings.prompt, row.settings.prompt_syntax
        try:
            stretches(only_words(prompt, syntax), settings.route, settings.literal)
            path = settings.out if settings.is_file else _path(settings.out, row, names)
        except InputError as error:
            bad.append(BadRow(row.where, str(error)))
            continue
        names.add(path.stem.casefold())  # as CLIP's tokenizer and some file systems read them
        try:
            check_free(path, settings.overwrite or (settings.resume and _same(path, prompt, settings)))
        except InputError as error:
            taken.append(str(error))
        planned.append(_Planned(row.where, prompt, syntax, path))
    if len(rows) == 1 and len(bad) == 1 and settings.prompts_file is None:
        raise InputError(bad[0].reason)
    _say_bad(bad)
    if taken:
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise InputError(f"{taken[0]}{more}")
    if not planned:
        raise InputError(f"none of {len(bad)} prompts can be used (above)")
    return planned, bad


def _rows(settings: InvertSettings) -> tuple[list[Row], list[BadRow]]:
    """The prompts of the command line, then the file's; columns that say nothing of an inversion are told."""
    syntax = settings.prompt_syntax
    rows = [
        Row(repr(prompt), ImageSettings(prompt=prompt, prompt_syntax=syntax), frozenset())
        for prompt in settings.prompts
    ]
    if settings.prompts_file is None:
        return rows, []
    in_file, bad = read_prompts_file(settings.prompts_file, {"prompt_syntax": syntax}, others=["name"])
    if unread := set().union(*(row.said for row in in_file)) - _READ:
        say(f"{settings.prompts_file}: an inversion is made of the prompt alone; not read: {', '.join(sorted(unread))}")
    return rows + in_file, bad


def _path(folder: Path, row: Row, names: set[str]) -> Path:
    """The file of a row: by its column `name`, else by its first words. Raises InputError for a name that was given before."""
    given = row.others.get("name")
    stem = str(given) if given is not None else stem_of(row.settings.prompt)
    if not stem:
        raise InputError("the prompt has no words for a file's name: give a column `name`, or --out FILE")
    if given is not None and stem.casefold() in names:
        raise InputError(f"two inversions are called {stem}: name one otherwise")
    count, free = 1, stem
    while free.casefold() in names:
        count += 1
        free = f"{stem}-{count}"
    return local_path(folder / f"{free}{ENDINGS[0]}")


def _same(path: Path, prompt: str, settings: InvertSettings) -> bool:
    """Whether a file that is there was made from the same, as far as its header says."""
    wanted = _notes(prompt, settings) | {"dtype": settings.dtype}
    return path.exists() and wanted.items() <= read_notes(path).items()


def _notes(prompt: str, settings: InvertSettings) -> dict[str, str]:
    return notes_of(prompt, settings.bridge, settings.route, settings.literal)


def _shown(token: Any) -> str:
    """A soft token as 〈cat〉, with a question mark where the bridge isn't sure of the word."""
    if not token.words:
        return str(token.text)
    return f"〈{token.text}{'?' * (token.words[0][1] < 0.5)}〉"


def _say_triggers(documents: list[dict[str, Any]], is_file: bool) -> None:
    """What to write in each tool, once a run."""
    document = documents[0]
    name = document["name"] if len(documents) == 1 else "NAME"
    path = document["path"] if is_file or len(documents) == 1 else f"{Path(document['path']).parent}/NAME{ENDINGS[0]}"
    written = triggers(name)
    say(
        f"in prompts: {written['a1111']} in A1111 and Forge, {written['comfyui']} in ComfyUI, {written['invokeai']} in "
        f"InvokeAI, from their folders of embeddings"
    )
    if len(document["widths"]) == 1:
        say(
            f'in diffusers: pipe.load_textual_inversion("{path}", token="{written["diffusers"]}"), then {written["diffusers"]}'
        )
    else:
        say("in diffusers: clip_l and clip_g are loaded one by one, see docs/prompts.md")


def _say_bad(rows: Iterable[BadRow]) -> None:
    for row in rows:
        say(row.reason if row.where in row.reason else f"{row.where}: {row.reason}")
