"""Prompts of which a part is in another language and a part literal English: what a bridge at CLIP's entrance learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizer

from altdiffusion.checkpoints import hub
from altdiffusion.text_encoder.tokenizer import load_any_tokenizer, read_tokenizer
from altdiffusion.training.inputs.mixed_prompts import MAX_ROW, MixedPrompts, Part
from altdiffusion.training.inputs.parallel_text import ParallelText

PAIRS = [
    ("a cat, blue background", "一只猫，蓝色背景"),
    ("a dog on a red background", "红色背景上的狗"),
    ("draw a tree, please, now", "请画一棵树，谢谢，现在"),
    ("a fish", "一条鱼"),
]


@pytest.fixture(scope="module")
def clip() -> CLIPTokenizer:
    return load_any_tokenizer(hub.sd_mini_folder() / "tokenizer")


@pytest.fixture(scope="module")
def altclip() -> Any:
    return read_tokenizer(hub.mini_folder())


def prompts(tmp_path: Path, altclip: Any, clip: Any, literal: float, pairs: Any = PAIRS) -> MixedPrompts:
    path = tmp_path / "pairs.tsv"
    path.write_text("en\tzh\n" + "".join(f"{en}\t{zh}\n" for en, zh in pairs), encoding="utf-8")
    text = ParallelText([str(path)], ["zh"], "en", altclip, clip, 0, 0.01)
    return MixedPrompts(text, altclip, clip, 0, literal)


def english(parts: list[Part], clip: Any) -> str:
    return clip.decode([token for part in parts for token in part.english])


def texts_read(parts: list[Part], altclip: Any) -> list[tuple[Part, str]]:
    return [(part, altclip.decode(part.ids)) for part in parts if part.ids is not None]


@pytest.mark.parametrize(
    ("text", "source", "around", "shared"),
    [
        ("a Napoleon on a blue background", "蓝色背景上的napoleon", "蓝色背景上的<mask>", "napoleon"),
        ("the Eiffel Tower at night", "la torre Eiffel de noche", "la torre<mask> de noche", "eiffel"),
        ("a cute Sankt Gallen", "可爱的Sankt Gallen", "可爱的<mask>", "sankt gallen"),
    ],
)
def test_words_that_both_texts_have_are_a_hole_which_is_told_by_one_token(
    tmp_path, altclip, clip, text, source, around, shared
):
    read = prompts(tmp_path, altclip, clip, 1.0, [(text, source)]).read(range(60))
    said = set()
    for part in (parts[0] for parts in read if len(parts) == 1 and parts[0].hole):
        if altclip.decode(part.ids, skip_special_tokens=False) == f"<s> {around}</s>":
            words = part.said(clip.eos_token_id)
            said.add(clip.decode([word for word in words if word != clip.eos_token_id]).strip())
            assert words.count(clip.eos_token_id) == 1
            assert part.english[: part.hole.start] + part.english[part.hole.stop :] == [
                word for word in words if word != clip.eos_token_id
            ]
            assert part.hole.stop - part.hole.start in (1, 2, 3, len(clip(shared).input_ids) - 2)
    first, last = (clip.decode(clip(each).input_ids[1:-1]) for each in text.lower().split(shared))
    assert said == {f"{first} {last}".strip()}


def test_without_literal_parts_each_prompt_is_a_whole_text(tmp_path, altclip, clip):
    for parts in prompts(tmp_path, altclip, clip, 0.0).read(range(8)):
        (part,) = parts
        assert (clip.decode(part.english), altclip.decode(part.ids, skip_special_tokens=True)) in [
            (clip.decode(clip(en).input_ids[1:-1]), altclip.decode(altclip(zh).input_ids, skip_special_tokens=True))
            for en, zh in PAIRS
        ]


def test_literal_parts_stand_beside_others_in_every_way(tmp_path, altclip, clip):
    read = prompts(tmp_path, altclip, clip, 1.0).read(range(400))
    assert all(any(part.ids for part in parts) for parts in read)
    assert all(any(part.ids is None or part.hole for part in parts) for parts in read)
    first_is_literal = sum(parts[0].ids is None for parts in read)
    assert 80 < first_is_literal < 320
    assert all(
        text.count("<mask>") == (part.hole is not None) for parts in read for part, text in texts_read(parts, altclip)
    )
    texts = [english(parts, clip) for parts in read]
    split = [parts for parts, text in zip(read, texts, strict=True) if text == "a cat , blue background"]
    assert split, "clauses of one text, some literal"
    assert len(set(texts)) > 50


def test_it_is_the_work_of_the_seed_and_the_index_alone(tmp_path, altclip, clip):
    together = prompts(tmp_path, altclip, clip, 0.5).read(range(20))
    alone = [prompts(tmp_path, altclip, clip, 0.5).read([index])[0] for index in range(20)]
    assert together == alone


def test_long_texts_are_cut_to_a_row(tmp_path, altclip, clip):
    long = [("a cat and a dog " * 40, "一只猫和一只狗" * 5), ("a cat " * 90 + ", b", "猫" * 9 + "，b")]
    for literal in (0.0, 1.0):
        for parts in prompts(tmp_path, altclip, clip, literal, long).read(range(10)):
            assert sum(len(part.english) for part in parts) <= MAX_ROW
            assert all(part.english for part in parts)
            assert any(part.ids for part in parts)
