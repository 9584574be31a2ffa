"""The page and the API with a model that a bridge reads prompts for: what it understood, and which part of a prompt it reads."""

import asyncio

import pytest
from helpers import layouts
from helpers.bridges import save_english_and_bridges

pytest.importorskip("gradio", reason="the demo needs gradio: pip install altdiffusion[demo]")

from altdiffusion.generation.infotext import open_info
from altdiffusion.web.limits import Limits
from altdiffusion.web.model_pool import Models
from altdiffusion.web.page import build_page
from altdiffusion.web.service import DemoService, Finished
from altdiffusion.web.translations import Refused, say

SMALL = {"steps": 2, "width": 16, "height": 16, "seed": "1"}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_english_and_bridges(root)
    layouts.save_published(root / "alt", "m9", "safetensors")
    bridged = f"{root}/english+text-encoder={root}/alt+bridge={root}"
    models = Models([f"{bridged}/entrance", f"{root}/english", f"{bridged}/exit"], device="cpu")
    service = DemoService(models, Limits(), max_waiting=4, folder=tmp_path_factory.mktemp("images"))
    yield service
    service.close()


def tokens(service, model, **said):
    return asyncio.run(service.tokens({"model": service.models.labels[model], **said}))


def drawn(service, model, **said):
    async def images():
        request = service.read_request({"model": service.models.labels[model], **SMALL, **said})
        (finished,) = [news async for news in service.generate(request) if isinstance(news, Finished)]
        return finished.images

    return asyncio.run(images())


def test_models_with_a_bridge_at_the_entrance_take_a_route(service):
    assert [service.models.takes_route(label) for label in service.models.labels] == [True, False, False]


def test_what_was_understood_is_told_by_route(service):
    def understood(**said):
        (part,) = tokens(service, 0, prompt="(猫:1.2), a dog", **said)["prompts"][0]["parts"]
        return [stretch["text"] for stretch in part["understood"]]

    assert understood() == understood(route="auto") == ["猫"]
    assert understood(route="all") == ["猫", "a dog"]
    assert understood(route="none") == []
    assert "understood" not in tokens(service, 1, prompt="a dog")["prompts"][0]["parts"][0]


def test_images_have_their_route_in_them(service):
    images = {route: drawn(service, 0, prompt="猫, a dog", route=route)[0] for route in ("", "all", "none")}
    assert [open_info(image.path).route for image in images.values()] == [None, "all", "none"]
    assert len({image.path.read_bytes() for image in images.values()}) == 3


@pytest.mark.parametrize("model", [1, 2])
def test_a_route_for_other_models_is_refused_in_the_visitors_language(service, model):
    for work in (tokens, drawn):
        with pytest.raises(Refused) as refused:
            work(service, model, prompt="a dog", route="auto")
        assert refused.value.said("zh") == say("no_route", "zh")


@pytest.mark.parametrize("said", [{"prompt": "a `cat"}, {"prompt": "a cat", "negative_prompt": "`"}])
def test_a_backquote_left_open_is_told_before_it_is_drawn(service, said):
    with pytest.raises(Refused, match="this backquote isn't closed"):
        drawn(service, 0, **said)
    assert len(drawn(service, 1, **said)) == 1


@pytest.mark.parametrize("value", ["some", 3, ["all"]])
def test_another_route_is_refused(service, value):
    with pytest.raises(Refused):
        tokens(service, 0, prompt="a", route=value)


def test_the_page_has_the_choice_where_a_model_takes_it(service):
    def labels(service):
        page = build_page(service)
        return [str(block.label) for block in page.blocks.values() if getattr(block, "label", None)]

    alone = DemoService(Models(["mini"]), service.limits, max_waiting=4, folder=service.folder)
    try:
        assert any("route" in label for label in labels(service))
        assert not any("route" in label for label in labels(alone))
    finally:
        alone.close()
