"""Grids on the page: what is refused, and what their cells are."""

import asyncio

import pytest
from helpers import web_server
from PIL import Image

from altdiffusion.generation.infotext import open_info
from altdiffusion.web.grid import FinishedGrid, generate_grid, read_grid
from altdiffusion.web.limits import Limits
from altdiffusion.web.model_pool import Models
from altdiffusion.web.service import DemoService
from altdiffusion.web.translations import Refused

SAID = {"prompt": "一只猫", "width": 32, "height": 32, "steps": 2, "seed": "5"}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    root = tmp_path_factory.mktemp("grid")
    names = web_server.save_models(root)
    models = Models([str(name) for name in names["models"]], scorer=names["scorer"])
    service = DemoService(models, Limits(pixels=64 * 64), max_waiting=2, folder=root)
    yield service
    service.close()


@pytest.mark.parametrize(
    ("grid", "key"),
    [
        ("steps", "bad_grid"),
        ("steps=1,x", "bad_grid"),
        ("steps=1,101", "bad_number"),
        ("seed=1,2,3 steps=1,2,3", "many_images"),
        ("model=/etc/passwd,mini", "bad_grid"),
        ("lora=x", "bad_grid"),
        ("init_image=/etc/passwd", "bad_grid"),
        ("scheduler=__class__", "unknown_scheduler"),
        ("size=512x512,32x32", "many_pixels"),
        ("strength=0.5", "bad_grid"),
        ("x" * 3000, "long_text"),
    ],
)
def test_grids_beyond_the_settings_and_the_limits_are_refused(service, grid, key):
    with pytest.raises(Refused) as error:
        read_grid(service, SAID | {"grid": grid})
    assert error.value.key == key


@pytest.mark.parametrize("more", [{"images": 2}, {"best_of": 3}])
def test_several_images_of_a_cell_are_refused(service, more):
    with pytest.raises(Refused) as error:
        read_grid(service, SAID | {"grid": "steps=1,2"} | more)
    assert error.value.key == "several_in_grid"


def finished(service, said):
    async def last():
        return [news async for news in generate_grid(service, read_grid(service, said))][-1]

    return asyncio.run(last())


def test_cells_are_the_images_of_their_settings_with_one_seed(service):
    done = finished(service, SAID | {"grid": "steps=1,2 guidance_scale=3,7"})
    assert isinstance(done, FinishedGrid)
    inside = [open_info(image.path) for image in done.images]
    assert [(each.steps, each.guidance_scale, each.seed) for each in inside] == [
        (1, 3.0, 5), (1, 7.0, 5), (2, 3.0, 5), (2, 7.0, 5),
    ]  # fmt: skip
    with Image.open(done.sheet) as sheet:
        assert sheet.width > 2 * 128
        assert sheet.height > 2 * 128
    alone = finished(service, SAID | {"grid": "steps=2", "guidance_scale": 7.0})
    with Image.open(alone.images[0].path) as one, Image.open(done.images[3].path) as cell:
        assert one.tobytes() == cell.tobytes()


def test_cells_share_the_limit_of_work(service):
    with pytest.raises(Refused) as error:
        finished(service, SAID | {"width": 64, "height": 64, "grid": "steps=99,100 guidance_scale=1,2"})
    assert error.value.key == "much_work"
