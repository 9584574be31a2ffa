"""The certificate and the report: what they say of results whose truth is known, and that they need nothing beside them."""

from __future__ import annotations

import base64
import json
import re

import pytest
from PIL import Image

from altdiffusion import InputError
from altdiffusion.evaluation.certificate import certificate, verdict
from altdiffusion.evaluation.html_report import THUMBNAIL, write_pages
from altdiffusion.metrics import Estimate

WORDS = {"en": "cat", "zh": "<一只猫>", "ja": "猫|犬"}


def save_results(out, right, truth=None, percentile=False, side=16):
    """results.json with a prompt for each value in right, by language, and its image. truth: the same, of what is right."""
    results = []
    for language, values in right.items():
        pictures = []
        for row, first in enumerate(values):
            path = out / language / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (side, side // 2), (row * 40 % 256, 80, 120)).save(path)
            image = {"path": str(path), "prompt": f"{WORDS[language]} {row}", "own_prompt_first": first, "row": row}
            image["score"] = 0.1 + row / 100
            if percentile:
                image |= {"percentile": 99.0, "match_percentile": 40.0}
            if truth:
                image["right"] = truth[language][row]
            pictures.append(image)
        share = {"value": sum(values) / len(values), "low": 0.1, "high": 1.0}
        results.append(
            {
                "model": "m<9>", "language": language, "prompts": len(values), "figures": {"r_precision": share},
                "seed": 0, "steps": None, "guidance_scale": 0.0, "scorer": None, "num_images": 1, "pictures": pictures,
                "histogram": {"start": 0.1, "width": 0.01, "own": [1, 0, 2], "other": [0, 3, 0]},
            }
        )  # fmt: skip
    (out / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return out


def table_of(out, title):
    return next(table.rows for table in certificate(out)[2] if table.title == title)


def test_what_is_lost_is_told_of_each_language(tmp_path):
    save_results(tmp_path, {"en": [True] * 4, "zh": [True] * 4, "ja": [False] * 4})
    title, about, _ = certificate(tmp_path)
    assert title == "Parity certificate: m<9>"
    assert "4 prompts in 3 languages (en, zh, ja); 1 image of each" in about
    assert "guidance 0.0" in about
    _, english, chinese, japanese = table_of(tmp_path, "What is lost")
    assert english[-1] == "the measure"
    assert chinese[2:] == ["100 [100, 100]", "no loss shown; up to 75 of 100 could hide in 4 prompts"]
    assert japanese[2:] == ["0 [0, 0]", "100 of 100 images that English gets, by the interval 100 to 100"]
    lost = table_of(tmp_path, "Prompts that are lost")
    assert lost[1] == ["Chinese", "-", "0 of 4"]
    assert lost[2][1:] == ["猫|犬 0 (cat 0), 猫|犬 1 (cat 1), 猫|犬 2 (cat 2), and 1 more", "4 of 4"]


def test_the_truth_decides_where_it_is_known(tmp_path):
    right = {"en": [True] * 4, "zh": [True] * 4}
    save_results(tmp_path, right, {"en": [True] * 4, "zh": [False, True, True, True]})
    assert table_of(tmp_path, "What is lost")[2][2] == "75 [25, 100]"
    metrics = {row[0]: row[1] for row in table_of(tmp_path, "Which metric agrees with the truth")[1:]}
    assert metrics["R-precision: own prompt fits best"].startswith("50 ")  # it finds all of them right
    assert metrics["similarity: cosine with the prompt"].startswith("93 ")  # 12 of 14 pairs, and two ties

    save_results(tmp_path, right, right)
    assert "Which metric agrees with the truth" not in [table.title for table in certificate(tmp_path)[2]]


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (Estimate(0.8, 0.7, 0.9), "20 of 100 images that English gets, by the interval 10 to 30"),
        (Estimate(1.2, 1.1, 1.3), "nothing: it gets more than English"),
        (Estimate(1, 1, 1), "no loss shown; up to 3 of 100 could hide in 100 prompts"),
        (Estimate(0.9, 0.8, 1.1), "no loss shown; up to 20 of 100 could hide in 100 prompts"),
        (None, "can't be told"),
    ],
)
def test_a_verdict(share, expected):
    assert verdict(share, 100) == expected


def test_pages_need_nothing_beside_them(tmp_path):
    save_results(tmp_path, {"en": [True, False, True], "zh": [True] * 3}, percentile=True, side=400)
    markdown, html, report = (path.read_text(encoding="utf-8") for path in write_pages(tmp_path))
    for page in (html, report):
        assert not re.search(r"https?:|<script|<link|url\(", page)
        assert "<h1>" in page
        assert "m&lt;9&gt;" in page
    assert "<svg" in report
    assert "&lt;一只猫&gt; 0: 0.10, better than 40 % of right pairs" in report
    images = re.findall(r'<img( class="bad")? loading="lazy" .*?base64,([^"]+)"', report)
    assert len(images) == 6 + 4  # each on the sheet; of three the best and the worst of both languages
    assert sum(bool(bad) for bad, _ in images) == 1 + 0
    (tmp_path / "thumbnail.webp").write_bytes(base64.b64decode(images[0][1]))
    assert Image.open(tmp_path / "thumbnail.webp").size == (THUMBNAIL, THUMBNAIL // 2)
    assert "| Chinese |" in markdown


def test_a_cell_of_markdown_holds_a_bar(tmp_path):
    save_results(tmp_path, {"en": [True] * 2, "ja": [False] * 2})
    markdown = write_pages(tmp_path)[0].read_text(encoding="utf-8")
    assert "猫\\|犬 0 (cat 0)" in markdown


def test_without_english_there_is_no_certificate_but_a_report(tmp_path):
    save_results(tmp_path, {"zh": [True, False], "ja": [True, True]})
    assert certificate(tmp_path)[0] == "What m<9> generates"
    assert table_of(tmp_path, "What is lost")[1][1:] == ["50 [10, 100]", "-", "can't be told"]
    assert all(path.is_file() for path in write_pages(tmp_path))


def test_a_folder_without_results(tmp_path):
    with pytest.raises(InputError, match="expected the folder of an evaluation"):
        write_pages(tmp_path)
