"""Sentences of general parallel text that read like captions."""

import pytest
from helpers.tables import read, tsv

from altdiffusion.data.caption_like import CaptionTable, why_no_caption


@pytest.mark.parametrize(
    "sentence",
    [
        "a cat",
        "A black cat sleeps on a red sofa.",
        "Two dogs, 3 birds and a boat on a lake at night",
        "an oil painting of a lighthouse, by Turner",
        "The house was built in 1897 of grey stone.",
        "Yellow noodles with a fried egg",  # "yes", "no", "i" are words, not parts of them
        "The Museum of Modern Art in Milan; its ceiling",
    ],
)
def test_what_describes_something_is_kept(sentence):
    assert why_no_caption(sentence) is None


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("Help!", "not 2 to 40 words"),
        ("a cat and " * 20, "not 2 to 40 words"),
        ("more at www.example.org today", "an address"),
        ("write to someone@example.org for a copy", "an address"),
        ("the site example.com has a cat", "an address"),
        ("from 12.05.1999 to 14.06.2001", "digits"),
        ("Choose <b>File</b> from the menu", "markup"),
        ("♪ the moon is high ♪", "markup"),
        ("The value of x_1 in the table", "markup"),
        ("- A cat sat down.", "dialogue"),
        ("Where is the cat", None),
        ("Where is the cat?", "dialogue"),
        ("I saw a cat", "dialogue"),
        ("the cat is looking at YOU", "dialogue"),
        ("Let's find the cat", "dialogue"),
        ("the cat that we found", "dialogue"),
    ],
)
def test_what_is_said_or_computed_is_left_out_with_its_reason(sentence, reason):
    assert why_no_caption(sentence) == reason


def test_the_records_left_are_numbered_anew_and_still_know_their_lines(tmp_path):
    rows = [("a cat", "一"), ("Yes, sir!", "二"), ("two dogs", "三"), ("a", "四"), ("the moon", "五")]
    table = CaptionTable(read(tsv(tmp_path / "pairs.tsv", ("en", "zh"), *rows))[0], "en")
    assert [record["zh"] for record in table] == ["一", "三", "五"]
    assert [table[index]["zh"] for index in (2, 0, 1)] == ["五", "一", "三"]
    assert table.where(1).endswith("pairs.tsv:4")
    assert table.columns == ("en", "zh")
    assert table.left_out == {"dialogue": 1, "not 2 to 40 words": 1}
    assert "pairs.tsv: 3 of 5 records read like captions; left out: 1 dialogue, 1 not 2 to 40 words" in table.summary()
