"""Batches grow while that pays off and fits, shrink where memory runs out, and lose or repeat no job."""

import logging

import numpy as np
import pytest
import torch

from altdiffusion import AltDiffusionPipeline, InputError, generate
from altdiffusion.generation.auto_batch import MAX_SIZE, BatchSize, Memory, in_batches

CPU = torch.device("cpu")
GB = 2**30


def grown(seconds, taken, free=100 * GB, limit=20):
    """The sizes that are planned, for seconds(count) and bytes taken(count)."""
    planned, sizes = BatchSize(), []
    for _ in range(limit):
        sizes.append(planned.size)
        planned.learn(planned.size, seconds(planned.size), taken(planned.size), free)
    return sizes


def test_batches_double_while_an_image_gets_cheaper():
    sizes = grown(seconds=lambda n: max(n, 8.0), taken=lambda n: n)  # up to 8 cost what one costs
    assert sizes[:5] == [1, 2, 4, 8, 16]
    assert set(sizes[5:]) == {8}  # 16 took twice as long as 8


def test_batches_end_at_the_largest_size():
    assert max(grown(seconds=lambda n: 1.0, taken=lambda n: n)) == MAX_SIZE


def test_batches_end_before_the_memory_does():
    # 3 GB once and 1 GB an image: 8 would take 11 GB, 4 take 7
    sizes = grown(seconds=lambda n: 1.0, taken=lambda n: (3 + n) * GB, free=10 * GB)
    assert sizes[:3] == [1, 2, 4]
    assert max(sizes) == 4


def test_a_last_batch_that_is_smaller_teaches_nothing():
    planned = BatchSize()
    planned.learn(1, 1.0, 1, GB)
    planned.learn(1, 100.0, 1, GB)  # two were planned
    assert planned.size == 2


def test_every_job_is_done_once_and_in_order():
    batches = []

    def run(jobs):
        batches.append(len(jobs))
        return [job * 10 for job in jobs]

    assert list(in_batches(range(11), run, CPU, 4)) == [job * 10 for job in range(11)]
    assert batches == [4, 4, 3]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_where_memory_runs_out_halves_are_run_and_it_is_said(error, caplog):
    batches = []

    def run(jobs):
        batches.append(len(jobs))
        if len(jobs) > 2:
            raise error
        return jobs

    with caplog.at_level(logging.WARNING):
        assert list(in_batches(range(9), run, CPU, 8)) == list(range(9))
    assert batches == [8, 4, 2, 2, 2, 2, 1]
    assert "going on with 4" in caplog.text


def test_one_that_does_not_fit_is_one_clear_line():
    def run(jobs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB\nmore")

    with pytest.raises(InputError, match=r"^memory ran out at one image: take a smaller size[^\n]*$"):
        list(in_batches([1], run, CPU))


def test_other_errors_stay_as_they_are():
    def run(jobs):
        raise RuntimeError("shapes don't fit")

    with pytest.raises(RuntimeError, match="shapes don't fit"):
        list(in_batches([1, 2], run, CPU))


def test_the_peak_is_seen_though_it_is_over_at_the_end():
    memory = Memory(CPU)
    with memory:
        block = np.ones(2**27, np.uint8)
        del block
    assert 0.9 * 2**27 < memory.taken < 3 * 2**27
    assert memory.free() > 2**27


@pytest.mark.parametrize("batch_size", [2, 3, "auto"])
def test_images_are_those_generated_alone_but_for_rounding(published, batch_size):
    pipe = AltDiffusionPipeline.from_pretrained(published("m9"))
    options = {"model": pipe, "steps": 2, "size": (16, 16), "seed": 3, "num_images": 2, "negative_prompt": "狗"}
    alone = list(generate(["一只猫", "a cat"], **options))
    together = list(generate(["一只猫", "a cat"], **options, batch_size=batch_size))
    assert [each.settings for each in together] == [each.settings for each in alone]
    for one, other in zip(together, alone, strict=True):
        assert np.abs(np.asarray(one.image, np.int16) - np.asarray(other.image, np.int16)).max() <= 1


@pytest.mark.parametrize("batch_size", [0, -1, MAX_SIZE + 1])
def test_a_size_out_of_range_is_refused(batch_size):
    with pytest.raises(InputError, match="expected 1 to 64, or 'auto'"):
        next(generate("猫", batch_size=batch_size))
