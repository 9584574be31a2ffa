"""OpenAI's images API, `/v1/images/...`, and its `/v1/models`: the fields and answers of its published OpenAPI document.

Images are answered in base64, as by its newer models; `response_format` url gives an address that works for some hours.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field, ValidationError

from altdiffusion.generation.result import GeneratedImage, encoded
from altdiffusion.images import as_rgb
from altdiffusion.web import uploads
from altdiffusion.web.limits import Limits
from altdiffusion.web.serve.errors import OpenAIError, responses
from altdiffusion.web.serve.generating import as_base64, generated
from altdiffusion.web.serve.openai_request import EditFields, ImageFields, mask_of, said_of
from altdiffusion.web.service import DemoService
from altdiffusion.web.translations import Refused


class OpenAIImage(BaseModel):
    """seed: digits. revised_prompt: the prompt in its styles, where there are any."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None
    seed: str


class OpenAIImages(BaseModel):
    """created: seconds since 1970."""

    created: int
    data: list[OpenAIImage]
    output_format: str
    size: str | None = None


class OpenAIModel(BaseModel):
    id: str
    object: str = "model"
    created: int
    owned_by: str = "altdiffusion"


class OpenAIModels(BaseModel):
    object: str = "list"
    data: list[OpenAIModel]


def openai_router(service: DemoService, any_model: bool) -> APIRouter:
    """any_model: a name that isn't offered stands for the first model, as in programs that always name OpenAI's."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=responses(OpenAIError, 400, 401, 413))
    works = responses(OpenAIError, 404, 500, 503)
    started = int(time.time())

    def label(name: str | None) -> str:
        return (
            service.models.labels[0] if any_model and name not in service.models.labels else service.models.label(name)
        )

    async def answered(fields: ImageFields, http: Request, *images: Any) -> OpenAIImages:
        wanted = service.read_request(said_of(fields, label(fields.model)), *images)
        form = fields.output_format or "png"
        if fields.response_format == "url" and form != "png":
            raise Refused("not_done", name="output_format")
        saved = await generated(service, wanted, http)

        def one(each: GeneratedImage) -> OpenAIImage:
            seed = str(each.settings.seed)
            revised = wanted.settings.prompt if fields.styles else None
            if fields.response_format == "url":
                path = service.save(each).path
                url = http.url_for("image_file", folder=path.parent.name, name=path.name)
                return OpenAIImage(url=str(url), seed=seed, revised_prompt=revised)
            content = as_base64(encoded(each, form.upper(), service.label))
            return OpenAIImage(b64_json=content, seed=seed, revised_prompt=revised)

        data = await asyncio.to_thread(lambda: [one(each) for each in saved])
        first = saved[0].settings
        size = f"{first.width}x{first.height}" if first.width and first.height else None
        return OpenAIImages(created=int(time.time()), data=data, output_format=form, size=size)

    @router.post("/images/generations", responses=works, response_model_exclude_none=True)
    async def generations(body: ImageFields, request: Request) -> OpenAIImages:
        """Images from a prompt."""
        return await answered(body, request)

    @router.post("/images/edits", responses=works, response_model_exclude_none=True)
    async def edits(
        request: Request,
        prompt: Annotated[str, Form()],
        image: Annotated[UploadFile | None, File(description="the image; transparent parts are generated anew")] = None,
        image_list: Annotated[list[UploadFile] | None, File(alias="image[]", description="the same, of one")] = None,
        mask: Annotated[UploadFile | None, File(description="as large, transparent where it is generated anew")] = None,
    ) -> OpenAIImages:
        """An image changed by a prompt, or a part of it; the other fields are those of generations, and `strength`."""
        files = [*([image] if image else []), *(image_list or [])]
        if len(files) != 1:
            raise Refused("one_image", got=len(files))
        fields = _edit_fields((await request.form()).multi_items())
        opened = [await _content(file, service.limits) for file in (*files, *([mask] if mask else []))]

        def decoded() -> list[Any]:
            start, *masks = [uploads.open_bytes(content, service.limits, "RGBA") for content in opened]
            return [as_rgb(start), mask_of(start, masks[0] if masks else None)]

        return await answered(fields, request, *await asyncio.to_thread(decoded))

    @router.get("/images/files/{folder}/{name}", responses=responses(OpenAIError, 404), response_class=FileResponse)
    async def image_file(folder: str, name: str) -> FileResponse:
        """An image whose address was given; it is there for some hours."""
        path = service.folder / folder / name
        if not re.fullmatch(r"\w{1,64}", folder) or not re.fullmatch(r"[\w-]{1,64}\.png", name) or not path.is_file():
            raise Refused("no_file")
        return FileResponse(path, media_type="image/png")

    @router.get("/models")
    async def models() -> OpenAIModels:
        """The models that the owner offers."""
        return OpenAIModels(data=[OpenAIModel(id=each, created=started) for each in service.models.labels])

    @router.get("/models/{name:path}", responses=responses(OpenAIError, 404))
    async def model(name: str) -> OpenAIModel:
        return OpenAIModel(id=service.models.label(name or "-"), created=started)

    return router


class _Form(EditFields):
    """A form has numbers as texts, and lists as fields of the same name."""

    styles: list[str] | None = Field(None)


def _edit_fields(items: list[tuple[str, Any]]) -> EditFields:
    """The fields of a form but for its files. Raises RequestValidationError."""
    values: dict[str, Any] = {}
    for key, value in items:
        if isinstance(value, str) and key in ("styles", "styles[]"):
            values.setdefault("styles", []).append(value)
        elif isinstance(value, str) and key not in ("image", "image[]", "mask"):
            values[key] = value
    try:
        return _Form(**values)
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from None


async def _content(file: UploadFile, limits: Limits) -> bytes:
    return await file.read(limits.upload_bytes + 1)  # one more is too many
