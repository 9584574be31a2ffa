"""Which words of `altdiffusion score` are prompts, and which images."""

import pytest

from altdiffusion import InputError
from altdiffusion.cli.main import parse


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    """a.png, b.JPG, notes.txt and a folder `pictures`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.JPG", "notes.txt"):
        (tmp_path / name).touch()


@pytest.mark.parametrize(
    ("words", "images", "prompts"),
    [
        ("--prompt 猫 a.png", ["a.png"], ["猫"]),
        ("--prompt 猫 狗 a.png b.JPG", ["a.png", "b.JPG"], ["猫", "狗"]),
        ("--prompt 猫 pictures", ["pictures"], ["猫"]),
        ("--prompt 猫 --prompt 狗 a.png", ["a.png"], ["猫", "狗"]),
        ("--prompt 猫 a.png --prompt 狗", ["a.png"], ["猫", "狗"]),
        ("a.png --prompt 猫 b.JPG", ["a.png", "b.JPG"], ["猫"]),
        ("a.png --prompt 猫 --csv", ["a.png"], ["猫"]),
        ("a.png --prompt 猫 pictures notes.txt none.png", ["a.png"], ["猫", "pictures", "notes.txt", "none.png"]),
        ("b.JPG --prompt a.png", ["b.JPG"], ["a.png"]),
    ],
)
def test_images_behind_a_prompt_are_images(words, images, prompts):
    settings = parse(["score", *words.split()]).settings
    assert (settings.images, settings.prompt) == (images, prompts)


@pytest.mark.parametrize("words", ["--prompt 猫", "--prompt 猫 none.png", "--prompt a.png", "--prompt 猫 notes.txt"])
def test_without_an_image_the_line_says_where_it_stands(words):
    with pytest.raises(InputError, match=r"IMAGE is missing: .* before --prompt"):
        parse(["score", *words.split()])


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "~nobody-of-this-name/a.png", "pictures/" * 2000])
def test_words_that_no_file_could_be_called_are_prompts(name):
    assert parse(["score", "a.png", "--prompt", "猫", name]).settings.prompt == ["猫", name]
