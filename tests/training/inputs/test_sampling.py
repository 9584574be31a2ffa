"""The order of the data: complete, in proportion, and a pure function of the seed and an index."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from altdiffusion import InputError
from altdiffusion.training.inputs.sampling import (
    Interleave,
    LengthBatches,
    Mixture,
    Records,
    Shuffled,
    language_weights,
    micro_batch,
    normal_noise,
)


class Listed:
    """A table of records held in memory."""

    def __init__(self, name, *records):
        self.path, self._records = Path(name), records
        self.columns = tuple(records[0])

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        return self._records[index]

    def where(self, index):
        return f"{self.path}:{index}"


def table(name, columns, size):
    return Listed(name, *({column: f"{name} {column} {i}" for column in columns} for i in range(size)))


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_every_pass_is_complete_and_in_its_own_order(size):
    order = Shuffled(size, 3)
    passes = [[order[p * size + i] for i in range(size)] for p in range(3)]
    assert all(sorted(order) == list(range(size)) for order in passes)
    assert size < 7 or passes[0] != passes[1] != passes[2]


@pytest.mark.parametrize("weights", [[1], [1, 1, 1], [5, 2, 0.001], [1e-9, 1], [0.3, 0.3, 0.4], list(range(1, 80))])
def test_interleave_gives_exact_fractions_in_every_block_and_numbers_each_stream_without_gaps(weights):
    interleave = Interleave(weights, 1)
    exact = np.asarray(weights) / sum(weights)
    dealt = [interleave.deal(index) for index in range(3 * interleave.size)]
    for blocks in (1, 2, 3):
        counts = Counter(stream for stream, _ in dealt[: blocks * interleave.size])
        for stream, slots in enumerate(interleave.slots):
            assert counts[stream] == blocks * slots
            assert abs(slots / interleave.size - exact[stream]) <= 0.0011 + 1e-3 * exact[stream]
    for stream in range(len(weights)):
        ranks = [rank for found, rank in dealt if found == stream]
        assert ranks == list(range(len(ranks)))


def test_mixture_reads_all_records_of_a_language_before_any_comes_again():
    records = Records([table("a", ("en", "zh"), 5), table("b", ("zh",), 3), table("c", ("en",), 4)])
    mixture = Mixture(records, {"en": 2.0, "zh": 1.0}, 7)
    samples = [mixture[index] for index in range(900)]
    for language, whole in (("en", [0, 1, 2, 3, 4, 8, 9, 10, 11]), ("zh", [0, 1, 2, 3, 4, 5, 6, 7])):
        mine = [sample.record for sample in samples if sample.language == language]
        for start in range(0, len(mine) - len(whole) + 1, len(whole)):
            assert sorted(mine[start : start + len(whole)]) == whole
    assert 1.9 < Counter(sample.language for sample in samples)["en"] / 300 < 2.1


def test_mixture_is_a_pure_function_of_the_index():
    records = Records([table("a", ("en", "zh"), 50)])
    there, anew = (Mixture(records, {"en": 1, "zh": 1}, 7) for _ in range(2))
    indices = [2999, 5, 1000, 999, 5]
    expected = {index: there[index] for index in range(3000)}
    assert [anew[index] for index in indices] == [expected[index] for index in indices]
    other = Mixture(records, {"en": 1, "zh": 1}, 8)
    assert [there[index] for index in range(50)] != [other[index] for index in range(50)]


def test_records_are_numbered_over_all_tables():
    records = Records([table("a", ("en",), 2), table("b", ("zh",), 3)])
    assert len(records) == 5
    assert [next(iter(records[number].values())) for number in range(5)] == [
        "a en 0",
        "a en 1",
        "b zh 0",
        "b zh 1",
        "b zh 2",
    ]
    assert records.where(4) == "b:2"
    assert [list(each) for each in records.ranges("zh")] == [[2, 3, 4]]


def test_length_batches_read_every_sample_once_and_batch_equal_lengths():
    lengths = np.random.default_rng(0).integers(1, 78, 10_000)
    batches = LengthBatches(
        lambda numbers: [(n, int(lengths[n])) for n in numbers], lambda sample: sample[1], 8, 0, pool=16
    )
    steps = [batches.batch(step) for step in range(32)]
    assert sorted(n for batch in steps for n, _ in batch) == list(range(256))
    assert all(a <= b for batch in steps for (_, a), (_, b) in pairwise(batch))
    padded = sum(8 * batch[-1][1] for batch in steps)
    assert padded < 1.15 * sum(length for batch in steps for _, length in batch)
    means = [np.mean([length for _, length in batch]) for batch in steps]
    assert means != sorted(means)


def test_length_batches_are_a_pure_function_of_the_step():
    def make():
        return LengthBatches(lambda numbers: [n * 37 % 101 for n in numbers], lambda n: n, 4, 5, pool=4)

    whole = make()
    expected = [whole.batch(step) for step in range(12)]
    assert [make().batch(step) for step in (11, 0, 5, 4)] == [expected[step] for step in (11, 0, 5, 4)]


def test_micro_batches_make_up_the_batch():
    batch = list(range(12))
    assert [sample for index in range(4) for sample in micro_batch(batch, index, 4)] == batch


def test_noise_depends_on_the_seed_alone():
    assert np.array_equal(normal_noise((3, 4), 1, 2), normal_noise((3, 4), 1, 2))
    assert not np.array_equal(normal_noise((3, 4), 1, 2), normal_noise((3, 4), 2, 1))
    noise = normal_noise((100, 100), 0)
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03


def test_language_weights():
    tables = [table("a", ("en", "zh"), 1), table("b", ("de",), 1)]
    assert language_weights(tables, ["en", "zh=2.5"]) == {"en": 1.0, "zh": 2.5}
    assert language_weights(tables, [], beside=["en"]) == {"zh": 1.0, "de": 1.0}


@pytest.mark.parametrize("asked", ["zh=0", "zh=-1", "zh=x", "zh=nan", "zh=inf", "fr"])
def test_a_language_that_is_not_there_or_has_no_weight_is_refused(asked):
    with pytest.raises(InputError, match=f"--languages {asked}"):
        language_weights([table("a", ("en", "zh"), 1)], ["en", asked])
