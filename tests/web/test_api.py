"""Every endpoint of the demo's API, by gradio_client, as a visitor's program would call it."""

import os
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import web_server
from PIL import Image

pytest.importorskip("gradio", reason="the demo needs gradio: pip install altdiffusion[demo]")
gradio_client = pytest.importorskip("gradio_client")
handle_file = gradio_client.handle_file

from altdiffusion import AltDiffusionPipeline, PromptScorer, generate  # noqa: E402
from altdiffusion.generation.infotext import from_infotext, open_info  # noqa: E402
from altdiffusion.prompts.explain import explain  # noqa: E402
from altdiffusion.text_encoder.tokenizer import tokenizer_of  # noqa: E402
from altdiffusion.web import draw_queue  # noqa: E402

QUICK = {"steps": web_server.STEPS, "width": 32, "height": 32}
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def url(root):
    with web_server.served(root, max_queue=20) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    return gradio_client.Client(url, verbose=False)


@pytest.fixture
def files(tmp_path):
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (40, 32), colour).save(tmp_path / f"{number}.png")
    return [handle_file(str(tmp_path / f"{number}.png")) for number in range(3)]


def test_every_endpoint_is_named_typed_and_documented(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {
        "/models", "/draw", "/change", "/compare", "/score", "/classify", "/rank", "/read_settings", "/tokens",
        "/styles", "/invert",
    }  # fmt: skip
    for name, endpoint in endpoints.items():
        assert endpoint["description"], name
        for parameter in endpoint["parameters"]:
            assert parameter["python_type"]["type"] not in ("", "Any"), (name, parameter)
    seed = next(each for each in endpoints["/draw"]["parameters"] if each["parameter_name"] == "seed")
    assert seed["parameter_has_default"]
    assert seed["parameter_default"] == ""


@pytest.mark.parametrize("model", ["alt-small", "english-small"])
@pytest.mark.parametrize("prompt", ["(一只猫:1.2), a ☃ BREAK dog", "[a|b] {x|y}", ""])
def test_tokens_are_what_the_models_own_tokenizer_reads(client, root, model, prompt):
    found = client.predict(prompt, model=model, steps=3, api_name="/tokens")
    assert found == explain(tokenizer_of(root / model), prompt, steps=3)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"prompt": "(cat"}, "isn't closed"),
        ({"prompt": "猫" * 2001}, "2001 characters"),
        ({"prompt": "cat", "prompt_syntax": "x"}, "can't be used"),
        ({"prompt": "cat", "model": "other"}, "not in the list"),
        ({"prompt": "cat", "styles": ["other"]}, "not in the list"),
        ({"prompt": "cat, " * 300}, "expected at most 510"),
    ],
)
def test_what_is_malformed_is_told_where_tokens_are_counted(client, said, error):
    with pytest.raises(gradio_client.exceptions.AppError, match=error):
        client.predict(**said, api_name="/tokens")


def test_of_many_choices_the_first_are_explained(client):
    found = client.predict("{a|b}" * 9, api_name="/tokens")
    assert [each["prompt"] for each in found["prompts"]] == ["aaaaaaaaa", "aaaaaaaab", "aaaaaaaba", "aaaaaaabb"]


def test_styles_are_applied_and_written_into_the_image(client):
    named = client.predict(api_name="/styles")
    assert named["ink"] == ["Ink wash painting", "水墨画"]
    (drawn,) = client.predict("一只猫", negative_prompt="狗", styles=["ink"], seed="1", **QUICK, api_name="/draw")
    inside = open_info(drawn["image"])
    assert inside.prompt.startswith("一只猫，水墨画，")
    assert inside.negative_prompt.startswith("狗, 照片，")
    read = client.predict("一只猫", styles=["ink"], api_name="/tokens")
    assert read["prompts"][0]["prompt"] == inside.prompt


def test_models_are_labels_never_paths(client):
    assert client.predict(api_name="/models") == ["alt-small", "english-small"]


def test_draw_gives_what_generate_draws_with_the_settings_inside(client, root):
    drawn = client.predict("一只猫", negative_prompt="狗", seed="7", images=2, **QUICK, api_name="/draw")
    assert [each["seed"] for each in drawn] == ["7", "8"]
    pipe = AltDiffusionPipeline.from_pretrained(root / "alt-small")
    alone = generate("一只猫", model=pipe, negative_prompt="狗", seed=7, steps=3, size=(32, 32), num_images=2)
    for each, picture in zip(drawn, alone, strict=True):
        apart = np.asarray(Image.open(each["image"]), np.int16) - np.asarray(picture.image, np.int16)
        assert np.abs(apart).max() <= 1
        inside = open_info(each["image"])
        assert (inside.prompt, inside.negative_prompt, inside.model) == ("一只猫", "狗", "alt-small")
        assert inside == from_infotext(each["settings"])


@pytest.mark.parametrize("prompt", ["一只猫", "(一只:1.2)[猫]"])
def test_pictures_carry_their_altclip_score_of_the_plain_prompt(client, root, prompt):
    (drawn,) = client.predict(prompt, seed="1", **QUICK, api_name="/draw")
    scorer = PromptScorer.from_pretrained(root / "altclip-small", device="cpu")
    assert drawn["score"] == pytest.approx(scorer.score(drawn["image"], "一只猫").item(), abs=2e-4)


def test_best_of_gives_the_best_first(client):
    every = client.predict("a cat", seed="1", images=4, **QUICK, api_name="/draw")
    best = client.predict("a cat", seed="1", images=2, best_of=4, **QUICK, api_name="/draw")
    expected = sorted(every, key=lambda each: -each["score"])[:2]
    assert [each["seed"] for each in best] == [each["seed"] for each in expected]


def test_change_and_inpaint(client, files, tmp_path):
    Image.new("L", (40, 32), 255).save(tmp_path / "mask.png")
    mask = handle_file(str(tmp_path / "mask.png"))
    (changed,) = client.predict(files[0], "一只猫", strength=0.7, steps=3, seed="1", api_name="/change")
    (filled,) = client.predict(files[0], "一只猫", mask=mask, strength=1.0, steps=3, seed="1", api_name="/change")
    assert open_info(changed["image"]).strength == 0.7
    assert open_info(filled["image"]).mask == "(in memory)"


@pytest.mark.parametrize("said", [{}, {"only_masked": 4}, {"images": 2, "best_of": 3}])
def test_inpainting_leaves_the_rest_of_the_photo_as_it_is(client, tmp_path, said):
    photo, mask = Image.effect_noise((75, 50), 60).convert("RGB"), Image.new("L", (75, 50), 0)
    mask.paste(255, (30, 10, 60, 40))
    photo.save(tmp_path / "photo.png")
    mask.save(tmp_path / "mask.png")
    images = [handle_file(str(tmp_path / f"{name}.png")) for name in ("photo", "mask")]
    for one in client.predict(images[0], "一只猫", mask=images[1], steps=3, seed="1", **said, api_name="/change"):
        apart = np.abs(np.asarray(Image.open(one["image"]), int) - np.asarray(photo, int)).max(-1)
        assert apart[np.asarray(mask) == 0].max() == 0
        assert apart[np.asarray(mask) > 0].max() > 0
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    takes = {name: {each["parameter_name"] for each in endpoints[name]["parameters"]} for name in ("/draw", "/change")}
    assert {"mask_blur", "only_masked"} <= takes["/change"] - takes["/draw"]


def test_compare_draws_both_with_one_seed(client):
    left, right = client.predict("一只猫", "a cat", right_model="english-small", steps=3, api_name="/compare")
    assert left["seed"] == right["seed"]
    assert [open_info(each["image"]).model for each in (left, right)] == ["alt-small", "english-small"]


def test_score_classify_and_rank_agree_with_the_library(client, root, files):
    paths = [each["path"] for each in files]
    scorer = PromptScorer.from_pretrained(root / "altclip-small", device="cpu")
    prompts = ["一只猫", "قطة"]
    scores = client.predict(files, prompts, api_name="/score")
    np.testing.assert_allclose(scores, scorer.score(paths, prompts), atol=1e-5)
    probabilities = client.predict(files, ["猫", "狗"], template="一只{}", api_name="/classify")
    np.testing.assert_allclose(np.sum(probabilities, axis=1), 1, atol=1e-5)
    ranked = client.predict(files, "一只猫", api_name="/rank")
    assert [number for number, _ in ranked] == [number for number, _ in scorer.rank(paths, "一只猫")]


@pytest.mark.parametrize("scheduler", ["euler", "DPM++ 2M Karras", "Euler a SGM Uniform"])
def test_settings_come_back_from_a_drawn_picture(client, scheduler):
    (drawn,) = client.predict("قطة", seed="9223372036854760000", scheduler=scheduler, **QUICK, api_name="/draw")
    found = client.predict(handle_file(drawn["image"]), api_name="/read_settings")
    assert (found["prompt"], found["scheduler"], found["steps"], found["width"]) == ("قطة", scheduler, 3, 32)
    assert found["changed"] == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/cat.png", "https://nowhere.invalid/cat.png?size=2"])
def test_an_address_that_cannot_be_fetched_is_one_line(client, files, address):
    image = handle_file(address)
    calls = {
        "/read_settings": [image],
        "/change": [image, "a"],
        "/score": [[files[0], image], ["a"]],
        "/rank": [[image], "a"],
    }
    for endpoint, given in calls.items():
        with pytest.raises(gradio_client.exceptions.AppError, match=r"^The image's address can't be fetched from here"):
            client.predict(*given, api_name=endpoint)


def test_below_a_proxys_path_the_page_names_its_files_there(root):
    with web_server.served(root, root_path="/draw/") as url:
        page = urllib.request.urlopen(urllib.request.Request(url, headers={"Host": "images.example"})).read().decode()
    assert '"root":"http://images.example/draw"' in page


def test_a_cancelled_request_frees_the_machine_within_a_step(client, monkeypatch):
    endless = {"steps": 100, "width": 256, "height": 256}
    steps = []
    after_step = draw_queue._Progress.after_step
    monkeypatch.setattr(draw_queue._Progress, "after_step", lambda *given: steps.append(0) or after_step(*given))
    job = client.submit("一只猫", **endless, api_name="/draw")
    while len(steps) < 3:
        time.sleep(0.05)
    job.cancel()
    time.sleep(1)  # the cancel travels; a step may be under way
    done = len(steps)
    client.predict("a cat", **QUICK, api_name="/draw")
    assert len(steps) <= done + 1 + web_server.STEPS + 1  # PNDM takes one more than it is asked for
    assert done < 90


def test_waiting_visitors_each_get_their_own_picture(url):
    clients = [gradio_client.Client(url, verbose=False) for _ in range(6)]
    barrier = threading.Barrier(len(clients))

    def visit(number):
        barrier.wait()
        return clients[number].predict(f"cat {number}", seed=str(number), **QUICK, api_name="/draw")[0]

    with ThreadPoolExecutor(len(clients)) as pool:
        drawn = list(pool.map(visit, range(len(clients))))
    for number, each in enumerate(drawn):
        inside = open_info(each["image"])
        assert (inside.prompt, inside.seed) == (f"cat {number}", number)


def test_with_a_password_nothing_is_shown_before_it(root):
    with web_server.served(root, auth="owner:secret", models=[root / "alt-small"]) as url:
        for path in ("config", "gradio_api/info", "gradio_api/queue/data?session_hash=x"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(url + path)
            assert refused.value.code in (401, 403), path
        client = gradio_client.Client(url, auth=("owner", "secret"), verbose=False)
        assert client.predict(api_name="/models") == ["alt-small"]


def test_nothing_is_left_behind(root, files):
    with web_server.served(root, models=[root / "alt-small"]) as url:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        client = gradio_client.Client(url, verbose=False)
        client.predict(files[0], "a cat", steps=3, strength=1.0, api_name="/change")
        assert len(list(folder.rglob("*.png"))) >= 2
        assert url.startswith("http://127.0.0.1:")
    assert not folder.exists()
    assert os.environ.get("GRADIO_TEMP_DIR") != str(folder)


def test_a_full_queue_is_said_clearly(root):
    with web_server.served(root, models=[root / "alt-small"], max_queue=1) as url:
        clients = [gradio_client.Client(url, verbose=False) for _ in range(6)]
        clients[0].predict("a cat", **QUICK, api_name="/draw")
        jobs = [
            each.submit(f"cat {number}", steps=20 + number, width=64, height=64, api_name="/draw")
            for number, each in enumerate(clients)
        ]
        outcomes = []
        for job in jobs:
            try:
                outcomes.append("picture" if job.result(timeout=60)[0]["image"] else "nothing")
            except gradio_client.exceptions.AppError as error:
                outcomes.append("full" if "queue is full" in str(error) else str(error))
    assert set(outcomes) == {"picture", "full"}, outcomes
