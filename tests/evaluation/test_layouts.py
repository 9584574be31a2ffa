"""Prompts in CoCo-CroLa's and GenEval's files, and images named as theirs are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from altdiffusion import InputError
from altdiffusion.evaluation.layouts import read_prompts

OUT = Path("out")
# the first rows of CoCo-CroLa's benchmark/v0-1/concepts.csv, and of its prompts.json
CONCEPTS = "en,es,de,zh,ja,he,id\neye,ojo,auge,眼睛,目,עין,mata\nhand,mano,hand,手,手,יד,tangan\n"
TEMPLATES = {"en": "a photograph of $$$", "es": "una fotografía de $$$", "zh": "$$$照片", "he": " צילום של$$$"}
GENEVAL = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {
        "tag": "counting",
        "include": [{"class": "cup", "count": 2}],
        "exclude": [{"class": "cup", "count": 3}],
        "prompt": "a photo of two cups",
    },
]


@pytest.fixture
def concepts(tmp_path):
    (tmp_path / "concepts.csv").write_text(CONCEPTS, encoding="utf-8")
    (tmp_path / "prompts.json").write_text(json.dumps(TEMPLATES), encoding="utf-8")
    return tmp_path / "concepts.csv"


def save_geneval(folder: Path, lines: list[dict]) -> Path:
    path = folder / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_concepts_fill_templates_and_name_images(concepts, tmp_path):
    found = read_prompts(concepts, ["zh", "es"], templates=tmp_path / "prompts.json")
    assert found.texts == {"zh": ["眼睛照片", "手照片"], "es": ["una fotografía de ojo", "una fotografía de mano"]}
    assert found.layout == "cococrola"
    assert found.path(OUT, "zh", 1, 7) == OUT / "1-zh-hand-7.png"
    assert found.path(OUT, "es", 0, 0) == OUT / "0-es-eye-0.png"


def test_the_readmes_place_of_a_concept_is_known_too(concepts, tmp_path):
    (tmp_path / "prompts.json").write_text(json.dumps({"en": "a photo of ###!"}), encoding="utf-8")
    assert read_prompts(concepts, ["en"], templates=tmp_path / "prompts.json").texts == {
        "en": ["a photo of eye!", "a photo of hand!"]
    }


@pytest.mark.parametrize(
    ("templates", "expected"),
    [
        ('{"en": "a photograph"}', "no sentence with"),
        ('{"zh": "$$$照片"}', "'en'"),
        ("[1]", "'en'"),
        ("{", "read as JSON"),
    ],
)
def test_templates_that_do_not_fit(concepts, tmp_path, templates, expected):
    (tmp_path / "prompts.json").write_text(templates, encoding="utf-8")
    with pytest.raises(InputError, match=expected):
        read_prompts(concepts, ["en"], templates=tmp_path / "prompts.json")


def test_concepts_that_name_no_file_or_leave_a_gap(tmp_path):
    path = tmp_path / "concepts.csv"
    path.write_text("en,es\nand/or,y\n", encoding="utf-8")
    with pytest.raises(InputError, match="'and/or'"):
        read_prompts(path, layout="cococrola")
    path.write_text("en,es\neye,ojo\nhand,\n", encoding="utf-8")
    with pytest.raises(InputError, match="complete them"):
        read_prompts(path, layout="cococrola", max_skipped=0.5)
    assert read_prompts(path, max_skipped=0.5).texts["en"] == ["eye"]


def test_geneval_is_recognised_and_written(tmp_path):
    found = read_prompts(save_geneval(tmp_path, GENEVAL))
    assert found.texts == {"en": ["a photo of a bench", "a photo of two cups"]}
    assert found.path(OUT, "en", 1, 3) == OUT / "en/00001/samples/0003.png"
    found.write_metadata(tmp_path / "out", "en")
    written = [(tmp_path / f"out/en/0000{row}/metadata.jsonl").read_text(encoding="utf-8") for row in (0, 1)]
    assert [json.loads(each) for each in written] == GENEVAL


def test_geneval_with_translations(tmp_path):
    path = save_geneval(tmp_path, [line | {"zh": f"照片{index}"} for index, line in enumerate(GENEVAL)])
    assert list(read_prompts(path).texts) == ["en", "zh"]
    assert read_prompts(path, ["zh"]).texts == {"zh": ["照片0", "照片1"]}


def test_other_prompts_keep_their_names(tmp_path):
    path = tmp_path / "prompts.tsv"
    path.write_text("en\tzh\na cat\t一只猫\n", encoding="utf-8")
    found = read_prompts(path)
    assert [found.path(OUT, "zh", 0, number).as_posix() for number in (0, 1)] == [
        "out/zh/0000.png",
        "out/zh/0000-1.png",
    ]
    with pytest.raises(InputError, match="evaluation_metadata"):
        read_prompts(path, layout="geneval")
