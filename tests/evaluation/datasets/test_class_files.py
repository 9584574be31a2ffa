"""Names of classes and prompts from text files, Babel-ImageNet's JSON and CLIP_benchmark's."""

import json

import pytest

from altdiffusion import InputError
from altdiffusion.evaluation.datasets.class_files import ClassSubset, read_class_names, read_templates
from altdiffusion.evaluation.datasets.labelled import LabelledImages
from altdiffusion.images import ImageSource

BABEL = {"DE": [[0, 2, 998], ["Schleie", "Weißer Hai", "Steinpilz"]], "JA": [[1], ["金魚"]]}


def save(path, document):
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def imagenet(classes=1000):
    """Two images of every class."""
    sources = [ImageSource(None, str(number), lambda: b"") for number in range(2 * classes)]
    return LabelledImages(
        "val", "folders", sources, [n // 2 for n in range(2 * classes)], [f"n{n:08}" for n in range(classes)]
    )


@pytest.mark.parametrize("language", ["de", "DE", "deu_Latn"])
def test_babel_imagenets_classes_of_a_language(tmp_path, language):
    subset = read_class_names(save(tmp_path / "babel_imagenet.json", BABEL), language)
    assert subset == ClassSubset(language, (0, 2, 998), ("Schleie", "Weißer Hai", "Steinpilz"))
    data = subset.of(imagenet())
    assert [image.member for image in data.images] == ["0", "1", "4", "5", "1996", "1997"]
    assert (data.labels, data.classes, data.kind) == ([0, 0, 1, 1, 2, 2], list(subset.names), "babel-imagenet")
    with pytest.raises(InputError, match=r"ImageNet's 1000 classes, val has 999: give its validation set"):
        subset.of(imagenet(999))


def test_prompts_of_a_language_and_files_of_lines(tmp_path):
    prompts = save(tmp_path / "nllb_dist13b_prompts.json", {"DE": ["ein Foto von {}.", "{}"], "JA": [" {} 悪い写真"]})
    assert read_templates(prompts, "de") == ["ein Foto von {}.", "{}"]
    lines = save(tmp_path / "lines.txt", "\ufeffein Hund\n\neine {} Katze\n")
    assert read_templates(lines, "de") == read_class_names(lines, "de") == ["ein Hund", "eine {} Katze"]


def test_clip_benchmarks_json_has_names_of_all_classes_and_prompts(tmp_path):
    path = save(tmp_path / "it_classnames.json", {"imagenet1k": ["tinca", "pesce rosso"], "fer2013": ["x"]})
    assert read_class_names(path, "it") == read_templates(path, "it") == ["tinca", "pesce rosso"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (BABEL, "has nothing in fr, only in de, ja: choose with --language"),
        ("{", "begins like JSON but is none"),
        ({"FR": ["a", "b"]}, "FR is not Babel-ImageNet's, expected two lists"),
        ({"FR": [[1], ["a"], []]}, "FR is not Babel-ImageNet's, expected two lists"),
        ({"FR": [[1, 2], ["a"]]}, "FR has 2 indices of classes and 1 names: expected one for one"),
        ({"FR": [[1000], ["a"]]}, "FR has the class 1000, expected 0 to 999"),
        ({"FR": [["a"], ["a"]]}, "FR has the class 'a', expected 0 to 999"),
        ({"FR": [[1, 1], ["a", "b"]]}, "FR names a class twice: 2 indices, 1 different ones"),
        ({"FR": [[1], [" "]]}, "FR should be a list of texts, none of them empty"),
        ({"FR": [[], []]}, "FR should be a list of texts, none of them empty"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, document, message):
    with pytest.raises(InputError, match=message):
        read_class_names(save(tmp_path / "x.json", document), "fr")
