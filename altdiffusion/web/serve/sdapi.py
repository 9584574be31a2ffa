"""AUTOMATIC1111's API, `/sdapi/v1/...`: the fields and answers of its web UI 1.10, whose API page is their only description.

A model is one of the owner's, by the title that `sd-models` gives; no path is one. A client, known by its address, has the model
that it chose by `options`, its own progress, and interrupts its own images.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from fastapi import APIRouter, Request
from PIL import Image
from pydantic import BaseModel

from altdiffusion.generation.foreign_settings import settings_text
from altdiffusion.generation.infotext import from_infotext, to_infotext
from altdiffusion.generation.result import encoded
from altdiffusion.generation.schedulers import SAMPLERS, SCHEDULES
from altdiffusion.generation.settings import ImageSettings, settings_with
from altdiffusion.images import opened_image
from altdiffusion.settings import about_of
from altdiffusion.web import uploads
from altdiffusion.web.draw_queue import Generating
from altdiffusion.web.request import offered_scheduler
from altdiffusion.web.serve.errors import Interrupted, SdError, responses
from altdiffusion.web.serve.generating import (
    Clients,
    Running,
    as_base64,
    from_base64,
    generated,
    open_base64,
)
from altdiffusion.web.serve.sd_request import (
    Image2Image,
    Text2Image,
    as_mask,
    as_text,
    fitted,
    info_of,
    not_used,
    said_of,
    shown,
)
from altdiffusion.web.service import DemoService
from altdiffusion.web.translations import Refused


class SdImages(BaseModel):
    """images: in base64, PNG; none after an interrupt. parameters: the request. info: JSON."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


class SdImage(BaseModel):
    image: str


class PngInfo(BaseModel):
    """info: the text as it stands in the file, "" where there is none; items: it by its name; parameters: what it says."""

    info: str
    items: dict[str, str]
    parameters: dict[str, str]


class SdProgress(BaseModel):
    progress: float
    eta_relative: float
    state: dict[str, Any]
    current_image: str | None
    textinfo: str | None


def sd_router(service: DemoService) -> APIRouter:
    router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"], responses=responses(SdError, 400, 401, 413, 422))
    works = responses(SdError, 404, 500, 503)
    clients = Clients()

    async def answered(body: Text2Image | Image2Image, http: Request, *images: Any) -> SdImages:
        unused = not_used(body)
        client = clients.of(http)
        wanted = service.read_request(said_of(body, client.model), *images)
        running = Running(wanted.settings.steps_or_default)
        client.running.append(running)
        try:
            saved = await generated(service, wanted, http, running)
        except Interrupted:
            saved = []
        finally:
            client.running.remove(running)
        infotexts = [to_infotext(each.settings) for each in saved]
        info = info_of(wanted, saved, infotexts, unused)
        contents = []
        if body.send_images is not False:
            contents = await asyncio.to_thread(
                lambda: [as_base64(encoded(each, label=service.label)) for each in saved]
            )
        hidden = () if isinstance(body, Image2Image) and body.include_init_images else ("init_images", "mask")
        known = set(type(body).model_fields) - {"override_settings"}
        parameters = {
            name: None if name in hidden else as_text(value) if isinstance(value, str) else value
            for name, value in body
            if name in known
        }
        return SdImages(images=contents, parameters=parameters, info=info)

    @router.post("/txt2img", responses=works)
    async def txt2img(body: Text2Image, request: Request) -> SdImages:
        """Images from a prompt."""
        return await answered(body, request)

    @router.post("/img2img", responses=works)
    async def img2img(body: Image2Image, request: Request) -> SdImages:
        """An image changed by a prompt; with a mask, a part of it."""
        if len(body.init_images) != 1:
            raise Refused("one_image", got=len(body.init_images))
        image = await open_base64(body.init_images[0], service.limits)
        mask = None if body.mask is None else as_mask(await open_base64(body.mask, service.limits, "RGBA"))
        image, mask = fitted(body, image, mask)
        return await answered(body, request, image, mask)

    @router.post("/png-info")
    async def png_info(body: SdImage) -> PngInfo:
        """The settings inside an image, as they stand there."""
        return await asyncio.to_thread(_png_info, service, from_base64(body.image))

    @router.get("/progress")
    async def progress(request: Request, skip_current_image: bool = False) -> SdProgress:
        """Of the request that this client has waited for longest."""
        running = next(iter(clients.of(request).running), None)
        return await asyncio.to_thread(_progress, running, len(clients.of(request).running), not skip_current_image)

    @router.post("/interrupt")
    async def interrupt(request: Request) -> dict[str, str]:
        """Ends that request: it is answered without images."""
        for running in clients.of(request).running[:1]:
            running.interrupt()
        return {}

    @router.post("/skip")
    async def skip(request: Request) -> dict[str, str]:
        """The same."""
        return await interrupt(request)

    @router.get("/options")
    async def options(request: Request) -> dict[str, Any]:
        """What this client has chosen."""
        chosen = service.models.label(clients.of(request).model)
        return {
            "sd_model_checkpoint": chosen,
            "sd_vae": "Automatic",
            "CLIP_stop_at_last_layers": 1,
            "samples_format": "png",
        }

    @router.post("/options", responses=responses(SdError, 404))
    async def set_options(body: dict[str, Any], request: Request) -> None:
        """Chooses a model for this client; no other option can be set."""
        kept = await options(request)
        for name, value in body.items():
            if name != "sd_model_checkpoint" and (name not in kept or kept[name] != value):
                raise Refused("not_done", name=shown(name))
        if "sd_model_checkpoint" in body:
            clients.of(request).model = service.models.label(body["sd_model_checkpoint"])

    @router.get("/sd-models")
    async def sd_models() -> list[dict[str, Any]]:
        """The models that the owner offers."""
        unknown = {"hash": None, "sha256": None, "config": None}
        return [{"title": label, "model_name": label, "filename": label} | unknown for label in service.models.labels]

    @router.get("/samplers")
    async def samplers() -> list[dict[str, Any]]:
        offered = [sampler for sampler in SAMPLERS if _is_offered(sampler.web_ui)]
        return [{"name": each.web_ui, "aliases": [each.name, each.comfy_ui], "options": {}} for each in offered]

    @router.get("/schedulers")
    async def schedulers() -> list[dict[str, Any]]:
        labels = {"automatic": "Automatic"} | {name.lower().replace(" ", "_"): name for name in SCHEDULES}
        unknown = {"aliases": None, "default_rho": None, "need_inner_model": False}
        return [{"name": name, "label": label} | unknown for name, label in labels.items()]

    @router.get("/loras")
    async def loras(request: Request) -> list[dict[str, Any]]:
        """Those of this client's model, which prompts name as <lora:NAME:0.8>."""
        names = service.models.lora_names(service.models.label(clients.of(request).model))
        return [{"name": name, "alias": name, "path": name, "metadata": {}} for name in names]

    @router.get("/prompt-styles")
    async def prompt_styles() -> list[dict[str, str]]:
        return [
            {"name": name, "prompt": style.prompt, "negative_prompt": style.negative_prompt}
            for name, style in service.styles.items()
        ]

    @router.get("/memory")
    async def memory() -> dict[str, Any]:
        return _memory()

    @router.get("/upscalers")
    async def upscalers() -> list[dict[str, Any]]:
        """What hires enlarges the first pass by."""
        return [{"name": "Lanczos", "model_name": None, "model_path": None, "model_url": None, "scale": 4}]

    @router.get("/latent-upscale-modes")
    async def latent_upscale_modes() -> list[dict[str, Any]]:
        return []

    @router.get("/sd-vae")
    async def sd_vae() -> list[dict[str, Any]]:
        return []

    @router.get("/scripts")
    async def scripts() -> dict[str, list[str]]:
        return {"txt2img": [], "img2img": []}

    @router.post("/refresh-checkpoints")
    async def refresh_checkpoints() -> None:
        """Changes nothing: the owner's list is what it was."""

    return router


def _is_offered(name: str) -> bool:
    try:
        offered_scheduler(name)
    except Refused:
        return False
    return True


def _png_info(service: DemoService, content: bytes) -> PngInfo:
    uploads.open_bytes(content, service.limits)
    with tempfile.TemporaryDirectory(dir=service.folder) as folder:
        file = Path(folder) / "x"
        file.write_bytes(content)
        with opened_image(file) as image:
            text = (settings_text(image) or "").encode("utf-8", "replace").decode()
    if not text:
        return PngInfo(info="", items={}, parameters={})
    settings = from_infotext(text)
    read = {"Prompt": settings.prompt, "Negative prompt": settings.negative_prompt}
    for name in settings_with("infotext"):
        if (value := getattr(settings, name)) not in (None, False, ImageSettings.model_fields[name].default):
            read[about_of(ImageSettings.model_fields[name])["infotext"]] = str(value)
    if settings.width and settings.height:
        read |= {"Size-1": str(settings.width), "Size-2": str(settings.height)}
    return PngInfo(info=text, items={"parameters": text}, parameters=read)


def _progress(running: Running | None, jobs: int, with_image: bool) -> SdProgress:
    state: dict[str, Any] = {
        "skipped": False, "interrupted": False, "stopping_generation": False, "job": "", "job_count": jobs,
        "job_timestamp": "0", "job_no": 0, "sampling_step": 0, "sampling_steps": 0,
    }  # fmt: skip
    if running is None:
        return SdProgress(progress=0, eta_relative=0, state=state, current_image=None, textinfo=None)
    state |= {"job": "generating", "sampling_steps": running.steps}
    done, seconds = 0.0, 0.0
    if isinstance(running.latest, Generating):
        done, seconds = running.latest.done / max(1, running.latest.total), running.latest.seconds
        state |= {"sampling_step": running.latest.done, "sampling_steps": running.latest.total}
    state["job_timestamp"] = time.strftime(
        "%Y%m%d%H%M%S", time.localtime(time.time() - time.monotonic() + running.started)
    )
    image = None
    if with_image and running.preview is not None:
        image = as_base64(_png(running.preview))
    waits = str(running.latest.__class__.__name__).lower() if running.latest is not None else "waiting"
    return SdProgress(progress=done, eta_relative=seconds, state=state, current_image=image, textinfo=waits)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _memory() -> dict[str, Any]:
    """Bytes: of this machine and of this process; of the GPU."""
    machine, process = psutil.virtual_memory(), psutil.Process().memory_info().rss
    ram = {"free": machine.available, "used": process, "total": machine.total}
    if not torch.cuda.is_available():
        return {"ram": ram, "cuda": {"error": "unavailable"}}
    free, total = torch.cuda.mem_get_info()
    peak = torch.cuda.memory_stats()
    kinds = {"allocated": "allocated_bytes", "reserved": "reserved_bytes", "active": "active_bytes"}
    used = {
        name: {"current": peak.get(f"{key}.all.current", 0), "peak": peak.get(f"{key}.all.peak", 0)}
        for name, key in kinds.items()
    }
    return {"ram": ram, "cuda": {"system": {"free": free, "used": total - free, "total": total}, **used}}
