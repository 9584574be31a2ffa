"""Our scores, `/v1/scores`: how well images fit prompts, in any of AltCLIP's languages. Errors are in OpenAI's form."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from altdiffusion.web import uploads
from altdiffusion.web.request import read_lines
from altdiffusion.web.serve.errors import OpenAIError, responses
from altdiffusion.web.serve.generating import from_base64
from altdiffusion.web.service import DemoService
from altdiffusion.web.translations import Refused


class ScoresBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(description="in base64, bare or as data URLs")
    prompts: list[str] = Field(description="in any of the model's languages")
    model: str | None = Field(None, description="one that /v1/models gives, the first where none is said")


class ScoresAnswer(BaseModel):
    """scores: cosines in -1 to 1, a list for each image. percentiles: 0 to 100, of 100 texts in the prompt's language that
    don't belong to the image so many fit it less well; null where the model has no calibration, or none of that language."""

    model: str
    scores: list[list[float]]
    percentiles: list[list[float | None]] | None


def scores_router(service: DemoService) -> APIRouter:
    errors = responses(OpenAIError, 400, 401, 404, 413, 500, 503)
    router = APIRouter(prefix="/v1", tags=["Scores"], responses=errors)

    @router.post("/scores")
    async def scores(body: ScoresBody) -> ScoresAnswer:
        """How well each image fits each prompt."""
        limits = service.limits
        if not body.images:
            raise Refused("no_image")
        if len(body.images) > limits.pictures:
            raise Refused("many_images", got=len(body.images), most=limits.pictures)
        prompts = read_lines(body.prompts, limits)
        if len(prompts) < len(body.prompts):  # a row has as many numbers as there are prompts
            raise Refused("empty_text")
        label = service.models.label(body.model)

        def work() -> ScoresAnswer:
            images = [uploads.open_bytes(from_base64(image), limits) for image in body.images]
            cosines = service.score(images, prompts, label)
            return ScoresAnswer(model=label, scores=cosines, percentiles=service.percentiles(cosines, prompts, label))

        return await service.run_scoring(work)

    return router
