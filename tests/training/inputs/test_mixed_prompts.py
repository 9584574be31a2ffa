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


def test_without_literal_parts_each_prompt_is_a_whole_text(tmp_path, altclip, clip):
    for parts in prompts(tmp_path, altclip, clip, 0.0).read(range(8)):
        (part,) = parts
        assert (clip.decode(part.english), altclip.decode(part.ids, skip_special_tokens=True)) in [
            (clip.decode(clip(en).input_ids[1:-1]), altclip.decode(altclip(zh).input_ids, skip_special_tokens=True))
            for en, zh in PAIRS
        ]


def test_literal_parts_stand_beside_others_in_every_way(tmp_path, altclip, clip):
    read = prompts(tmp_path, altclip, clip, 1.0).read(range(400))
    assert all(any(part.ids is None for part in parts) and any(part.ids for part in parts) for parts in read)
    first_is_literal = sum(parts[0].ids is None for parts in read)
    assert 80 < first_is_literal < 320
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
