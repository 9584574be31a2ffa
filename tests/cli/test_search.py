"""`altdiffusion batch index` and `altdiffusion search` on mini: tables, JSON, pages, sheets, and what is refused."""

import base64
import io
import json
import re
import shutil

import pytest
from PIL import Image

pytest.importorskip("faiss", reason="an index needs FAISS: pip install altdiffusion[batch]")

from helpers.feature_folders import build, clustered, save_features

from altdiffusion import PromptScorer
from altdiffusion.cli.main import parse

COLOURS = ("red", "green", "blue", "yellow")


@pytest.fixture(scope="module")
def mini():
    return PromptScorer.from_pretrained()


@pytest.fixture(autouse=True)
def _loaded_once(mini, monkeypatch):
    """The model is loaded once for all commands."""
    monkeypatch.setattr(PromptScorer, "from_pretrained", lambda name, **options: mini)


@pytest.fixture(scope="module")
def made(mini, tmp_path_factory):
    """Four images, 0.png to 3.png, an index of them, and one of another width."""
    root = tmp_path_factory.mktemp("search")
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (64, 48), colour).save(root / f"{number}.png")
    features = mini.image_features([root / f"{number}.png" for number in range(4)])
    save_features(root / "features", features.numpy())
    build(root / "features", root / "index", root=root)
    build(save_features(root / "narrow-features", clustered(4)), root / "narrow", root=root)
    return root


def changed(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def own(made, tmp_path, monkeypatch):
    """A copy to change, in which we are."""
    shutil.copytree(made, tmp_path / "own")
    changed(tmp_path / "own/index/index.json", root=str(tmp_path / "own"))
    monkeypatch.chdir(tmp_path / "own")
    return tmp_path / "own"


def test_an_image_finds_itself_first(run, own):
    for number in range(4):
        done = run("search", "index", "--image", f"{number}.png", "--json")
        document = json.loads(done.out)
        (search,) = document["searches"]
        assert (done.status, document["model"], document["kind"], search["prompt"]) == (0, "mini", "exact", None)
        best, *others = search["results"]
        assert len(others) == 3
        assert best.items() >= {"row": number, "image_path": f"{number}.png", "caption": f"caption {number}"}.items()
        assert best["score"] == pytest.approx(1, abs=1e-3)


def test_each_prompt_is_a_search_in_its_order_with_the_scores_of_the_scorer(run, made, mini):
    prompts = ["红色", "a blue thing", "жёлтый"]
    done = run("search", made / "index", *prompts, "--json", "--top", "2")
    searches = json.loads(done.out)["searches"]
    assert [search["prompt"] for search in searches] == prompts
    scores = mini.score([made / f"{number}.png" for number in range(4)], prompts)
    for column, search in enumerate(searches):
        assert len(search["results"]) == 2
        assert search["results"][0]["row"] == scores[:, column].argmax()
        for hit in search["results"]:
            assert hit["score"] == pytest.approx(scores[hit["row"], column].item(), abs=1e-3)


def test_a_table_names_place_score_and_caption(run, made):
    done = run("search", made / "index", "红色", "--top", "1000", "--image", made / "0.png")
    lines = done.out.splitlines()
    assert done.status == 0
    assert lines[0].split() == ["红色", "+", "0.png", "cosine", "caption"]
    assert len(lines) == 5
    assert re.fullmatch(r"0\.png +\d\.\d{3} +caption 0", lines[1])


def test_a_page_needs_nothing_beside_it_and_says_what_is_missing(run, own):
    (own / "2.png").unlink()
    (own / "1.png").write_bytes(b"none")
    done = run("search", "index", "<b>红</b>", "cat", "--html", "found.html", "--sheet", "found.png")
    assert done.status == 0
    assert "4 of 8 images can't be shown: " in done.err
    assert "isn't there any more (2)" in done.err
    page = (own / "found.html").read_text(encoding="utf-8")
    images = re.findall(r'src="data:image/webp;base64,([^"]+)"', page)
    assert len(images) == page.count("src=") == 4
    assert all(Image.open(io.BytesIO(base64.b64decode(image))).size == (64, 48) for image in images)
    assert "&lt;b&gt;红&lt;/b&gt;" in page
    assert page.count('<div class="none">') == 4
    assert not re.search(r"//|<script|<link|url\(", re.sub(r'base64,[^"]+', "", page))
    assert Image.open(own / "found.png").width > 4 * 64


def test_relative_places_start_from_the_indexs_root_or_from_another(run, own, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    words = ("search", own / "index", "猫", "--html", "a.html")
    assert "can't be shown" not in run(*words).err
    assert (
        f"4 of 4 images can't be shown: isn't there any more (4); relative paths start from {tmp_path}"
        in run(*words, "--root", tmp_path).err
    )


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["index"], "nothing to look for: expected PROMPT, or --image F"),
        (["index", " "], "PROMPT is empty"),
        (["index", "cat", ""], "PROMPT is empty"),
        (["features", "cat"], "has no index.json"),
        (["none", "cat"], "INDEX: there is no none"),
        (["narrow", "cat"], "mini gives features of width"),
        (["index", "cat", "--top", "0"], "--top: expected at least 1"),
        (["index", "cat", "--image", "none.png"], "no such image: none.png"),
        (["index", "cat", "--html", "found.txt"], "--html found.txt: expected a file that ends in .html"),
        (["index", "cat", "--sheet", "none/found.png"], "in a folder that is there"),
        (["index", "cat", "--root", "."], "--root: only with --html or --sheet"),
        (["index", "cat", "--model", "nowhere"], "nowhere"),
        ([], "INDEX is missing"),
    ],
)
def test_what_cant_be_searched_is_one_line(run, made, monkeypatch, words, error):
    monkeypatch.chdir(made)
    done = run("search", *words)
    assert (done.status, done.out) == (2, "")
    assert error in done.err.splitlines()[-1]


def test_another_model_of_the_same_width_is_told(run, own):
    changed(own / "index/index.json", model="BAAI/AltCLIP")
    done = run("search", "index", "猫", "--model", "mini")
    assert done.status == 0
    assert "index was computed by BAAI/AltCLIP: what mini finds in it may not fit" in done.err


def test_batch_index_says_kind_and_recall(run, own):
    done = run("batch", "index", "features", "new", "--model", "mini", "--json")
    document = json.loads(done.out)
    assert (document["count"], document["kind"], document["of"], document["root"]) == (4, "exact", "images", str(own))
    save_features(own / "many", clustered(400))
    done = run("batch", "index", "many", "lists", "--model", "mini", "--kind", "ivf")
    assert done.out == "lists\n"
    assert re.search(
        r"400 images by mini, 16 wide; kind ivf, depth \d+: of the 10 best .* finds \d+\.\d% by images", done.err
    )
    assert run("batch", "index", "many", "lists", "--model", "mini").status == 2
    assert run("batch", "index", "none", "other").status == 2


@pytest.mark.parametrize(
    ("words", "index", "prompts"),
    [("i a b", "i", ["a", "b"]), ("i --top 3 a", "i", ["a"]), ("--image a.png i", "i", []), ("i -- -a", "i", ["-a"])],
)
def test_the_first_word_is_the_index_and_all_others_are_prompts(tmp_path, monkeypatch, words, index, prompts):
    monkeypatch.chdir(tmp_path)
    for name in ("i", "a.png"):
        (tmp_path / name).touch()
    settings = parse(["search", *words.split()]).settings
    assert (str(settings.index), settings.prompts) == (index, prompts)
