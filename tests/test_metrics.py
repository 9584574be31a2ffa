"""Metrics on matrices worked out by hand, and against the peers' own implementations."""

import importlib
import json
import runpy
import struct
import sys

import pytest
import torch
import torch.nn.functional as F

from altdiffusion import InputError
from altdiffusion.metrics import (
    Estimate,
    RetrievalMetrics,
    bootstrap_mean,
    classification_metrics,
    own_prompt_first,
    parity,
    recall_at_k,
    retrieval_metrics,
    retrieval_metrics_of_features,
)

SIMILARITY = torch.tensor([[0.9, 0.5, 0.1], [0.8, 0.7, 0.1], [0.3, 0.2, 0.1], [0.1, 0.2, 0.3]])


@pytest.mark.parametrize(("k", "recall"), [(1, 0.5), (2, 0.75), (3, 1.0), (10, 1.0)])
def test_recall_at_k(k, recall):
    relevant = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]).bool()
    assert recall_at_k(SIMILARITY, relevant, k) == recall


def test_any_relevant_item_will_do():
    relevant = torch.tensor([[0, 1, 1], [1, 1, 0], [0, 0, 1], [1, 1, 0]]).bool()
    assert recall_at_k(SIMILARITY, relevant, 1) == 0.25


# ---- by hand


def by_hand():
    """12 images, 2 captions each. The text's image is at the rank given, from 1; all others are in order of number.

    Texts 2i and 2i + 1 belong to image i.
    """
    ranks = [1, 1, 2, 5, 6, 10, 11, 12, 1, 3, *[1] * 14]
    similarity = torch.zeros(24, 12)
    for text, rank in enumerate(ranks):
        others = [image for image in range(12) if image != text // 2]
        order = [*others[: rank - 1], text // 2, *others[rank - 1 :]]
        similarity[text, order] = torch.arange(12.0, 0, -1)
    return similarity, torch.tensor([(text, text // 2) for text in range(24)])


def test_text_to_image_by_hand():
    similarity, positives = by_hand()
    metrics = retrieval_metrics(similarity, positives)
    # ranks above 1: 2 5 6 10 11 12 3; above 5: 6 10 11 12; above 10: 11 12
    assert metrics.text_to_image == (17 / 24 * 100, 20 / 24 * 100, 22 / 24 * 100)


def test_image_to_text_by_hand():
    # image 0: its captions are 0 and 1, caption 1 is the most similar; image 1 has caption 2 at rank 2, 3 at rank 4
    similarity = torch.tensor([[0.1, 0.9], [0.8, 0.5], [0.4, 0.7], [0.3, 0.2]])
    positives = torch.tensor([(0, 0), (1, 0), (2, 1), (3, 1)])
    assert retrieval_metrics(similarity, positives).image_to_text == (50.0, 100.0, 100.0)


def test_mean_recall_is_that_of_all_six():
    assert RetrievalMetrics((66.3, 87.8, 92.7), (85.9, 97.7, 99.1)).mean == pytest.approx(88.25)


def test_a_text_may_belong_to_several_images():
    positives = torch.tensor([(0, 1), (0, 2)])
    metrics = retrieval_metrics(torch.tensor([[0.3, 0.1, 0.2]]), positives)
    assert metrics.text_to_image == (0.0, 100.0, 100.0)


def test_what_belongs_to_nothing_is_searched_but_no_query():
    similarity = torch.tensor([[0.5, 0.9], [0.9, 0.1]])
    metrics = retrieval_metrics(similarity, torch.tensor([(0, 0)]))  # image 1 and text 1 are distractors
    assert metrics.text_to_image[0] == 0.0
    assert metrics.image_to_text[0] == 0.0
    assert metrics.text_to_image[1] == metrics.image_to_text[1] == 100.0


def test_the_other_direction_may_have_similarities_of_its_own():
    positives = torch.tensor([(0, 0), (1, 1)])
    metrics = retrieval_metrics(torch.eye(2), positives, 1 - torch.eye(2))
    assert metrics.text_to_image[0] == 100.0
    assert metrics.image_to_text[0] == 0.0


# ---- ties


def test_of_equal_items_the_first_counts_as_more_similar():
    similarity = torch.zeros(30, 30)  # as of a model that has collapsed: one query in thirty is answered, by chance
    positives = torch.arange(30)[:, None].expand(30, 2)
    metrics = retrieval_metrics(similarity, positives)
    assert metrics.text_to_image == metrics.image_to_text == (1 / 30 * 100, 5 / 30 * 100, 10 / 30 * 100)


def test_ties_are_ordered_as_pythons_stable_sort_orders_them():
    similarity = torch.randint(0, 6, (50, 40)).float()
    relevant = torch.rand(50, 40) < 0.05
    relevant[:, 7] = True
    for k in (1, 3, 10):
        top = [sorted(range(40), key=lambda item, row=row: -row[item])[:k] for row in similarity.tolist()]
        right = sum(bool(relevant[query, items].any()) for query, items in enumerate(top))
        assert recall_at_k(similarity, relevant, k) == right / 50


# ---- blocks


@pytest.mark.parametrize("block", [1, 3, 7, 10, 11, 64, 1000])
@pytest.mark.parametrize(("texts", "images"), [(57, 23), (19, 45)])
def test_blocks_give_what_the_whole_matrix_gives(block, texts, images):
    of_texts, of_images = (torch.randint(-2, 3, (count, 6)).float() for count in (texts, images))  # exact, many ties
    positives = torch.stack([torch.arange(texts), torch.randint(0, images, (texts,))], 1)
    whole = retrieval_metrics(of_texts @ of_images.T, positives)
    assert retrieval_metrics_of_features(of_texts, of_images, positives, block=block) == whole
    assert retrieval_metrics_of_features(of_texts, of_images, positives) == whole


def test_blocks_use_the_similarity_of_each_direction():
    texts, images = torch.randint(-2, 3, (19, 4, 3)).float(), torch.randint(-2, 3, (13, 5, 3)).float()

    def to_images(texts, images):  # for each token of the text the best of the image, then the mean
        return torch.einsum("aic,bjc->abij", texts, images).amax(3).sum(2)

    def to_texts(texts, images):
        return torch.einsum("aic,bjc->abij", texts, images).amax(2).sum(2)

    positives = torch.stack([torch.arange(19), torch.randint(0, 13, (19,))], 1)
    whole = retrieval_metrics(to_images(texts, images), positives, to_texts(texts, images))
    assert retrieval_metrics_of_features(texts, images, positives, to_images, to_texts, block=4) == whole
    assert retrieval_metrics_of_features(texts, images, positives, to_images, to_texts) == whole


def test_half_precision_features_are_compared_in_float32():
    texts, images = F.normalize(torch.randn(40, 16), dim=1).half(), F.normalize(torch.randn(30, 16), dim=1).half()
    positives = torch.stack([torch.arange(40), torch.arange(40) % 30], 1)
    whole = retrieval_metrics_of_features(texts.float(), images.float(), positives)
    assert retrieval_metrics_of_features(texts, images, positives) == whole


# ---- bad input


@pytest.mark.parametrize("block", [2, 100])
def test_nan_is_refused_where_it_stands(block):
    images = torch.rand(9, 4)
    images[5, 1] = torch.nan
    with pytest.raises(InputError, match="NaN at row 0, column 5"):
        retrieval_metrics_of_features(torch.rand(7, 4), images, torch.tensor([(0, 0)]), block=block)
    with pytest.raises(InputError, match="NaN at row 2, column 1"):
        recall_at_k(torch.tensor([[1.0, 0], [0, 1], [0, torch.nan]]), torch.ones(3, 2).bool(), 1)


def test_positives_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="at least one pair"):
        retrieval_metrics(SIMILARITY, torch.zeros(0, 2, dtype=torch.int64))
    with pytest.raises(InputError, match=r"image 3 .*3 images"):
        retrieval_metrics(SIMILARITY, torch.tensor([(0, 0), (1, 3)]))
    with pytest.raises(InputError, match=r"\(4, 3\) one way and \(3, 4\) the other"):
        retrieval_metrics(SIMILARITY, torch.tensor([(0, 0)]), SIMILARITY.T)


# ---- classification


def test_classification_by_hand():
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.1], [0.6, 0.5, 0.4], [0.1, 0.3, 0.2]])
    metrics = classification_metrics(scores, torch.tensor([0, 1, 1, 2]))
    assert metrics == {"top1": 0.5, "top5": 1.0, "mean_per_class_recall": pytest.approx((1 + 0.5 + 0) / 3)}


def test_of_equal_scores_the_first_class_counts():
    assert classification_metrics(torch.zeros(2, 7), torch.tensor([0, 6]))["top1"] == 0.5
    assert classification_metrics(torch.zeros(2, 7), torch.tensor([4, 5]))["top5"] == 0.5


def test_scores_that_are_nan_are_refused():
    with pytest.raises(InputError, match="NaN"):
        classification_metrics(torch.tensor([[float("nan"), 0.0]]), torch.tensor([0]))


# ---- generated images


def test_a_tie_is_lost_but_the_same_prompt_is_no_rival():
    scores = torch.tensor([[0.5, 0.5, 0.5], [0.1, 0.3, 0.2], [0.5, 0.1, 0.5]])
    assert own_prompt_first(scores, ["a cat", "a dog", "a cat"]) == [False, True, True]
    assert own_prompt_first(torch.full((3, 3), 0.7), ["1", "2", "3"]) == [False] * 3


# ---- the peers


def features(seed, texts, images, exact=False):
    """Unit vectors, or small integers that tie often; every image has a text."""
    random = torch.Generator().manual_seed(seed)
    if exact:
        made = [torch.randint(-2, 3, (count, 5), generator=random).float() for count in (texts, images)]
    else:
        made = [F.normalize(torch.randn(count, 24, generator=random), dim=1) for count in (texts, images)]
    belongs = torch.cat([torch.arange(images), torch.randint(0, images, (texts - images,), generator=random)])
    if not exact:  # so that the recalls are neither 0 nor 100
        made[0] = F.normalize(made[0] + 0.3 * made[1][belongs], dim=1)
    return made[0], made[1], belongs


def float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_clip_benchmark(seed):
    peer = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval")
    random = torch.Generator().manual_seed(seed)
    images, captions = torch.eye(60)[:, :32] + 0.1 * torch.randn(60, 32, generator=random), 5
    texts = images.repeat_interleave(captions, 0) + torch.randn(300, 32, generator=random)

    class Model:
        encode_image = staticmethod(lambda numbers: images[numbers])
        encode_text = staticmethod(lambda numbers: texts[numbers])

    batches = [
        (torch.arange(start, start + 20), [[image * captions + i for i in range(captions)] for image in range(start, start + 20)])
        for start in (0, 20, 40)
    ]  # fmt: skip
    theirs = peer.evaluate(Model(), batches, torch.tensor, "cpu", amp=False, recall_k_list=[1, 5, 10])
    positives = torch.stack([torch.arange(300), torch.arange(300) // captions], 1)
    ours = retrieval_metrics_of_features(F.normalize(texts, dim=-1), F.normalize(images, dim=-1), positives)
    assert 0 < ours.text_to_image[0] < ours.text_to_image[2] < 100
    for place, k in enumerate((1, 5, 10)):  # its shares are float32
        assert float32(ours.text_to_image[place] / 100) == theirs[f"image_retrieval_recall@{k}"]
        assert float32(ours.image_to_text[place] / 100) == theirs[f"text_retrieval_recall@{k}"]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_chinese_clip(seed, exact, tmp_path, monkeypatch):
    """Its whole chain: features in files -> predictions in files -> scores; it breaks ties as we do."""
    pytest.importorskip("cn_clip.eval.evaluation")
    texts, images, belongs = features(seed, 90, 40, exact)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)

    def lines(name, objects):
        (tmp_path / name).write_text("".join(json.dumps(each) + "\n" for each in objects))
        return str(tmp_path / name)

    text_file = lines("t.jsonl", [{"text_id": i, "feature": each} for i, each in enumerate(texts.tolist())])
    image_file = lines("i.jsonl", [{"image_id": i, "feature": each} for i, each in enumerate(images.tolist())])
    of_images = {image: [text for text in range(90) if belongs[text] == image] for image in range(40)}
    answers = {
        "evaluation": [{"text_id": text, "image_ids": [int(image)]} for text, image in enumerate(belongs)],
        "evaluation_tr": [{"image_id": image, "text_ids": found} for image, found in of_images.items()],
    }
    scores = {}
    for script, predict in (("evaluation", "make_topk_predictions"), ("evaluation_tr", "make_topk_predictions_tr")):
        out = str(tmp_path / f"{script}.predicted.jsonl")
        arguments = [
            "",
            "--image-feats",
            image_file,
            "--text-feats",
            text_file,
            "--eval-batch-size",
            "17",
            "--output",
            out,
        ]
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_module(f"cn_clip.eval.{predict}", run_name="__main__")
        golden = lines(f"{script}.jsonl", answers[script])
        _, *scores[script] = importlib.import_module(f"cn_clip.eval.{script}").compute_score(golden, out)
    ours = retrieval_metrics_of_features(texts, images, torch.stack([torch.arange(90), belongs], 1), block=13)
    assert list(ours.text_to_image) == scores["evaluation"]
    assert list(ours.image_to_text) == scores["evaluation_tr"]
    assert 0 < ours.text_to_image[2] < 100


# ---- intervals and parity


@pytest.mark.parametrize(("fraction", "count"), [(0.5, 400), (0.8, 400), (0.95, 1000)])
def test_the_bootstrap_interval_of_a_mean_is_near_that_of_the_normal_distribution(fraction, count):
    values = [index < fraction * count for index in range(count)]
    spread = 1.96 * (fraction * (1 - fraction) / count) ** 0.5
    estimate = bootstrap_mean(values)
    assert estimate.value == pytest.approx(fraction)
    assert (estimate.low, estimate.high) == pytest.approx((fraction - spread, fraction + spread), abs=0.2 * spread)


@pytest.mark.parametrize(
    ("reached", "in_english", "ratio"),
    [
        ([1, 1, 1, 1], [1, 1, 1, 1], 1),
        ([1, 0, 1, 0], [1, 1, 1, 1], 0.5),
        ([1, 0, 0, 0], [1, 0, 1, 0], 0.5),
        ([0, 0, 0, 0], [1, 0, 1, 0], 0),
        ([True, True, True, True], [True, False, True, False], 2),  # better than English
        ([0.3, 0.3], [0.4, 0.2], 1),
    ],
)
def test_parity_is_the_ratio_of_what_is_reached(reached, in_english, ratio):
    estimate = parity(reached, in_english)
    assert estimate.value == pytest.approx(ratio)
    assert estimate.low <= estimate.value <= estimate.high


def test_parity_pairs_prompts():
    """Half of the prompts are wrong, but the same ones in both: that is parity without doubt, and in others it is not."""
    english = [index % 2 for index in range(60)]
    assert parity(english, english) == Estimate(1, 1, 1)
    others = parity([1 - right for right in english], english)
    assert others.value == 1
    assert others.low < 0.7 < 1.4 < others.high


@pytest.mark.parametrize(("reached", "in_english"), [([1, 0], [1]), ([1, 0], [0, 0]), ([], [])])
def test_parity_needs_the_same_prompts_and_something_to_compare_with(reached, in_english):
    with pytest.raises(InputError, match="English"):
        parity(reached, in_english)


def test_no_values_have_no_mean():
    with pytest.raises(InputError, match="no values"):
        bootstrap_mean([])
