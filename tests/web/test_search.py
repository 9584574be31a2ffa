"""The page's search in the index that its owner names: what a visitor gets of it, and what not."""

import json
import urllib.request

import pytest
from helpers import web_server
from PIL import Image

pytest.importorskip("gradio", reason="the demo needs gradio: pip install altdiffusion[demo]")
pytest.importorskip("faiss", reason="an index needs FAISS: pip install altdiffusion[batch]")
gradio_client = pytest.importorskip("gradio_client")
handle_file = gradio_client.handle_file

from helpers.feature_folders import build, clustered, save_features  # noqa: E402

from altdiffusion import InputError, PromptScorer  # noqa: E402
from altdiffusion.web.search import SIDE, IndexSearch  # noqa: E402

COUNT = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    web_server.save_models(root)
    for number in range(COUNT):
        Image.new("RGB", (500, 300 + number), (40 * number, 90, 200 - 30 * number)).save(root / f"{number}.png")
    scorer = PromptScorer.from_pretrained(root / "altclip-small")
    features = scorer.image_features([root / f"{number}.png" for number in range(COUNT)])
    save_features(root / "features", features.numpy())
    build(root / "features", root / "index", model=str(root / "altclip-small"), root=root)
    (root / "5.png").unlink()
    return root


@pytest.fixture(scope="module")
def url(root):
    with web_server.served(root, index=root / "index") as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    return gradio_client.Client(url, verbose=False)


def test_the_tab_and_the_endpoint_are_there(client, url):
    assert "/search" in client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    config = urllib.request.urlopen(f"{url}config").read().decode()
    assert '"tab_search"' in config


@pytest.mark.parametrize("prompt", ["一只猫", "a dog", "кошка"])
def test_images_come_best_first_as_thumbnails(client, prompt):
    found = client.predict(prompt, results=50, api_name="/search")
    assert sorted(each["row"] for each in found) == list(range(COUNT))
    assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)
    for each in found:
        assert each["caption"] == f"caption {each['row']}"
        if each["row"] == 5:
            assert each["image"] is None
        else:
            assert max(Image.open(each["image"]).size) == SIDE


def test_an_uploaded_image_finds_itself(client, root):
    (best, *others) = client.predict(image=handle_file(str(root / "2.png")), results=2, api_name="/search")
    assert (best["row"], len(others)) == (2, 1)
    assert best["score"] == pytest.approx(1, abs=1e-2)


def test_no_place_of_the_owners_is_told(client, root):
    """Neither in what is found nor in the page's configuration."""
    found = client.predict("猫", results=COUNT, api_name="/search")
    shown = json.dumps([{name: value for name, value in each.items() if name != "image"} for each in found])
    assert ".png" not in shown
    assert str(root) not in shown
    assert str(root / "index") not in json.dumps(client.config)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({}, "Nothing to look for"),
        ({"prompt": " \n"}, "Nothing to look for"),
        ({"prompt": "猫" * 2001}, "2001 characters"),
        ({"prompt": "猫", "results": 0}, "from 1 to 60"),
        ({"prompt": "猫", "results": 61}, "from 1 to 60"),
        ({"prompt": "猫", "image": {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}}, "."),
    ],
)
def test_what_cant_be_searched_is_told(client, said, error):
    with pytest.raises(Exception, match=error):
        client.predict(**said, api_name="/search")


def test_an_index_that_cant_be_served_is_told_before_it_is(root, tmp_path):
    build(save_features(root / "narrow-features", clustered(4)), root / "narrow", model=str(root / "altclip-small"))
    for index, error in ((root / "features", "has no index.json"), (root / "narrow", "gives features of width")):
        with pytest.raises(InputError, match=error):
            IndexSearch.load(index, tmp_path, "cpu", False)
