"""Parallel text: which records of it are read."""

import pytest
from helpers.tables import tsv

from altdiffusion.checkpoints import hub
from altdiffusion.errors import InputError
from altdiffusion.text_encoder.tokenizer import load_any_tokenizer, load_tokenizer, tokens
from altdiffusion.training.inputs.parallel_text import ParallelText

ROWS = [("a cat", "一只猫"), ("Where are you?", "你在哪里"), ("a dog", "一只狗"), ("- Yes.", "是")]
CAPTIONS = [ROWS[0], ROWS[2]]
STUDENT = load_tokenizer(hub.MINI)
TEACHER = load_any_tokenizer(hub.sd_mini_folder() / "tokenizer")


def text(path, caption_like):
    return ParallelText([path], ["zh"], "en", STUDENT, TEACHER, 0, 0.0, caption_like=caption_like)


@pytest.mark.parametrize(("caption_like", "rows"), [(False, ROWS), (True, CAPTIONS)])
def test_only_what_reads_like_a_caption_is_read_where_that_is_asked_for(tmp_path, capsys, caption_like, rows):
    read = text(tsv(tmp_path / "pairs.tsv", ("en", "zh"), *ROWS), caption_like)
    assert len(read) == len(rows)
    expected = [(tokens(STUDENT, [zh])[0], tokens(TEACHER, [en])[0]) for en, zh in rows]
    assert read.of_language("zh", 500) == expected
    one_pass = read.read(range(len(rows)))
    assert sorted((pair.ids, pair.teacher_ids) for pair in one_pass) == sorted(expected)
    told = "pairs.tsv: 2 of 4 records read like captions; left out: 2 dialogue"
    assert (told in capsys.readouterr().err) == caption_like


def test_a_table_without_any_is_one_line(tmp_path):
    path = tsv(tmp_path / "pairs.tsv", ("en", "zh"), ROWS[1], ROWS[3])
    with pytest.raises(InputError, match=r"pairs\.tsv has no record that reads like a caption: leave out this table"):
        text(path, True)
