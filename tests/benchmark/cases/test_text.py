"""The prompts that text encoders are timed on."""

import torch

from altdiffusion.benchmark.cases import text

CPU = torch.device("cpu")


def test_prompts_have_the_real_tokens_that_the_table_names():
    ids, empty = next(text.prompts(3, 100, CPU))
    assert ids.ne(1).sum(1).tolist() == [text.REAL] * 3
    assert empty.ne(1).sum(1).tolist() == [2] * 3
