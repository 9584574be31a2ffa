"""Systems run on a data set: every format gives the same recalls, what is bad is listed and the rest is done."""

import re
import threading
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import caption_sets
from helpers.caption_sets import COUNT, IDS

from altdiffusion import InputError
from altdiffusion.evaluation.datasets.captioned import read_captions
from altdiffusion.evaluation.report import COLUMNS, as_json
from altdiffusion.evaluation.retrieval import evaluate_retrieval


def direction(**weights):
    """A unit vector: direction(_3=0.8, _4=0.6)."""
    vector = torch.zeros(COUNT + 1)
    for place, weight in weights.items():
        vector[int(place[1:])] = weight
    return vector


MULTILINGUAL = ["xtd10", "xm3600", "xflickrco", "wit", "wit-tsv", "babel", "clip-benchmark-json"]
ODD_TEXTS = {
    (3, 1): direction(_4=0.8, _3=0.6),  # text to image: image 4 first, its own second
    (9, 1): direction(_10=0.8, _9=0.6),  # and image to text: it comes before image 10's own
    (10, 0): direction(_10=0.6, _12=0.8),
    (10, 1): direction(_10=0.5, _12=0.866),
}


class Fake:
    """Image i is direction i; its captions too, but for some, so that the recalls can be worked out by hand."""

    name = "Fake"
    note = ""

    def __init__(self):
        self.batches = []

    def image_features(self, images):
        self.batches.append(len(images))
        return torch.stack([direction(**{f"_{image.getpixel((0, 0))[0] // 20}": 1.0}) for image in images])

    def text_features(self, texts):
        self.batches.append(len(texts))
        features = []
        for text in texts:
            image = int(re.match(r"\d+", text)[0])
            which = [*caption_sets.captions(image), *caption_sets.captions(image, "zh")].index(text) % 2
            features.append(ODD_TEXTS.get((image, which), direction(**{f"_{image}": 1.0})))
        return torch.stack(features)

    def similarity(self, texts, images):
        return texts @ images.T

    image_to_text_similarity = similarity


BY_HAND = [22 / 24 * 100, 100.0, 100.0, 11 / 12 * 100, 100.0, 100.0]


def run(data, *systems, **settings):
    return list(evaluate_retrieval(systems or [Fake()], data, **settings))


def read(form, folder, language="en", **settings):
    arguments = caption_sets.write(form, folder, language)
    return read_captions(arguments.pop("captions"), arguments.pop("images"), **arguments, **settings)


@pytest.mark.parametrize("form", caption_sets.WRITERS)
def test_every_format_gives_the_figures_worked_out_by_hand(tmp_path, form):
    for language in ("en", "zh"):
        folder = tmp_path / language
        folder.mkdir()
        (result,) = run(read(form, folder, language))
        (row,) = as_json([result])["results"]
        assert [row["measured"][column] for column in COLUMNS] == pytest.approx([*BY_HAND, sum(BY_HAND) / 6], abs=1e-12)
        assert (result.images, result.captions, result.language, result.problems) == (COUNT, 2 * COUNT, language, [])


class Random(Fake):
    """Random directions, the same for the same text and for the same colour."""

    name = "Random"

    def image_features(self, images):
        return torch.stack([self.of(str(image.getpixel((0, 0)))) for image in images])

    def text_features(self, texts):
        return torch.stack([self.of(text) for text in texts])

    @staticmethod
    def of(text):
        vector = np.random.default_rng(zlib.crc32(text.encode())).normal(size=8)
        return torch.from_numpy(vector / np.linalg.norm(vector)).float()


def by_numpy(captions):
    """COLUMNS of Random. captions: of each image, in the order of caption_sets."""
    images = np.stack([Random.of(str(caption_sets.colour(image))) for image in range(COUNT)])
    owner = np.repeat(np.arange(COUNT), [len(texts) for texts in captions])
    similarity = np.stack([Random.of(text) for texts in captions for text in texts]) @ images.T
    own = similarity[np.arange(len(owner)), owner]
    ranks = (similarity > own[:, None]).sum(1)
    back = [(similarity[:, image] > own[owner == image].max()).sum() for image in range(COUNT)]
    recalls = [100 * np.mean(np.asarray(place) < k) for place in (ranks, back) for k in (1, 5, 10)]
    return [*recalls, np.mean(recalls)]


@pytest.mark.parametrize("form", MULTILINGUAL)
def test_every_set_in_many_languages_gives_the_figures_of_numpy(tmp_path, form):
    for language in ("en", "zh"):
        for used, count, which in (("all", 2, "all captions"), ("first", 1, "the first caption")):
            folder = tmp_path / f"{language}-{used}"
            folder.mkdir()
            (result,) = run(read(form, folder, language, used=used), Random())
            (row,) = as_json([result])["results"]
            expected = by_numpy([caption_sets.captions(image, language)[:count] for image in range(COUNT)])
            assert [row["measured"][column] for column in COLUMNS] == pytest.approx(expected, abs=1e-9)
            assert (result.captions, row["protocol"]["captions"]) == (count * COUNT, f"{which} of each image")


@pytest.mark.parametrize("batch_size", [1, 5, 24, 100])
def test_batch_size_changes_no_figure(tmp_path, batch_size):
    data = read("token", tmp_path)
    fake = Fake()
    (result,) = run(data, fake, batch_size=batch_size)
    assert result.metrics == run(data)[0].metrics
    assert sum(fake.batches) == 3 * COUNT
    assert max(fake.batches) == min(batch_size, 2 * COUNT)


def test_bad_images_are_listed_and_the_rest_is_done(tmp_path):
    data = read("token", tmp_path)
    bad = tmp_path / "pictures" / f"{IDS[3]}.png"
    bad.write_bytes(bad.read_bytes()[:40])
    results = run(data, Fake(), Fake(), max_skipped=0.1)
    for result in results:
        assert [(problem.where, problem.reason) for problem in result.problems] == [
            (str(bad), "no image that can be read: expected JPEG, PNG, WebP or the like")
        ]
        assert (result.images, result.captions) == (COUNT - 1, 2 * COUNT - 2)
        assert result.metrics.text_to_image[0] == pytest.approx(21 / 22 * 100)  # image 3's wrong caption is gone
    with pytest.raises(InputError, match=r"1 of 12 records .*no image.*--max-skipped"):
        run(data)


def test_where_no_image_can_be_read_nothing_is_measured(tmp_path):
    data = read("token", tmp_path)
    for path in (tmp_path / "pictures").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no caption is left"):
        run(data, max_skipped=1.0)


def test_pictures_are_decoded_while_the_system_computes(tmp_path):
    data = read("token", tmp_path)
    later = threading.Event()

    def watched(number, source):
        def read_bytes():
            if number == 5:
                later.set()
            return source.read()

        return replace(source, read=read_bytes)

    data = replace(data, images=[watched(number, source) for number, source in enumerate(data.images)])

    class Slow(Fake):
        def image_features(self, images):
            assert later.wait(timeout=20), "the second batch is not decoded while the first is computed"
            return super().image_features(images)

    assert run(data, Slow(), batch_size=4)[0].metrics == run(data)[0].metrics


def test_systems_may_be_made_when_their_turn_comes(tmp_path):
    made = []

    def systems():
        for number in range(2):
            made.append(number)
            yield Fake()

    results = evaluate_retrieval(systems(), read("token", tmp_path))
    next(results)
    assert made == [0]
    assert len([*results]) == 1


class TokenWise(Fake):
    """Two tokens an image, as many a text as the batch needs; text to image and image to text differ."""

    name = "Token-wise"
    note = "it compares token by token"

    def image_features(self, images):
        features = super().image_features(images)
        return torch.stack([features, 0.5 * features.roll(1, 1)], 1)

    def text_features(self, texts):
        features = super().text_features(texts)
        return F.pad(features[:, None], (0, 0, 0, len(texts)))  # padding is zero

    def similarity(self, texts, images):
        return torch.einsum("aic,bjc->abij", texts, images).amax(3).sum(2)

    def image_to_text_similarity(self, texts, images):
        return -self.similarity(texts, images)


def test_token_wise_systems_have_a_similarity_for_each_direction(tmp_path):
    (result,) = run(read("token", tmp_path), TokenWise(), batch_size=5)
    assert result.metrics.text_to_image[0] > 60
    assert result.metrics.image_to_text[0] < 20
    assert result.notes == ["Token-wise: it compares token by token"]


@pytest.mark.parametrize("published", [None, True, False])
def test_published_figures_stand_beside_flickr30ks_test_set_alone(tmp_path, published):
    altclip = Fake()
    altclip.name = "AltCLIP"
    for language in ("en", "zh", "it"):
        data = replace(read("token", tmp_path), language=language)
        (result,) = run(data, altclip, published=published)
        rows = ["AltCLIP", "AltCLIP*"] if published and language != "it" else []
        assert [row.system for row in result.published] == rows


def test_published_figures_stand_beside_every_known_set(tmp_path):
    data = read("babel", tmp_path)
    altclip, names = Fake(), [f"COCO_{'train' if n < 800 else 'val'}2014_{n:012}.jpg" for n in range(1000)]
    altclip.name = "AltCLIP"
    images, captions = [data.images[0]] * 1000, [data.captions[0]] * 1000
    xtd10 = replace(data, image_names=names, images=images, captions=captions, positives=[(n,) for n in range(1000)])
    (result,) = run(xtd10, altclip, batch_size=500)
    assert [row.about for row in result.published] == ["XTD10, 1000 images with a caption each"]


def test_features_of_another_number_or_with_nan_are_refused(tmp_path):
    data = read("token", tmp_path)

    class Short(Fake):
        def text_features(self, texts):
            return super().text_features(texts)[1:]

    class Overflowed(Fake):
        def text_features(self, texts):
            return super().text_features(texts) * torch.nan

    with pytest.raises(InputError, match="Fake returned 23 features, expected 24"):
        run(data, Short())
    with pytest.raises(InputError, match="NaN at row 0, column 0"):
        run(data, Overflowed())


def test_a_system_that_must_know_the_language_is_told_before_it_reads(tmp_path):
    class Told(Fake):
        language = None

        def __init__(self):
            super().__init__()
            self.protocol = {}

        def use_language(self, language):
            self.language = language
            return f"texts as {language}"

        def text_features(self, texts):
            assert self.language == "zh"
            return super().text_features(texts)

    (result,) = run(read("xm3600", tmp_path, "zh"), Told())
    assert result.protocol["language"] == "texts as zh"
