"""PromptScorer: equal to AltCLIPModel, images held in any form, what is remembered, what is refused."""

import copy
import os
import pickle
import re
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import layouts
from helpers.small_altclip import save_small
from PIL import Image

from altdiffusion import AltCLIPProcessor, InputError, PromptScorer
from altdiffusion.altclip.length_batches import by_length

TEXTS = [*layouts.GREETINGS.values(), "cat", "cat " * 60, "a photo of a cat", "cat " * 300]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """(folder, oracle)."""
    folder = tmp_path_factory.mktemp("scoring") / "altclip"
    return folder, save_small(folder)


@pytest.fixture
def scorer(loaded):
    return PromptScorer.from_pretrained(loaded[0], device="cpu", batch_size=3)


def pictures(count=7):
    """Noise of odd sizes."""
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (30 + 3 * i, 50, 3), np.uint8)) for i in range(count)]


@pytest.fixture
def computed(scorer, monkeypatch):
    """A list that gets (images, texts) of each call of the model."""
    calls = []
    monkeypatch.setattr(scorer, "_encode_pixels", lambda pixels: calls.append(len(pixels)) or F.one_hot(
        torch.arange(len(pixels)), scorer.model.config.projection_dim).float())  # fmt: skip
    return calls


def padded(folder, texts):
    return AltCLIPProcessor.from_pretrained(folder)(
        text=list(texts), return_tensors="pt", padding="max_length", max_length=77
    )


def test_scores_equal_the_plain_model_padded_to_77(loaded, scorer):
    folder, oracle = loaded
    images = pictures()
    inputs = padded(folder, TEXTS)
    inputs["pixel_values"] = scorer.processor.image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = oracle(**inputs)
    got = scorer.score(images, TEXTS)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, output.logits_per_image / oracle.logit_scale.exp(), atol=1e-5, rtol=0)
    torch.testing.assert_close(scorer.text_features(TEXTS), output.text_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(scorer.image_features(images), output.image_embeds, atol=1e-5, rtol=0)
    assert got.std() > 0.05  # neither all alike, nor all of one image or text
    assert scorer.logit_scale == pytest.approx(oracle.logit_scale.exp().item(), rel=1e-6)


def test_plain_model_and_processor_will_do(loaded, scorer):
    folder, oracle = loaded
    plain = PromptScorer(oracle, AltCLIPProcessor.from_pretrained(folder))
    torch.testing.assert_close(plain.score(pictures(2), TEXTS), scorer.score(pictures(2), TEXTS), atol=1e-5, rtol=0)


def test_half_precision_is_near(loaded, scorer):
    half = PromptScorer.from_pretrained(loaded[0], device="cpu", dtype=torch.bfloat16)
    got = half.score(pictures(3), TEXTS)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, scorer.score(pictures(3), TEXTS), atol=0.1, rtol=0)


def test_rank_is_best_first_and_keeps_the_order_of_equals(scorer):
    images = pictures(3)
    images = [images[0], images[1], images[0], images[2]]
    scorer.score(images, "一只猫")
    scores = scorer.score(images, "一只猫")[:, 0]  # now remembered: the same image has the same score to the last bit
    ranked = scorer.rank(images, "一只猫")
    assert sorted(index for index, _ in ranked) == [0, 1, 2, 3]
    assert [score for _, score in ranked] == sorted(scores.tolist(), reverse=True)
    assert all(score == scores[index].item() for index, score in ranked)
    places = [index for index, _ in ranked]
    assert places.index(0) + 1 == places.index(2)


def test_pictures_in_any_form_give_the_same(scorer, tmp_path):
    image = pictures(1)[0]
    values = np.array(image)
    image.save(tmp_path / "x.png")
    floats = values.astype(np.float32) / 255
    chw = torch.from_numpy(values).permute(2, 0, 1)
    forms = [
        image,
        tmp_path / "x.png",
        str(tmp_path / "x.png"),
        values,
        values.astype(np.int64),
        floats,
        floats.astype(np.float64),
        np.moveaxis(floats, -1, 0),
        chw,
        chw.long(),
        chw.float() / 255,
        (chw.float() / 255).requires_grad_(),
        chw.permute(1, 2, 0),
        image.convert("RGBA"),
        np.concatenate([values, np.full_like(values[..., :1], 255)], -1),
    ]
    expected = scorer.image_features(image)
    assert expected.shape == (1, 32)
    for form in forms:
        scorer.forget()
        torch.testing.assert_close(scorer.image_features(form), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(scorer.image_features(forms), expected.expand(len(forms), -1), atol=1e-6, rtol=0)


def test_arrays_of_four_dimensions_are_sequences(scorer):
    random = np.random.default_rng(1)
    values = random.integers(0, 256, (3, 40, 32, 3), np.uint8)
    expected = scorer.image_features([Image.fromarray(each) for each in values])
    for batch in (values, torch.from_numpy(values).permute(0, 3, 1, 2), torch.from_numpy(values), values / 255):
        scorer.forget()
        torch.testing.assert_close(scorer.image_features(batch), expected, atol=1e-6, rtol=0)


def test_grey_arrays_are_grey_pictures(scorer):
    values = np.random.default_rng(2).integers(0, 256, (40, 32), np.uint8)
    expected = scorer.image_features(Image.fromarray(values).convert("RGB"))
    for form in (values, values[..., None], torch.from_numpy(values)[None], values / 255):
        scorer.forget()
        torch.testing.assert_close(scorer.image_features(form), expected, atol=1e-6, rtol=0)


def test_files_and_open_pictures_are_seen_alike(scorer, tmp_path):
    """CMYK, 16 bits, transparency, EXIF turns, animations: the first frame."""
    base = pictures(2)
    exif = Image.Exif()
    exif[0x0112] = 6
    base[0].save(tmp_path / "turned.jpg", exif=exif)
    base[0].convert("CMYK").save(tmp_path / "cmyk.jpg")
    base[0].save(tmp_path / "animated.gif", save_all=True, append_images=[base[1].resize(base[0].size)])
    base[0].save(tmp_path / "animated.png", save_all=True, append_images=[base[1].resize(base[0].size)])
    Image.fromarray(np.random.default_rng(3).integers(0, 65536, (40, 32), np.uint16)).save(tmp_path / "16 bit.png")
    base[1].putalpha(Image.linear_gradient("L").resize(base[1].size))
    base[1].save(tmp_path / "alpha.webp", lossless=True)
    for path in sorted(tmp_path.iterdir()):
        from_file = scorer.image_features(path)
        with Image.open(path) as opened:
            torch.testing.assert_close(scorer.image_features(opened), from_file, atol=1e-6, rtol=0)
        assert from_file.isfinite().all(), path
    first = scorer.image_features(base[0])
    torch.testing.assert_close(scorer.image_features(tmp_path / "animated.png"), first, atol=1e-6, rtol=0)
    as_stored = Image.fromarray(np.array(Image.open(tmp_path / "turned.jpg")))
    turned = scorer.image_features([as_stored.transpose(Image.Transpose.ROTATE_270), as_stored])
    torch.testing.assert_close(scorer.image_features(tmp_path / "turned.jpg")[0], turned[0], atol=1e-6, rtol=0)
    assert not torch.allclose(turned[0], turned[1], atol=0.01)
    cmyk = Image.open(tmp_path / "cmyk.jpg").convert("RGB")
    torch.testing.assert_close(
        scorer.image_features(tmp_path / "cmyk.jpg"), scorer.image_features(cmyk), atol=1e-6, rtol=0
    )


BAD = {
    "missing.png": "no such image",
    "": "no such image",
    "text.png": "no image that can be read",
    "truncated.png": "is it whole",
    "line.png": "wider or higher",
}
BAD_VALUES = [
    (np.full((8, 8, 3), 1.5), "values from 1.5 to 1.5"),
    (np.full((8, 8, 3), -1, np.int32), "integers from -1 to -1"),
    (torch.full((3, 8, 8), 128.0), "values from 128 to 128"),
    (torch.randn(3, 8, 8), r"values from -\d"),
    (np.full((8, 8, 3), np.nan), "NaN"),
    (torch.full((3, 8, 8), float("inf")), "infinite"),
    (np.zeros((8, 8, 2)), r"shape \(8, 8, 2\), expected \(height"),
    (torch.zeros(5, 8, 8), r"shape \(5, 8, 8\), expected \(channels"),
    (np.zeros(8), r"shape \(8,\)"),
    (np.zeros((0, 8, 3)), r"shape \(0, 8, 3\)"),
    (torch.zeros(2, 3, 8, 8), r"shape \(2, 3, 8, 8\)"),
    (np.zeros((8, 8, 3), bool), "type bool"),
    (np.zeros((8, 8, 3), complex), "type complex128"),
    (None, "got a NoneType"),
    (3, "got a int"),
]


@pytest.fixture
def bad_files(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    pictures(1)[0].save(tmp_path / "truncated.png")
    (tmp_path / "truncated.png").write_bytes((tmp_path / "truncated.png").read_bytes()[:500])
    Image.new("RGB", (1, 5000)).save(tmp_path / "line.png")
    return [(tmp_path / name, defect) for name, defect in BAD.items()]


def test_first_bad_picture_is_named_in_one_line(scorer, bad_files):
    for image, defect in bad_files + BAD_VALUES:
        with pytest.raises(InputError, match=f"^image 1: .*{defect}") as raised:
            scorer.score([pictures(1)[0], image], "a cat")
        assert "\n" not in str(raised.value)


def test_bad_pictures_are_listed_and_the_rest_is_done(scorer, bad_files):
    good = pictures(4)
    mixed = [good[0], *(image for image, _ in bad_files + BAD_VALUES), *good[1:]]
    bad = {}
    scores = scorer.score(mixed, TEXTS[:3], bad)
    assert list(bad) == list(range(1, 1 + len(bad_files + BAD_VALUES)))
    for reason, (_, defect) in zip(bad.values(), bad_files + BAD_VALUES, strict=True):
        assert re.search(defect, reason)
    assert scores[list(bad)].isnan().all()
    rest = [index for index in range(len(mixed)) if index not in bad]
    torch.testing.assert_close(scores[rest], scorer.score(good, TEXTS[:3]), atol=1e-6, rtol=0)
    assert {index for index, _ in scorer.rank(mixed, "a cat", {})} == set(rest)


@pytest.mark.parametrize("text", ["", "  \n", "\u3000"])
def test_empty_prompt_is_refused_or_listed(scorer, text):
    with pytest.raises(InputError, match="text 1: is empty"):
        scorer.score(pictures(1), ["cat", text])
    bad = {}
    features = scorer.text_features(["cat", text, "dog"], bad)
    assert list(bad) == [1]
    assert features[1].isnan().all()
    torch.testing.assert_close(features[[0, 2]], scorer.text_features(["cat", "dog"]), atol=1e-6, rtol=0)


def test_long_prompt_is_cut_as_the_model_cuts_and_said_so(loaded, scorer, caplog):
    text = "一只猫，" * 2500  # 10,000 characters
    got = scorer.text_features(["cat", text])[1]
    with torch.no_grad():
        expected = F.normalize(loaded[1].get_text_features(**padded(loaded[0], [text])).pooler_output, dim=-1)[0]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert "1 of 2 texts fill the 77 tokens" in caplog.text


@pytest.mark.parametrize("texts", [["cat", 3], ["cat", None], [b"cat"]])
def test_texts_that_are_none_are_named(scorer, texts):
    with pytest.raises(InputError, match=r"text \d is a (int|NoneType|bytes), expected a string"):
        scorer.text_features(texts)


def test_rank_wants_one_prompt(scorer):
    with pytest.raises(InputError, match="expected one prompt"):
        scorer.rank(pictures(1), ["cat", "dog"])


def test_nothing_gives_empty_tables(scorer):
    assert scorer.score([], ["cat", "dog"]).shape == (0, 2)
    assert scorer.score(pictures(2), []).shape == (2, 0)
    assert scorer.rank([], "cat") == []


@pytest.mark.parametrize("setting", [{"batch_size": 0}, {"cache_size": -1}, {"workers": 0}])
def test_settings_out_of_range_are_refused(loaded, setting):
    with pytest.raises(InputError, match="expected at least 1, 0 and 1"):
        PromptScorer(loaded[1], None, **setting)


def test_pictures_are_computed_in_batches_and_remembered_by_content(scorer, computed, tmp_path):
    images = pictures(7)
    scorer.image_features(images)
    assert computed == [3, 3, 1]
    scorer.image_features([image.copy() for image in images])
    scorer.image_features(np.array(images[0]))
    assert computed == [3, 3, 1]
    path = tmp_path / "x.png"
    images[0].save(path)
    for _ in range(2):
        scorer.image_features([path, str(path)])
    assert sum(computed) in (8, 9)  # both may be read before either is computed
    before = sum(computed)
    images[1].save(path)
    os.utime(path, ns=(1, 1))
    scorer.image_features(path)
    assert sum(computed) == before + 1
    scorer.forget()
    scorer.image_features(path)
    assert sum(computed) == before + 2


def test_no_more_is_remembered_than_asked_for(loaded):
    scorer = PromptScorer.from_pretrained(loaded[0], device="cpu", cache_size=2)
    calls = []
    scorer.model.text_model.register_forward_hook(lambda module, args, output: calls.append(len(output[0])))
    for texts, computed in [("a", 1), ("b", 2), ("a", 2), ("c", 3), ("a", 3), ("b", 4), (["x", "x"], 5)]:
        scorer.text_features(texts)
        assert sum(calls) == computed, texts
    nothing = PromptScorer(scorer.model, scorer.processor, cache_size=0)
    nothing.text_features("a")
    nothing.text_features("a")
    assert sum(calls) == 7


def test_texts_are_sorted_and_never_padded_beyond_their_batch(loaded):
    scorer = PromptScorer.from_pretrained(loaded[0], device="cpu", batch_size=1)
    shapes = []
    scorer.model.text_model.roberta.embeddings.register_forward_hook(
        lambda module, args, output: shapes.append(tuple(output.shape[:2]))
    )
    texts = ["cat " * (1 + number * 7 % 20) for number in range(40)]
    longest = max(len(scorer.processor.tokenizer(text).input_ids) for text in texts)
    scorer.text_features(texts)
    assert sum(rows for rows, _ in shapes) == len(set(texts))
    assert [width for _, width in shapes] == sorted((width for _, width in shapes), reverse=True)
    assert all(rows * width <= 77 for rows, width in shapes)
    assert shapes[0][1] == longest < 77


@pytest.mark.parametrize("budget", [1, 10, 77, 10_000])
def test_batches_hold_every_text_once_and_keep_to_the_budget(budget):
    lengths = torch.randint(2, 78, (300,)).tolist()
    batches = list(by_length(lengths, budget))
    assert sorted(number for batch in batches for number in batch) == list(range(300))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[number] for number in batch) <= budget


def test_a_batch_that_is_worth_its_start_takes_no_text_that_it_would_pad_by_a_quarter():
    assert [len(batch) for batch in by_length([40] * 10 + [10] * 10, 1000)] == [10, 10]
    assert [len(batch) for batch in by_length([40] * 3 + [10] * 10, 1000)] == [6, 7]  # too little to begin with
    assert [len(batch) for batch in by_length([40] * 10 + [33] * 10, 1000)] == [20]


def test_pictures_are_read_beside_computing(scorer, monkeypatch):
    """While the first batch is computed, the next is read."""
    next_is_read = threading.Event()
    read, compute = scorer._read, scorer._encode_pixels
    started = []

    def reading(image):
        started.append(image)
        if len(started) > 2 * scorer.batch_size:
            next_is_read.set()
        return read(image)

    def computing(pixels):
        assert next_is_read.wait(10)
        return compute(pixels)

    monkeypatch.setattr(scorer, "_read", reading)
    monkeypatch.setattr(scorer, "_encode_pixels", computing)
    scorer.image_features(pictures(12))


def test_many_pictures_are_not_all_held_at_once(scorer, monkeypatch):
    started, read = [], scorer._read
    monkeypatch.setattr(scorer, "_read", lambda image: started.append(image) or read(image))
    seen = []
    compute = scorer._encode_pixels
    monkeypatch.setattr(scorer, "_encode_pixels", lambda pixels: seen.append(len(started)) or compute(pixels))
    scorer.image_features(pictures(20))
    assert seen[0] <= 3 * scorer.batch_size


def test_copies_work_and_remember_nothing(scorer):
    expected = scorer.score(pictures(2), "cat")
    for twin in (copy.deepcopy(scorer), pickle.loads(pickle.dumps(scorer))):
        assert not twin._images._rows
        torch.testing.assert_close(twin.score(pictures(2), "cat"), expected)


def test_threads_share_a_scorer(scorer):
    expected = scorer.score(pictures(), TEXTS)
    scorer.forget()
    results = []
    threads = [threading.Thread(target=lambda: results.append(scorer.score(pictures(), TEXTS))) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(results) == 4
    for result in results:
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_features_that_are_no_numbers_are_an_error(scorer):
    scorer.model.visual_projection.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match=r"damaged weights, or too large ones for torch\.float32"):
        scorer.score(pictures(1), "cat")


def test_mini_tells_a_cat_from_a_dog_in_two_languages():
    from altdiffusion import generate

    scorer = PromptScorer.from_pretrained(device="cpu")
    images = [picture.image for picture in generate(["一只猫", "一只狗"], seed=1, device="cpu")]
    for cat, dog in (("一只猫", "一只狗"), ("a cat", "a dog")):
        scores = scorer.score(images, [cat, dog])
        assert scores.argmax(1).tolist() == [0, 1]
        assert scorer.rank(images, dog)[0][0] == 1
