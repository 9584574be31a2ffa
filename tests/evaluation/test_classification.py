"""Zero-shot classification by a system that sees colours."""

import io
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import tensor

from altdiffusion import InputError
from altdiffusion.evaluation.classification import (
    CIFAR_10_NAMES,
    CIFAR_TEMPLATES,
    FLAGAI_CIFAR_10,
    TEMPLATES,
    evaluate_classification,
    localised,
)
from altdiffusion.evaluation.datasets.class_files import ClassSubset
from altdiffusion.evaluation.datasets.labelled import LabelledImages, read_labelled
from altdiffusion.images import ImageSource
from altdiffusion.toy.glyphs import LANGUAGES


def test_templates():
    assert len(set(CIFAR_TEMPLATES)) == 18
    assert {"a blurry photo of the {}.", "a photo of a small {}."} <= set(CIFAR_TEMPLATES)
    assert set(TEMPLATES) == set(CIFAR_10_NAMES) == set(LANGUAGES)
    assert all(len(set(names)) == 10 for names in CIFAR_10_NAMES.values())


class Colours:
    """Knows red, green and blue, by word and by sight; says what it was asked."""

    name = "Colours"
    note = ""
    words = ("red", "green", "blue")

    def __init__(self):
        self.asked = []

    def image_features(self, images):
        return F.normalize(tensor([image.resize((1, 1)).getpixel((0, 0)) for image in images]).float(), dim=-1)

    def text_features(self, texts):
        self.asked += texts
        return F.normalize(tensor([[float(word in text) for word in self.words] for text in texts]) + 1e-6, dim=-1)

    def similarity(self, texts, images):
        return texts @ images.T

    image_to_text_similarity = similarity


class Tokens(Colours):
    """The same, token by token."""

    name = "Tokens"

    def image_features(self, images):
        return super().image_features(images)[:, None].repeat(1, 3, 1)

    def text_features(self, texts):
        return super().text_features(texts)[:, None].repeat(1, 2, 1)

    def similarity(self, texts, images):
        return torch.einsum("tad,ibd->tiab", texts, images).amax(3).mean(2)


@pytest.fixture
def folders(tmp_path):
    for name, colour, count in (("red", "red", 3), ("green", "green", 1), ("blue", "red", 1)):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.new("RGB", (4, 4), colour).save(tmp_path / name / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("kind", [Colours, Tokens])
def test_a_system_is_asked_in_every_template(folders, kind):
    system = kind()
    result = evaluate_classification(system, read_labelled(folders), templates=["a {} thing", "{c}"], batch=2)
    assert (result.images, result.top1, result.mean_per_class_recall) == (5, 0.8, pytest.approx(2 / 3))
    assert {"a red thing", "blue"} <= set(system.asked)
    assert result.published is None


def test_bad_images_are_listed_up_to_a_limit(folders):
    (folders / "red" / "9.png").write_bytes(b"no picture")
    data = read_labelled(folders)
    with pytest.raises(InputError, match="1 of 6 images can't be used"):
        evaluate_classification(Colours(), data)
    result = evaluate_classification(Colours(), data, max_skipped=0.5)
    assert result.images == 5
    assert result.problems[0][0].endswith("9.png")


def test_flagais_figures_stand_beside_altclip_on_cifar_10_in_english_alone(folders):
    data = read_labelled(folders)
    few = LabelledImages("cifar", "cifar-10", data.images, data.labels, data.classes)
    data = LabelledImages("cifar", "cifar-10", data.images[:1] * 10_000, data.labels[:1] * 10_000, data.classes)
    system = Colours()
    system.name = "AltCLIP"
    assert evaluate_classification(system, few).published is None  # not the test set that was published
    assert evaluate_classification(system, data).published == FLAGAI_CIFAR_10
    assert evaluate_classification(system, data, "zh").published is None
    assert evaluate_classification(system, data, templates=["{}"]).published is None


class Random:
    """Random directions: of a text by its words, of an image by its red."""

    name = "AltCLIP"
    note = ""
    protocol = {"precision": "float32 on cpu"}  # noqa: RUF012

    @staticmethod
    def of(seed):
        vector = np.random.default_rng(seed).normal(size=8)
        return vector / np.linalg.norm(vector)

    def text_features(self, texts):
        return torch.from_numpy(np.stack([self.of(zlib.crc32(text.encode())) for text in texts])).float()

    def image_features(self, images):
        return torch.from_numpy(np.stack([self.of(image.getpixel((0, 0))[0]) for image in images])).float()

    def similarity(self, texts, images):
        return texts @ images.T


def babel_imagenet(indices, each):
    """ImageNet's 1000 classes with so many images of those with indices; the image's red says which class and which image."""
    labels = [index for index in indices for _ in range(each)]
    images = []
    for number in range(len(labels)):
        buffer = io.BytesIO()
        Image.new("RGB", (2, 2), (number % 256, 0, 0)).save(buffer, "BMP")
        images.append(ImageSource(None, str(number), buffer.getvalue))
    return LabelledImages("val", "folders", images, labels, [f"n{n:08}" for n in range(1000)])


@pytest.mark.parametrize("templates", [None, ["ein Foto von {}", "{} im Schnee", "das {}"]])
def test_babel_imagenets_accuracy_is_numpys(templates):
    names, indices = ("Schleie", "Goldfisch", "Hai", "Hahn", "Henne", "Strauß"), (0, 1, 2, 7, 8, 999)
    data = localised(babel_imagenet((*indices, 500), 5), "de", ClassSubset("de", indices, names))
    result = evaluate_classification(Random(), data, "de", templates, batch=7)
    classes = np.stack(
        [
            np.mean([Random.of(zlib.crc32(line.replace("{}", name).encode())) for line in templates or ["{}"]], axis=0)
            for name in names
        ]
    )
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    similarity = np.stack([Random.of(number) for number in range(30)]) @ classes.T
    right = similarity.argmax(1) == np.repeat(np.arange(6), 5)
    assert (result.images, result.top1) == (30, pytest.approx(right.mean()))
    assert result.mean_per_class_recall == pytest.approx(right.reshape(6, 5).mean())
    assert result.protocol == {
        "pool": "30 images, 6 classes", "data": "val, babel-imagenet", "precision": "float32 on cpu",
        "prompts": "3, such as ein Foto von {}" if templates else "the label alone",
    }  # fmt: skip
    assert result.published is None


def test_published_accuracy_stands_beside_the_whole_of_babel_imagenet_alone(monkeypatch):
    count = 202  # Telugu names
    subset = ClassSubset("te", tuple(range(count)), tuple(f"name {n}" for n in range(count)))
    data = subset.of(babel_imagenet(range(count), 1))
    assert evaluate_classification(Random(), data, "te").published is None
    monkeypatch.setattr("altdiffusion.evaluation.classification.BABEL_IMAGES", 1)
    for templates, top1 in ((None, 0.0842), ([f"{n} {{}}" for n in range(80)], 0.1075), (["a {}"], None)):
        result = evaluate_classification(Random(), data, "te", templates)
        assert result.published == (top1 and {"top1": pytest.approx(top1)})
        assert (result.published_by, "317c498" in result.source) == (
            ("AltCLIP-m9, published", True) if top1 else ("", False)
        )


def test_names_in_a_language():
    data = LabelledImages("c", "cifar-10", [], [], ["x"] * 10)
    assert localised(data, "zh").classes[3] == "猫"
    assert localised(data, "zh", list("一二三四五六七八九十")).classes[0] == "一"
    with pytest.raises(InputError, match="--classes"):
        localised(data, "de")
    with pytest.raises(InputError, match="--classes"):
        localised(LabelledImages("c", "cifar-100", [], [], ["x"] * 100), "zh")
    with pytest.raises(InputError, match=r"Latin letters \(cat, ...\), to be asked in 'zh'.*--classes"):
        localised(LabelledImages("mine", "folders", [], [], ["cat", "dog"]), "zh")
    assert localised(LabelledImages("mine", "folders", [], [], ["猫", "狗"]), "zh").classes == ["猫", "狗"]
    assert localised(LabelledImages("mine", "folders", [], [], ["gatto"]), "it").classes == ["gatto"]


def test_a_language_without_templates(folders):
    with pytest.raises(InputError, match="--templates"):
        evaluate_classification(Colours(), read_labelled(folders), "de")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_system_that_must_know_the_language_is_told_before_it_is_asked(folders, language):
    class Told(Colours):
        language = None

        def __init__(self):
            super().__init__()
            self.protocol = {}

        def use_language(self, language):
            self.language = language
            return f"texts as {language}"

        def text_features(self, texts):
            assert self.language == language
            return super().text_features(texts)

    data = localised(read_labelled(folders), language, ["red 红", "green 绿", "blue 蓝"])
    assert evaluate_classification(Told(), data, language).protocol["language"] == f"texts as {language}"
