"""Parsers of what visitors and programs send to the page and the APIs."""

# ruff: noqa: PT018
from __future__ import annotations

import asyncio
import contextlib
import json
from functools import cache
from typing import Any

from fuzzing.inputs import Maker, corpus
from fuzzing.text_parsers import a_prompt, an_infotext

from altdiffusion.generation.infotext import from_infotext
from altdiffusion.generation.styles import read_styles

VALUES = [
    1,
    2,
    8,
    25,
    64,
    512,
    0.5,
    7.5,
    30,
    0,
    -1,
    "1",
    "ddim",
    "DPM++ 2M Karras",
    "1:1",
    "auto",
    "webui",
    "512x512",
    True,
    None,
    [],
    {},
]


def _object(make: Maker, names: list[str]) -> dict[str, Any]:
    """An object with some of these names, as JSON can spell it."""
    made = {make.one(names): make.one(VALUES) if make.chance(0.7) else make.value() for _ in range(make.number(6))}
    return {"prompt": a_prompt(make)[:2100] if make.chance(0.4) else "a cat"} | made


@cache
def _limits() -> Any:
    from altdiffusion.web.limits import Limits

    return Limits()


def a_request(make: Maker) -> tuple[dict[str, Any], str]:
    from altdiffusion.web.request import PROGRAM_SETTINGS, WEB_SETTINGS

    return _object(
        make, [*WEB_SETTINGS, *PROGRAM_SETTINGS, "model", "images", "best_of", "shape", "styles", "x"]
    ), an_infotext(make)


def request(given: tuple[dict[str, Any], str]) -> None:
    from altdiffusion.errors import InputError
    from altdiffusion.web import request as requests

    said, text = given
    with contextlib.suppress(InputError):
        requests.read_lines(said.get("prompt"), _limits())
    settings, _ = requests.within_limits(from_infotext(text), _limits())
    assert not {"model", "init_image", "lora"} & {name for name, value in settings if value is not None}, (
        "no path is kept"
    )
    read = requests.read_request(requests.with_styles(said, read_styles(), _limits()), _limits())
    assert requests.work_of(read) <= _limits().work and len(read.settings.prompt) <= _limits().text


def an_openai_body(make: Maker) -> dict[str, Any]:
    from altdiffusion.web.serve.openai_request import EditFields

    return _object(make, [*EditFields.model_fields, "x"])


def openai(body: dict[str, Any]) -> None:
    from pydantic import ValidationError

    from altdiffusion.web.request import read_request
    from altdiffusion.web.serve import openai_request

    with contextlib.suppress(ValidationError):
        read_request(openai_request.said_of(openai_request.EditFields(**body), "mini"), _limits())


def an_sd_body(make: Maker) -> dict[str, Any]:
    from altdiffusion.web.serve import sd_request

    names = [
        *sd_request.Text2Image.model_fields,
        *sd_request.Image2Image.model_fields,
        "tiling",
        "hr_upscaler",
        "alwayson_scripts",
        "sampler_index",
    ]
    body = _object(make, names)
    if make.chance(0.3):
        body |= {
            "enable_hr": True,
            "hr_resize_x": make.one([0, 8, 1024, 10**400, -8]),
            "width": make.one([8, 0, -8, 512]),
            "height": 512,
        }
    if make.chance(0.2):
        body["override_settings"] = {make.one(["sd_model_checkpoint", "CLIP_stop_at_last_layers", "x"]): make.value()}
    return body


def sd(body: dict[str, Any]) -> None:
    from pydantic import ValidationError

    from altdiffusion.errors import InputError
    from altdiffusion.web.request import read_request
    from altdiffusion.web.serve import sd_request

    for kind in (sd_request.Text2Image, sd_request.Image2Image):
        with contextlib.suppress(ValidationError, InputError):
            read = kind(**({"init_images": []} | body if kind is sd_request.Image2Image else body))
            json.dumps(sd_request.not_used(read)).encode()
            read_request(sd_request.said_of(read, "mini"), _limits())


def a_header(make: Maker) -> bytes:
    return (
        make.data(
            [b"Bearer secret", b"Basic dTpzZWNyZXQ=", b"basic  !", b""], [b"Bearer ", b"Basic ", b":", b"=", b" "]
        )
        + corpus("names")[0].encode()
    )


def key(header: bytes) -> None:
    from altdiffusion.web.serve.keys import KeyCheck

    async def nobody(*_: object) -> None:
        raise AssertionError("the key is wrong")

    answers: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    scope = {"type": "http", "path": "/v1/models", "headers": [(b"authorization", header)]}
    asyncio.run(KeyCheck(nobody, "another")(scope, nobody, send))
    assert answers[0]["status"] == 401
