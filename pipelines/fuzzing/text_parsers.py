"""Parsers of texts: prompts, settings, what stands inside images, names."""

# ruff: noqa: E501, PT017, PT018
from __future__ import annotations

import math
from functools import cache
from typing import Any

from fuzzing.inputs import Maker, corpus
from PIL import ExifTags, Image

from altdiffusion import prompt_syntax
from altdiffusion.data.caption_like import why_no_caption
from altdiffusion.data.columns import default_columns, is_language
from altdiffusion.errors import InputError
from altdiffusion.evaluation.datasets.caption_languages import guess_language, language_in_name
from altdiffusion.generation import foreign_settings
from altdiffusion.generation import grid as grids
from altdiffusion.generation import infotext as infotexts
from altdiffusion.generation import label as labels
from altdiffusion.generation.loras import parse_lora
from altdiffusion.generation.result import stem_of
from altdiffusion.generation.schedulers import parse_scheduler
from altdiffusion.generation.settings import ImageSettings, with_size
from altdiffusion.prompt_syntax.clauses import clauses_of
from altdiffusion.web.model_entry import parse_entry

PROMPT_WORDS = [
    *"()[]{}:|<>`\\,，。 （）［］｛｝：｜", "BREAK", " BREAK ", "(cat:1.2)", "[cat:dog:0.5]", "[a|b]", "{a|b}", "<lora:ink:0.8>",
    "<lyco:x:te=1:unet=2>", "1.5", ":0.5]", ":10]", ":1.3)", "a cat", "一只猫", "猫", "un gato negro", "the", "12", "²", "$$", "::",
    "0.5::", "2$$", "- ", "\n", "`hat`", "on a hill", "te=", "sks",
]  # fmt: skip


@cache
def _seeds(name: str) -> list[str]:
    return corpus(name)


def a_prompt(make: Maker) -> str:
    return make.text(_seeds("prompts"), PROMPT_WORDS)


def weights(prompt: str) -> None:
    for lenient in (False, True):
        try:
            read = prompt_syntax.parse_weights(prompt, lenient)
        except InputError:
            assert not lenient, "lenient refuses nothing"
            continue
        places = [0, *(place for span in read.spans for place in (span.start, span.end)), len(read.text)]
        assert places == sorted(places) and places[::2] == places[1::2], "spans touch and cover the text"
        assert all(math.isfinite(span.weight) for span in read.spans), "a weight is finite"
        assert all(0 <= place <= len(read.text) for place in read.breaks), "breaks are in the text"
        if not lenient:
            assert all(0 <= span.weight <= 10 for span in read.spans), "a weight is 0 to 10"


def choices(prompt: str) -> None:
    for lenient in (False, True):
        try:
            every = prompt_syntax.expand_choices(prompt, 50, lenient)
        except InputError:
            continue
        assert 1 <= len(every) <= 50, "no more than the limit"
        assert prompt_syntax.choose(prompt, 7, lenient) in every, "the choice of a seed is one of all"


def editing(prompt: str) -> None:
    for lenient in (False, True):
        try:
            parts = prompt_syntax.schedule(prompt, 20, lenient)
        except InputError:
            continue
        ends = [part.until for part in parts]
        assert ends == sorted(set(ends)) and ends[0] >= 1 and ends[-1] == 20, "steps in order, to the last"


def loras(prompt: str) -> None:
    for lenient in (False, True):
        try:
            text, tags = prompt_syntax.take_loras(prompt, lenient)
        except InputError:
            assert not lenient, "lenient refuses nothing"
            continue
        assert len(text) <= len(prompt), "nothing is added"
        assert all(abs(tag.weight) <= 10 for tag in tags), "a weight is -10 to 10"


def a_routed_prompt(make: Maker) -> tuple[str, str, list[str], list[int], bool]:
    text = a_prompt(make)
    words = [make.one(PROMPT_WORDS) for _ in range(make.number(3))]
    cuts = [make.number(len(text)) for _ in range(make.number(3))]
    return text, make.one(["auto", "auto", "all", "none", "some"]), words, cuts, make.chance(0.5)


def route(given: tuple[str, str, list[str], list[int], bool]) -> None:
    text, way, words, cuts, holes = given
    ends = [end for clause in clauses_of(text) for end in clause]
    assert [0, *ends, len(text)] == sorted([0, *ends, len(text)]) and set(ends) <= set(range(len(text) + 1))
    parts = prompt_syntax.stretches(text, way, words, cuts, holes)  # type: ignore[arg-type]
    places = [0, *(place for part in parts for place in (part.start, part.end)), len(text)]
    assert places[::2] == places[1::2], "stretches touch and cover the text"


def all_stages(prompt: str) -> None:
    for syntax in ("webui", "lenient", "none"):
        for read in (
            prompt_syntax.plain_text,
            prompt_syntax.only_words,
            lambda text, how: list(prompt_syntax.lora_names([text], how)),
        ):
            try:
                read(prompt, syntax)
            except InputError as error:
                assert "\n" not in str(error)
    prompt_syntax.check(prompt)
    assert "/" not in stem_of(prompt) and ".." not in stem_of(prompt)


def some_settings(make: Maker) -> dict[str, Any]:
    names = [*ImageSettings.model_fields, "size", "stepz"]
    given = {make.one(names): make.value() if make.chance(0.6) else make.one(["8", "512x512", "0.5", "9" * 5000, 8, 0.5, "ddim"])
             for _ in range(1 + make.number(4))}  # fmt: skip
    return {"prompt": a_prompt(make) if make.chance(0.2) else "a cat", "steps": 5} | given


def settings(given: dict[str, Any]) -> None:
    read = ImageSettings(**with_size(given))
    if read.steps is None:  # as of an image they never are
        return
    assert all(math.isfinite(value) for value in dict(read).values() if isinstance(value, float))
    again = infotexts.from_infotext(infotexts.to_infotext(read))
    for name in ("prompt", "negative_prompt", "steps", "seed", "width", "height"):
        said = getattr(read, name)
        if isinstance(said, str) and said != said.encode("utf-8", "replace").decode():
            continue  # half a character can't be kept in a file
        assert getattr(again, name) == said, f"{name} comes back from the infotext"


INFOTEXT_WORDS = [
    "\n", "Negative prompt: ", "Steps: 20", ", ", "Sampler: DPM++ 2M", "Schedule type: Karras", "CFG scale: 7", "Seed: 1",
    "Size: 512x512", 'Model: "a, b"', "Denoising strength: 0.5", "Hires upscale: 2", "Hires upscaler: Lanczos", "Clip skip: 2",
    'Lora hashes: "a: b"', "Exact prompts: ", '["a", "b"]', "Inpaint area: Only masked", "Masked area padding: 4", "Steps: ", ": ",
    '"', "\\", " karras", "_ays", " align your steps", "<lora:a:1>", "Init image: x", "Lora: ", "Version: ComfyUI",
]  # fmt: skip


def an_infotext(make: Maker) -> str:
    return make.text(_seeds("infotexts"), INFOTEXT_WORDS)


def a_foreign_json(make: Maker) -> str:
    words = [
        '{"',
        '":',
        ",",
        "}",
        "[",
        '"prompt"',
        '"uc"',
        '"steps"',
        '"sui_image_params"',
        "7",
        '"seed"',
        '"resolution"',
        '"1"',
    ]
    return make.text(_seeds("foreign_json"), words)


def infotext(text: str) -> None:
    read, others = infotexts.read_infotext(text)
    assert isinstance(read.prompt, str) and all(isinstance(name, str) for name in others)
    infotexts.to_command(read)


def a_comment(make: Maker) -> bytes:
    text = make.one([*_seeds("infotexts"), *_seeds("foreign_json")])
    encodings = ["utf-8", "utf-16-be", "utf-16-le", "utf-16"]
    seeds = [make.one([b"UNICODE\0", b"ASCII\0\0\0", b"\0" * 8, b""]) + text.encode(make.one(encodings), "replace")]
    return make.data(seeds, [b"UNICODE\0", b"\xff\xfe", b"\xfe\xff"])


def exif_comment(comment: bytes) -> None:
    image = Image.new("L", (1, 1))
    image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    text = foreign_settings.settings_text(image)
    assert text is None or isinstance(text, str)


def an_xmp(make: Maker) -> str:
    return make.text(
        _seeds("xmp"),
        ["<a:AIGC>", "</a:AIGC>", ' a:AIGC="', '"', "'", "<", ">", "&quot;", "{", "}", ":", "DigitalSourceType"],
    )


def xmp(packet: str) -> None:
    image = Image.new("L", (1, 1))
    image.info["xmp"] = packet.encode("utf-8", "replace")
    assert all(isinstance(line, str) for line in labels.read_label(image).lines())


def a_grid(make: Maker) -> str:
    return make.text(
        _seeds("grids"),
        ["steps=", ",", " ", "'", '"', "seed=1", "size=8x8", "guidance_scale=3,4", "10", "=", "prompt=x", "\\"],
    )


def grid(text: str) -> None:
    axes = grids.parse_grid(text)
    assert 0 < len(grids.variants(ImageSettings(prompt="a {b|c}"), axes[:1]).settings) <= 2000


def an_entry(make: Maker) -> str:
    return make.text(
        _seeds("entries"), ["+lora=", "+", "=", ":", "mini", "0.8", "+vae=", "/", "+bridge=mini", "a.safetensors", "-"]
    )


def model_entry(written: str) -> None:
    for name in parse_entry(written).part_names:
        assert "/" not in name, "a visitor is told no path"
    parse_lora(written)


def a_name(make: Maker) -> str:
    return make.text(
        _seeds("names"), ["hub:", "/", ":", "@", "a", "..", "~", "[:10]", "{1..3}", "{", ",", "}", "*", "\\"]
    )


def names(name: str) -> None:
    from altdiffusion.checkpoints import hub
    from altdiffusion.checkpoints.textual_inversions import check_name
    from altdiffusion.data import hub_datasets
    from altdiffusion.data.open_tables import check_there
    from altdiffusion.files import local_path

    for read in (
        hub.is_hub_id,
        hub.is_local,
        check_name,
        hub_datasets.parse,
        local_path,
        is_language,
        language_in_name,
    ):
        try:
            read(name)
        except InputError as error:
            assert len(str(error).splitlines()) <= 1, error
    if "*" not in name and "?" not in name and "[" not in name:  # which search this machine's disk
        check_there([name])


def a_scheduler(make: Maker) -> str:
    return make.text(
        _seeds("schedulers"), [" ", "_", "karras", "Karras", "dpm++", "2M", "euler", " a", "sde", "exponential", "-"]
    )


def scheduler(name: str) -> None:
    parse_scheduler(name)


def a_sentence(make: Maker) -> str:
    return make.text(
        _seeds("prompts"), ["a ", "the cat", "www.", "@", "http:", "?", "- ", "我", "12", "...", "a:m ", "b/n "]
    )


def sentences(text: str) -> None:
    from altdiffusion.evaluation.datasets.caption_formats import strip_tags

    why_no_caption(text)
    guess_language([text], text[:20])
    default_columns(text.split(","))
    strip_tags([text, "一个:m 男人:n"])
