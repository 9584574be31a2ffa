"""Clients that nobody here wrote, against an app that is really served: their own lines, but for the address and small sizes."""

import base64
import io
import threading
import time

import pytest
from helpers import web_server
from PIL import Image, ImageDraw

from altdiffusion.generation.infotext import image_settings

webuiapi = pytest.importorskip("webuiapi")
openai = pytest.importorskip("openai")
KEY = "a-key-of-the-owner"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with web_server.apis_served(tmp_path_factory.mktemp("models"), KEY, max_queue=2) as url:
        yield url


@pytest.fixture
def api(url):
    """sampler, steps: small in the place of 20; the rest as the client sends it."""
    api = webuiapi.WebUIApi(port=int(url.rpartition(":")[2]), sampler="Euler a", steps=2)
    api.set_auth("anyone", KEY)
    return api


@pytest.fixture
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)


def test_webuiapis_quickstart(api):
    result1 = api.txt2img(
        prompt="cute squirrel", negative_prompt="ugly, out of frame", seed=1003, styles=["anime"], cfg_scale=7,
        width=64, height=64,
    )  # fmt: skip
    assert result1.image.size == (64, 64)
    assert result1.info["all_seeds"] == [1003]
    assert result1.info["not_used"] == ["eta"]
    assert "cute squirrel" in image_settings(result1.image).prompt
    result2 = api.img2img(
        images=[result1.image], prompt="cute cat", seed=5555, cfg_scale=6.5, denoising_strength=0.6, width=64, height=64
    )
    mask = Image.new("RGB", result2.image.size, color="black")
    ImageDraw.Draw(mask).ellipse((20, 15, 30, 25), fill="white")
    inpainting_result = api.img2img(
        images=[result2.image], mask_image=mask, inpainting_fill=1, prompt="cute cat", seed=104, cfg_scale=5.0,
        denoising_strength=0.7, width=64, height=64,
    )  # fmt: skip
    assert inpainting_result.image.size == (64, 64)
    assert api.png_info(result1.image).info == result1.image.info["parameters"]


def test_webuiapi_asks_for_what_there_is(api):
    assert api.util_get_model_names() == ["alt-small", "english-small"]
    assert "Euler a" in api.util_get_sampler_names()
    api.util_set_model("english")
    assert api.util_get_current_model() == "english-small"
    api.util_set_model("alt-small")
    api.util_wait_for_ready(check_interval=0.1)
    assert api.get_loras() == api.get_sd_vae() == []
    assert api.get_memory()["ram"]["total"] > 0


def test_webuiapi_sees_progress_and_interrupts(api):
    results = []
    call = threading.Thread(target=lambda: results.append(api.txt2img(prompt="a", steps=100, width=96, height=96)))
    call.start()
    ends = time.monotonic() + 60
    while not (seen := api.get_progress())["progress"] and time.monotonic() < ends:
        time.sleep(0.02)
    assert seen["state"]["job_count"] == 1
    assert 0 < seen["progress"] < 1
    api.interrupt()
    call.join(timeout=30)
    assert results[0].images == []
    assert api.get_progress()["progress"] == 0


def test_webuiapi_is_told_what_is_wrong(api):
    with pytest.raises(RuntimeError, match="restore_faces can"):
        api.txt2img(prompt="a", width=64, height=64, restore_faces=True)
    api.set_auth("anyone", "wrong")
    with pytest.raises(RuntimeError, match="401"):
        api.txt2img(prompt="a", width=64, height=64)


def test_openais_lines(client):
    img = client.images.generate(
        model="alt-small", prompt="A cute baby sea otter", n=1, size="64x64", extra_body={"steps": 2, "seed": 7}
    )
    image = Image.open(io.BytesIO(base64.b64decode(img.data[0].b64_json)))
    assert image_settings(image).seed == 7
    buffer = io.BytesIO()
    image.convert("RGBA").save(buffer, "PNG")
    clear = Image.new("RGBA", image.size)
    clear.paste("black", (0, 0, 32, 64))
    mask = io.BytesIO()
    clear.save(mask, "PNG")
    edit = client.images.edit(
        image=buffer.getvalue(), mask=mask.getvalue(), prompt="猫", n=2, size="64x64", extra_body={"steps": 2}
    )
    assert len(edit.data) == 2
    assert [model.id for model in client.models.list()] == ["alt-small", "english-small"]
    assert client.models.retrieve("alt-small").owned_by == "altdiffusion"


def test_openai_raises_its_own_errors(client, url):
    with pytest.raises(openai.NotFoundError) as error:
        client.images.generate(model="gpt-image-2", prompt="a")
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as error:
        client.images.generate(prompt="a", size="1024x1024")
    assert "pixels" in error.value.body["message"]
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list()


def test_each_of_many_gets_an_image_or_a_clear_503(client):
    """Two may wait beside those that are generated; the others are told when to come back."""
    outcomes, together = [], threading.Barrier(10)

    def ask():
        together.wait()
        try:
            done = client.images.generate(prompt="a", size="64x64", extra_body={"steps": 20})
            outcomes.append(len(done.data))
        except openai.InternalServerError as error:
            outcomes.append((error.status_code, error.code, int(error.response.headers["Retry-After"]) > 0))

    calls = [threading.Thread(target=ask) for _ in range(10)]
    for call in calls:
        call.start()
    for call in calls:
        call.join(timeout=120)
    assert set(outcomes) == {1, (503, "queue_full", True)}


def test_a_client_that_goes_away_frees_its_place(client, api):
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.5).images.generate(prompt="a", size="96x96", extra_body={"steps": 100})
    started = time.monotonic()
    api.txt2img(prompt="a", width=64, height=64)
    assert time.monotonic() - started < 5
