"""The commands that measure: `altdiffusion score` and `altdiffusion evaluate mini | retrieval | classification | generation`."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from altdiffusion.cli.terminal import hide_loading, print_json, say
from altdiffusion.errors import InputError
from altdiffusion.text_table import aligned

Result = TypeVar("Result")


def add_evaluate(commands: Any) -> None:
    """`altdiffusion evaluate`."""
    evaluate = commands.add_parser("evaluate", help="figures: what a model can do")
    subjects = evaluate.add_subparsers(title="subjects", metavar="SUBJECT", required=True)

    retrieval = subjects.add_parser("retrieval", help="recall of images by captions and of captions by images")
    retrieval.add_argument(
        "captions", metavar="CAPTIONS", help="file of captions, or its folder: see docs/evaluation.md"
    )
    retrieval.add_argument(
        "images", nargs="?", metavar="IMAGES", help="folder, or CN-CLIP's .tsv (default: beside CAPTIONS)"
    )
    _add_systems(retrieval)
    retrieval.add_argument("--language", metavar="L", help="en, zh, ... (default: guessed from the captions)")
    retrieval.add_argument("--split", default="test", metavar="S", help="of Karpathy's JSON (default: test)")
    retrieval.add_argument(
        "--ids", metavar="F", help="file of the images to keep, such as the test set of a whole data set"
    )
    retrieval.add_argument(
        "--names", metavar="F", help="XTD10's file of image names (default: the one beside CAPTIONS)"
    )
    _add_skipped(retrieval)
    retrieval.add_argument(
        "--format", choices=("text", "markdown", "csv", "json"), default="text", help="(default: text)"
    )
    retrieval.add_argument(
        "--json", action="store_const", const="json", dest="format", help="the same as --format json"
    )
    _add_loading(retrieval)
    retrieval.set_defaults(run=_retrieval)

    classification = subjects.add_parser("classification", help="zero-shot: top-1, top-5, mean per-class recall")
    classification.add_argument("data", metavar="DATA", help="CIFAR's folder, one folder a class, or parquet")
    _add_systems(classification)
    classification.add_argument("--language", default="en", metavar="L", help="to ask in (default: en)")
    classification.add_argument(
        "--classes", metavar="F", help="names of the classes, a line each, in the order of the sorted folders"
    )
    classification.add_argument("--templates", metavar="F", help="sentences with {} for the name, a line each")
    classification.add_argument(
        "--split", default="test", metavar="S", help="folder of one folder a class (default: test)"
    )
    _add_skipped(classification)
    classification.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    _add_loading(classification)
    classification.set_defaults(run=_classification)

    generation = subjects.add_parser(
        "generation", help="draw prompts in several languages, compare pictures and prompts"
    )
    generation.add_argument(
        "prompts", metavar="PROMPTS", help="table with a column for each language: .tsv, .csv, .jsonl, .parquet"
    )
    generation.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="for pictures, sheets and results.json"
    )
    generation.add_argument("--model", metavar="M", help="id on the hub, folder or single file (default: mini)")
    generation.add_argument(
        "--scorer", metavar="M", help="AltCLIP that compares (default: the one that belongs to the model)"
    )
    generation.add_argument("--languages", nargs="+", default=[], metavar="L", help="columns to draw (default: all)")
    generation.add_argument("--reference", metavar="DIR", help="pictures to compare with as a whole (Fréchet distance)")
    generation.add_argument(
        "--inception", metavar="F", help="torch-fidelity's InceptionV3 weights: then the distance is FID"
    )
    generation.add_argument("--seed", type=int, default=0, metavar="N", help="of the first prompt (default: 0)")
    generation.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: 25)")
    generation.add_argument("--guidance-scale", type=float, metavar="X", help="(default: 7.5, mini: 4)")
    _add_skipped(generation)
    generation.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    _add_loading(generation)
    generation.set_defaults(run=_generation)

    mini = subjects.add_parser("mini", help="mini's figures, by a judge that was trained apart (minutes)")
    mini.add_argument("--build", type=Path, metavar="DIR", help="folder of pipelines/build_mini.py: its stages as well")
    mini.add_argument("--languages", nargs="+", metavar="L", help="of en zh es fr ru ja ko ar it (default: all)")
    mini.add_argument("--every", type=int, default=1, metavar="N", help="every n-th thing only, for a quick look")
    mini.add_argument("--steps", type=int, default=20, metavar="N", help="denoising steps (default: 20)")
    mini.add_argument("--approximate", nargs="+", default=[], choices=["int8", "bfloat16"], metavar="A",
                      help="int8, bfloat16: mini's figures with these, too (int8 needs torchao)")  # fmt: skip
    mini.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    mini.set_defaults(run=_mini)


def _add_systems(parser: Any) -> None:
    parser.add_argument("--model", nargs="+", action="extend", metavar="M",
                        help="systems: id on the hub, folder, open_clip:NAME, wukong:F, r2d2:F (default: mini)")  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="pictures at once (default: 64)")


def _add_skipped(parser: Any) -> None:
    parser.add_argument(
        "--max-skipped", type=float, default=0.01, metavar="X", help="share of bad records (default: 0.01)"
    )


def _add_loading(parser: Any) -> None:
    parser.add_argument("--device", metavar="D", help="cuda, cuda:1, mps, cpu (default: the best there is)")
    parser.add_argument("--dtype", metavar="T", help="float32, float16, bfloat16 (default: float32, the exact one)")
    parser.add_argument(
        "--allow-pickle", action="store_true", help="read .bin, .pt and .ckpt files, which can carry code"
    )


def _retrieval(options: argparse.Namespace) -> None:
    say("loading ...")
    from altdiffusion.devices import DTYPES
    from altdiffusion.evaluation.datasets.captioned import read_captions
    from altdiffusion.evaluation.report import render
    from altdiffusion.evaluation.retrieval import evaluate_retrieval
    from altdiffusion.evaluation.systems import load_system

    hide_loading()
    _check_share(options.max_skipped)
    data = read_captions(
        options.captions,
        options.images,
        names=options.names,
        ids=options.ids,
        split=options.split,
        language=options.language,
        max_skipped=options.max_skipped,
    )
    names = options.model or ["mini"]
    limits = {"batch_size": options.batch_size, "max_skipped": options.max_skipped}
    measured, failed = _each_system(
        names, lambda name: next(evaluate_retrieval([load_system(name, **_loading(options, DTYPES))], data, **limits))
    )
    kinds = Counter(each.system for _, each in measured)
    results = [  # two of a kind are told apart by what they were called
        replace(each, system=f"{each.system} ({name})") if kinds[each.system] > 1 else each for name, each in measured
    ]
    if results:
        print(render(results, options.format))
    _refuse(failed, names)


def _classification(options: argparse.Namespace) -> None:
    say("loading ...")
    from altdiffusion.devices import DTYPES
    from altdiffusion.evaluation.classification import ClassificationResult, evaluate_classification, localised
    from altdiffusion.evaluation.datasets.labelled import read_labelled, read_lines
    from altdiffusion.evaluation.systems import load_system

    hide_loading()
    _check_share(options.max_skipped)
    names = None if options.classes is None else read_lines(options.classes)
    templates = None if options.templates is None else read_lines(options.templates)
    data = localised(read_labelled(options.data, options.split), options.language, names)
    model_names = options.model or ["mini"]
    limits = (options.batch_size, options.max_skipped)

    def measure(name: str) -> ClassificationResult:
        system = load_system(name, **_loading(options, DTYPES))
        return evaluate_classification(system, data, options.language, templates, *limits)

    measured, failed = _each_system(model_names, measure)
    results = [result for _, result in measured]
    rows = [["", "top-1", "top-5", "mean per-class recall"]]
    for result in results:
        figures = [result.top1, result.top5, result.mean_per_class_recall]
        rows.append([result.system, *(f"{100 * figure:.2f}" for figure in figures)])
        if result.published:
            rows.append(
                [f"  {result.system}, published by FlagAI", *(f"{100 * f:.2f}" for f in result.published.values())]
            )
    if options.json:
        print_json({"results": [asdict(result) for result in results]})
    elif results:
        about = f"{results[0].images} images, {len(data.classes)} classes, asked in {options.language}; per cent"
        print(f"{data.name}: {about}\n")
        print(aligned(rows))
        if problems := results[0].problems:
            print(f"\n{len(problems)} left out, the first: {problems[0][0]}: {problems[0][1]}")
    _refuse(failed, model_names)


def _each_system(names: list[str], measure: Callable[[str], Result]) -> tuple[list[tuple[str, Result]], list[str]]:
    """The results by the systems' names, and which systems failed: what the others took hours for is not thrown away."""
    measured, failed = [], []
    for name in names:
        try:
            measured.append((name, measure(name)))
        except InputError as error:
            say(f"{name}: {error}")
            failed.append(name)
    return measured, failed


def _refuse(failed: list[str], names: list[str]) -> None:
    if failed:
        raise InputError(f"{len(failed)} of {len(names)} systems could not be measured: {', '.join(failed)} (above)")


def _generation(options: argparse.Namespace) -> None:
    say("loading ...")
    from altdiffusion.evaluation.text_to_image import evaluate_generation

    hide_loading()
    _check_share(options.max_skipped)
    results = []
    for result in evaluate_generation(
        options.model,
        options.prompts,
        options.out,
        languages=options.languages,
        scorer=options.scorer,
        reference=options.reference,
        inception=options.inception,
        seed=options.seed,
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        device=options.device,
        dtype=options.dtype,
        allow_pickle=options.allow_pickle,
        max_skipped=options.max_skipped,
    ):
        results.append(asdict(result))
        if not options.json:
            precision = (
                "none, all prompts are the same" if result.r_precision is None else f"{100 * result.r_precision:.1f} %"
            )
            distance = "" if result.frechet is None else f", Fréchet distance {result.frechet:.3f}"
            print(
                f"{result.language}: similarity {result.similarity:.4f}, R-precision {precision} of {result.prompts}"
                f"{distance}; {result.sheet}",
                flush=True,
            )
    if options.json:
        print_json({"results": results})


def _mini(options: argparse.Namespace) -> None:
    from altdiffusion.toy.glyphs import LANGUAGES
    from altdiffusion.toy.report import as_json, evaluate_mini

    hide_loading()
    languages = options.languages or LANGUAGES
    if unknown := [each for each in languages if each not in LANGUAGES]:
        raise InputError(f"--languages {unknown[0]}: mini reads {', '.join(LANGUAGES)}")
    if options.every < 1 or options.steps < 1:
        raise InputError("--every and --steps: expected at least 1")
    figures = []
    for each in evaluate_mini(options.build, languages, options.every, options.steps, options.approximate):
        figures.append(each)
        if not options.json:
            verdict = (
                ""
                if each.target is None
                else f"(target {each.target:g}{'' if each.value >= each.target else ', MISSED'})"
            )
            print(f"{each.what:58} {each.language:2} {each.value:6.1f} % {verdict}".rstrip(), flush=True)
    if options.json:
        print_json(as_json(figures))


def _loading(options: argparse.Namespace, dtypes: dict[str, Any]) -> dict[str, Any]:
    return {
        "device": options.device,
        "dtype": _dtype(options.dtype, dtypes),
        "allow_pickle": options.allow_pickle,
        "batch_size": options.batch_size,
    }


def _dtype(name: str | None, dtypes: dict[str, Any]) -> Any:
    if name is not None and name not in dtypes:
        raise InputError(f"unknown dtype {name!r}: expected one of {', '.join(dtypes)}")
    return None if name is None else dtypes[name]


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise InputError(f"--max-skipped {share}: expected a share, 0 to 1")
