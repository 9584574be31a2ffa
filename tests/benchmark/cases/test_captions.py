"""The captions that text features are timed on."""

from altdiffusion.benchmark.cases.captions import captions


def test_captions_differ_and_are_half_chinese():
    found = captions(40)
    assert len(set(found)) == 40
    assert sum(not each.isascii() for each in found) == 20
