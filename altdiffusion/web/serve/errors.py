"""Errors as JSON in the form that each API's clients expect: OpenAI's below /v1/, AUTOMATIC1111's elsewhere."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from altdiffusion.errors import InputError
from altdiffusion.web.translations import Refused

RETRY_SECONDS = 5  # after which a client may find a place in the queue
logger = logging.getLogger(__name__)

# Of refusals by their key in translations.toml; all others are the request's fault.
_STATUS = {"queue_full": 503, "unknown_model": 404, "no_file": 404, "unloadable": 500, "not_finite": 500, "failed": 500}
_CODES = {401: "invalid_api_key", 404: "not_found", 503: "queue_full"}


class Interrupted(Exception):
    """The client went away, or wants no images any more."""


class SdError(BaseModel):
    """AUTOMATIC1111's: what happened stands in `detail`, one line."""

    error: str
    detail: str
    body: str = ""
    errors: str


class _OpenAIErrorFields(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    """OpenAI's."""

    error: _OpenAIErrorFields


def is_openai(path: str) -> bool:
    """Whether a path, which may stand below a proxy's, is of OpenAI's API or of ours."""
    return "/v1/" in path and "/sdapi/" not in path


def responses(model: type[BaseModel], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI page."""
    said = {400: "refused, or no JSON", 401: "no or a wrong key", 404: "not on offer", 413: "too large", 422: "refused",
            500: "failed here", 503: "the queue is full: see Retry-After"}  # fmt: skip
    return {status: {"model": model, "description": said[status]} for status in statuses}


def error_form(
    path: str, status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The JSON of an error at this path."""
    if is_openai(path):
        kind = "server_error" if status >= 500 else "invalid_request_error"
        return OpenAIError(
            error=_OpenAIErrorFields(message=message, type=kind, param=param, code=code or _CODES.get(status))
        ).model_dump()
    return SdError(error="Refused" if status < 500 else "Failed", detail=message, errors=message).model_dump()


def add_handlers(app: FastAPI) -> None:
    """Whatever goes wrong in an endpoint, as JSON without a path or a trace."""

    @app.exception_handler(InputError)
    async def refused(request: Request, error: InputError) -> JSONResponse:
        path = request.url.path
        if not isinstance(error, Refused):  # the checks should have found it
            logger.warning("%s: %s", path, error)
            error = Refused("bad_input")
        status = _STATUS.get(error.key, 400 if is_openai(path) else 422)
        code = "model_not_found" if error.key == "unknown_model" else None
        name = error.values.get("name")
        headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else None
        return JSONResponse(error_form(path, status, str(error), name, code), status, headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        # what was sent is not told: it may be no text
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        where = where.encode("utf-8", "replace").decode()[:200]
        unknown = first["type"] == "extra_forbidden"
        message = f"unknown parameter {where!r}" if unknown else f"{where}: {first['msg']}" if where else first["msg"]
        status = 400 if is_openai(request.url.path) else 422
        return JSONResponse(error_form(request.url.path, status, message, where or None), status)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        content = error_form(request.url.path, error.status_code, str(error.detail))
        return JSONResponse(content, error.status_code, error.headers)

    @app.exception_handler(Interrupted)
    async def interrupted(request: Request, error: Interrupted) -> Response:
        return Response(status_code=499)  # which nobody reads

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(error_form(request.url.path, 500, str(Refused("failed"))), 500)
