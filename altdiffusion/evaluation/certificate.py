"""What a user loses, per language, by not prompting in English: a parity certificate of one page, from results.json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from altdiffusion.evaluation.agreement import agreement
from altdiffusion.evaluation.cross_lingual import ENGLISH
from altdiffusion.evaluation.report import ResultTable, language_name
from altdiffusion.evaluation.text_to_image import over_prompts, read_parity, read_results
from altdiffusion.metrics import Estimate

LOST_SHOWN = 3  # prompts of each language that are named as lost
# What is compared with the truth, by the key of an image in results.json.
METRICS = {
    "score": "similarity: cosine with the prompt",
    "percentile": "the same as a percentile of wrong pairs in the language",
    "match_percentile": "the same as a percentile of right pairs in the language",
    "own_prompt_first": "R-precision: own prompt fits best",
    "like_english": "cosine with English's image",
    "english_first": "English's image of the prompt is the nearest",
    "consistency": "consistency: cosine with the other languages' images",
    "correctness": "CoCo-CroLa's correctness",
    "self_consistency": "CoCo-CroLa's self-consistency",
    "distinctiveness": "CoCo-CroLa's distinctiveness",
}
_ALIKE = {
    "match_percentile": "percentile among right pairs",
    "percentile": "percentile among wrong pairs",
    "similarity": "cosine with the prompt",
    "like_english": "cosine with English's image",
    "english_first": "English's image nearest, %",
    "consistency": "consistency",
    "other_prompts": "with other prompts' images",
}
_COCOCROLA = {
    "distinctiveness": "distinctiveness",
    "self_consistency": "self-consistency",
    "correctness": "correctness",
}
_PER_CENT = ("r_precision", "english_first", "right")
_WHOLE = ("percentile", "match_percentile")  # 0 to 100 already


def certificate(out: Path) -> tuple[str, str, list[ResultTable]]:
    """Title, a line on what was measured, and tables, of the folder of an evaluation. Raises InputError."""
    results = read_results(out)
    model, languages = results[0]["model"], [result["language"] for result in results]
    title = f"Parity certificate: {model}" if ENGLISH in languages else f"What {model} generates"
    tables = [_loss(out, results), _alike(results), _cococrola(results), *_lost_prompts(results), *_agreement(results)]
    return title, _about(results), [table for table in tables if len(table.rows) > 1]


def _about(results: Sequence[Mapping[str, Any]]) -> str:
    first = results[0]
    images = first.get("num_images", 1)
    calibrated = f", calibrated on {first['calibration']}" if first.get("calibration") else ""
    parts = [
        f"{first['prompts']} prompts in {len(results)} languages ({', '.join(result['language'] for result in results)})",
        f"{images} image{'s' * (images > 1)} of each, from the same noise in every language",
        f"steps {first['steps'] or 'by default'}, guidance {_default(first['guidance_scale'])}, seeds from {first['seed']}",
        f"compared by {first['scorer'] or 'the AltCLIP of the model'}{calibrated}",
    ]
    return "; ".join(parts) + ". In brackets: 95 % bootstrap intervals over prompts."


def _default(value: object) -> object:
    return "by default" if value is None else value


def _loss(out: Path, results: Sequence[Mapping[str, Any]]) -> ResultTable:
    """What is lost, by the truth where it is known, else by R-precision."""
    has_truth = "right" in results[0]["pictures"][0]
    parities = {"r_precision": read_parity(out)} | ({"right": read_parity(out, "right")} if has_truth else {})
    heads = {"right": "right, %", "r_precision": "own prompt fits best, %"}
    kinds = [kind for kind in heads if kind in parities]
    rows = [["language", *(cell for kind in kinds for cell in (heads[kind], "of English's, %")), "what is lost"]]
    for result in results:
        cells, language = [language_name(result["language"])], result["language"]
        for kind in kinds:
            figure = _right(result) if kind == "right" else _estimate(result["figures"].get(kind))
            share = parities[kind].get(language)
            cells += [_shown(kind, figure), "-" if share is None else _shown("right", share)]
        deciding = parities[kinds[0]].get(language)
        cells.append(verdict(deciding, result["prompts"]) if language != ENGLISH else "the measure")
        rows.append(cells)
    judged = "by the images that are known to be right" if has_truth else "by R-precision, which the scorer decides"
    return ResultTable("What is lost", rows, [f"what is lost is told {judged}; of English's: paired prompt by prompt"])


def verdict(share: Estimate | None, prompts: int) -> str:
    """A parity in words. share: of English's, 1 is all; None: nothing to compare with."""
    if share is None:
        return "can't be told"
    if share.high < 1:
        return f"{_lost(share.value)} of 100 images that English gets, by the interval {_lost(share.high)} to {_lost(share.low)}"
    if share.low > 1:
        return "nothing: it gets more than English"
    hidden = max(1 - share.low, 3 / prompts)  # where nothing failed, the rule of three
    return f"no loss shown; up to {100 * min(hidden, 1):.0f} of 100 could hide in {prompts} prompts"


def _lost(share: float) -> str:
    return f"{100 * (1 - share):.0f}"


def _alike(results: Sequence[Mapping[str, Any]]) -> ResultTable:
    calibrated = any("match_percentile" in result["figures"] for result in results)
    columns = [name for name in _ALIKE if name != "percentile" or not calibrated]
    notes = [
        "English's image is the one from the same noise; consistency: the mean cosine of image features with the other "
        "languages' images from the same noise, beside what images of other prompts have"
    ]
    if any("percentile" in result["figures"] for result in results):
        notes.append(
            "cosines differ in scale from language to language, percentiles don't: 50 is as good as the middle right pair"
        )
    return ResultTable("How alike the images are", _figures(results, {name: _ALIKE[name] for name in columns}), notes)


def _cococrola(results: Sequence[Mapping[str, Any]]) -> ResultTable:
    note = (
        "CoCo-CroLa (Saxon and Wang 2023), by this scorer's image features instead of CLIP ViT-B/32's: self-consistency is the "
        "mean cosine among images of a prompt, correctness that with English's, distinctiveness 1 less that with other prompts' "
        "images"
    )
    return ResultTable("CoCo-CroLa's figures", _figures(results, _COCOCROLA), [note])


def _figures(results: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> list[list[str]]:
    """A row for each language, of the figures that some language has; the heading alone where none has any."""
    names = [name for name in columns if any(name in result["figures"] for result in results)]
    if not names:
        return [[]]
    rows = [["language", *(columns[name] for name in names)]]
    for result in results:
        cells = [_shown(name, _estimate(result["figures"].get(name))) for name in names]
        rows.append([language_name(result["language"]), *cells])
    return rows


def _lost_prompts(results: Sequence[Mapping[str, Any]]) -> list[ResultTable]:
    """What English gets and a language doesn't, by the truth where it is known."""
    english = next((result["pictures"] for result in results if result["language"] == ENGLISH), None)
    if english is None:
        return []
    key = "right" if "right" in english[0] else "own_prompt_first"
    rows = [["language", "English gets, it doesn't", "of images"]]
    for result in results:
        if result["language"] == ENGLISH or len(result["pictures"]) != len(english):
            continue
        lost = [f"{theirs['prompt']} ({ours['prompt']})" for theirs, ours in zip(result["pictures"], english, strict=True)
                if ours[key] and not theirs[key]]  # fmt: skip
        named = list(dict.fromkeys(lost))
        more = f", and {len(named) - LOST_SHOWN} more" if len(named) > LOST_SHOWN else ""
        rows.append([
            language_name(result["language"]),
            ", ".join(named[:LOST_SHOWN]) + more if named else "-",
            f"{len(lost)} of {sum(bool(image[key]) for image in english)}",
        ])  # fmt: skip
    return [ResultTable("Prompts that are lost", rows, [])]


def _agreement(results: Sequence[Mapping[str, Any]]) -> list[ResultTable]:
    """Which metric agrees with the truth; none where it isn't known, or all images are right, or none."""
    images = [(result["language"], image) for result in results for image in result["pictures"]]
    if "right" not in images[0][1]:
        return []
    found = agreement(
        {title: [image.get(key) for _, image in images] for key, title in METRICS.items()},
        [image["right"] for _, image in images],
        [language for language, _ in images],
        [image["row"] for _, image in images],
    )
    rows = [
        [
            "metric",
            "a right image has more than a wrong one, %",
            "within a language, %",
            "rank correlation of languages",
        ]
    ]
    for each in sorted(found, key=lambda each: -each.images.value):
        within = "-" if each.within is None else f"{100 * each.within:.0f}"
        ranks = "-" if each.languages is None else f"{each.languages:+.2f}"
        rows.append([each.metric, _shown("right", each.images), within, ranks])
    wrong = sum(not image["right"] for _, image in images)
    notes = [
        f"{wrong} of {len(images)} images are wrong; 50 % is chance, a tie counts half; what compares with English's image is "
        "told of the other languages",
        "rank correlation (Spearman's): of a metric's mean in each language with the share of right images in it",
    ]
    return [ResultTable("Which metric agrees with the truth", rows, notes)]


def _right(result: Mapping[str, Any]) -> Estimate:
    return over_prompts([image["right"] for image in result["pictures"]], result.get("num_images", 1))


def _estimate(figure: Mapping[str, float] | None) -> Estimate | None:
    return None if figure is None else Estimate(**figure)


def _shown(name: str, figure: Estimate | None) -> str:
    if figure is None:
        return "-"
    form = "{:.0f}" if name in _PER_CENT or name in _WHOLE else "{:.2f}"
    scale = 100 if name in _PER_CENT else 1
    value, low, high = (form.format(scale * each) for each in (figure.value, figure.low, figure.high))
    return f"{value} [{low}, {high}]"
