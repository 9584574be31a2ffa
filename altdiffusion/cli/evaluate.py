"""`altdiffusion evaluate retrieval | classification | generation | mini`: what models can do."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from cyclopts import App

from altdiffusion.cli.flags import command
from altdiffusion.cli.options import DeviceSettings, ExactSettings, JsonSettings
from altdiffusion.cli.sources import check_some, check_system
from altdiffusion.cli.terminal import hide_loading, print_json, print_table, say
from altdiffusion.errors import InputError
from altdiffusion.evaluation.datasets.caption_entry import CaptionForm, CaptionsUsed
from altdiffusion.evaluation.layouts import Layout
from altdiffusion.settings import Settings, setting

if TYPE_CHECKING:
    from altdiffusion.evaluation.classification import ClassificationResult
    from altdiffusion.evaluation.retrieval import RetrievalResult
    from altdiffusion.evaluation.systems.base import System
    from altdiffusion.evaluation.text_to_image import GenerationResult

Result = TypeVar("Result")

evaluate = App(name="evaluate", help="What models can do, on your data.", version_flags=())


class RecordSettings(Settings):
    """How many bad records are put up with."""

    max_skipped: float = setting(0.01, "fraction of bad records that is put up with", minimum=0, maximum=1)


class SystemSettings(ExactSettings, RecordSettings):
    """The systems that are compared."""

    group: ClassVar[str] = "Systems"

    model: list[str] = setting(
        ["mini"], "systems: id on the hub, folder, open_clip:NAME, wukong:F, r2d2:F", source="systems", metavar="M"
    )
    batch_size: int = setting(64, "images at once", minimum=1)


class RetrievalSettings(SystemSettings, JsonSettings):
    """What is retrieved from what."""

    group: ClassVar[str] = "Options"

    captions: str = setting(
        ..., "file of captions, or its folder: see docs/evaluation.md", positional="CAPTIONS", source="path"
    )
    images: str | None = setting(
        None, "folder, or CN-CLIP's .tsv (default: beside CAPTIONS)", positional="IMAGES", source="path"
    )
    language: str | None = setting(
        None, "en, zh, ..., or the column of captions to read (default: guessed from the captions)"
    )
    split: str = setting("test", "of Karpathy's JSON, or of a folder of splits")
    ids: str | None = setting(
        None, "file of the images to keep, such as the test set of a whole data set", source="path", metavar="FILE"
    )
    names: str | None = setting(
        None,
        "file of image names, XTD10's or Multi30k's (default: the one beside CAPTIONS)",
        source="path",
        metavar="FILE",
    )
    captions_format: CaptionForm | None = setting(None, "what CAPTIONS is (default: recognised by its content)")
    captions_used: CaptionsUsed = setting("all", "all captions of each image, or its first alone")
    format: Literal["text", "markdown", "csv", "json"] = setting("text", "how results are printed; --json is json")


class ClassificationSettings(SystemSettings, JsonSettings):
    """What is classified."""

    group: ClassVar[str] = "Options"

    data: str = setting(
        ..., "CIFAR's folder, one folder a class, parquet, or by datasets", positional="DATA", source="path"
    )
    language: str = setting("en", "to ask in")
    classes: str | None = setting(
        None,
        "names of the classes, a line each, in the order of the sorted folders; or Babel-ImageNet's JSON",
        source="path",
        metavar="FILE",
    )
    templates: str | None = setting(
        None, "sentences with {} for the name, a line each; or Babel-ImageNet's JSON", source="path", metavar="FILE"
    )
    split: str = setting("test", "folder of one folder a class, or split")


class GenerationSettings(DeviceSettings, RecordSettings, JsonSettings):
    """What is generated, and what it is compared with."""

    prompts: str = setting(
        ...,
        "table with a column for each language: .tsv, .csv, .jsonl, .parquet; GenEval's evaluation_metadata.jsonl",
        positional="PROMPTS",
        source="path",
    )
    out: Path = setting(..., "folder for images, sheets, results.json, report.html and certificate.md")
    model: str | None = setting(
        None, "id on the hub, folder or single file (default: mini)", source="model", metavar="M"
    )
    scorer: str | None = setting(
        None, "AltCLIP that compares (default: the one that belongs to the model)", source="model", metavar="M"
    )
    languages: list[str] = setting([], "columns to generate from (default: as in training)")
    num_images: int = setting(
        1, "of each prompt; CoCo-CroLa's self-consistency needs 2 or more", minimum=1, maximum=10000
    )
    layout: Layout | None = setting(
        None, "how images are named (default: geneval for GenEval's file, cococrola with --templates, else folders)"
    )
    templates: str | None = setting(
        None,
        "CoCo-CroLa's prompts.json, a sentence with $$$ a language: PROMPTS holds concepts",
        source="path",
        metavar="FILE",
    )
    only_score: bool = setting(False, "generate nothing, take the images that are in --out by --layout")
    truth: list[str] = setting(
        [],
        "GenEval's results.jsonl, or another list of the right images: which metrics agree?",
        source="path",
        metavar="FILE",
    )
    reference: str | None = setting(
        None, "images to compare with as a whole (Fréchet distance)", source="path", metavar="FOLDER"
    )
    inception: str | None = setting(
        None, "torch-fidelity's InceptionV3 weights: then the distance is FID", source="path", metavar="FILE"
    )
    seed: int = setting(0, "of the first prompt", minimum=0, maximum=2**63 - 1)
    steps: int | None = setting(None, "denoising steps (default: 25)", minimum=1, maximum=999)
    guidance_scale: float | None = setting(None, "(default: 7.5, mini: 4)", minimum=0)


class MiniSettings(JsonSettings):
    """What of mini is measured."""

    build: Path | None = setting(None, "folder of pipelines/build_mini.py: its stages as well", source="path")
    languages: list[Literal["en", "zh", "es", "fr", "ru", "ja", "ko", "ar", "it"]] = setting([], "(default: all)")
    every: int = setting(1, "every n-th thing only, for a quick look", minimum=1)
    steps: int = setting(20, "denoising steps", minimum=1, maximum=999)
    approximate: list[Literal["int8", "bfloat16"]] = setting([], "mini's metrics with these, too (int8 needs torchao)")


@command(RetrievalSettings)
def retrieval(settings: RetrievalSettings) -> None:
    """Recall of images by captions and of captions by images.

    altdiffusion evaluate retrieval coco-cn/captions.txt coco-cn/images --model mini BAAI/AltCLIP-m9
    """
    check_some(settings.model, check_system)
    say("loading ...")
    from altdiffusion.evaluation.datasets.captioned import read_captions
    from altdiffusion.evaluation.retrieval import evaluate_retrieval

    hide_loading()
    about: dict[str, Any] = {
        name: getattr(settings, name) for name in ("names", "ids", "split", "language", "max_skipped")
    }
    about |= {"form": settings.captions_format, "used": settings.captions_used}
    data = read_captions(settings.captions, settings.images, **about)

    def measure(system: System) -> RetrievalResult:
        batch_size, max_skipped = settings.batch_size, settings.max_skipped
        return next(evaluate_retrieval([system], data, batch_size=batch_size, max_skipped=max_skipped))

    measured, failed = _each_system(settings, measure)
    kinds = Counter(result.system for _, result in measured)
    results = [  # two of a kind are told apart by what they were called
        replace(result, system=f"{result.system} ({name})") if kinds[result.system] > 1 else result
        for name, result in measured
    ]
    print_recalls(results, "json" if settings.as_json else settings.format)
    _refuse(failed, settings.model)


def print_recalls(results: Sequence[RetrievalResult], form: str) -> None:
    """Results of retrieval. form: "text", a table for a terminal, or one of `evaluation.report.render`'s."""
    from altdiffusion.evaluation.report import render, tables

    if form != "text":
        if results:
            print(render(results, form))
        return
    for index, (title, rows, notes) in enumerate(tables(results)):
        print("\n" * bool(index) + f"{title}\n")
        print_table(rows)
        if notes:
            print("\n".join(["", *(f"  {note}" for note in notes)]))


@command(ClassificationSettings)
def classification(settings: ClassificationSettings) -> None:
    """Zero-shot classification: top-1, top-5, mean per-class recall.

    altdiffusion evaluate classification cifar-10-batches-py --language zh --model BAAI/AltCLIP-m9
    """
    check_some(settings.model, check_system)
    say("loading ...")
    from altdiffusion.evaluation.classification import evaluate_classification, localised
    from altdiffusion.evaluation.datasets.class_files import read_class_names, read_templates
    from altdiffusion.evaluation.datasets.labelled import read_labelled

    hide_loading()
    names = None if settings.classes is None else read_class_names(settings.classes, settings.language)
    templates = None if settings.templates is None else read_templates(settings.templates, settings.language)
    data = localised(read_labelled(settings.data, settings.split, settings.max_skipped), settings.language, names)
    limits = (settings.batch_size, settings.max_skipped)

    def measure(system: System) -> ClassificationResult:
        return evaluate_classification(system, data, settings.language, templates, *limits)

    measured, failed = _each_system(settings, measure)
    results = [result for _, result in measured]
    if settings.as_json:
        print_json({"results": [asdict(result) for result in results]})
    elif results:
        about = f"{results[0].images} images, {len(data.classes)} classes, asked in {settings.language}; per cent"
        print(f"{data.name}: {about}\n")
        rows = [["", "top-1", "top-5", "mean per-class recall"]]
        for result in results:
            rows.append(_in_per_cent(result.system, [result.top1, result.top5, result.mean_per_class_recall]))
            if result.published:
                known = [result.published.get(name) for name in ("top1", "top5", "mean_per_class_recall")]
                rows.append(_in_per_cent(f"  {result.published_by}", known))
        print_table(rows)
        _print_protocols(results)
        if problems := results[0].problems:
            print(f"\n{len(problems)} left out, the first: {problems[0][0]}: {problems[0][1]}")
    _refuse(failed, settings.model)


@command(GenerationSettings)
def generation(settings: GenerationSettings) -> None:
    """Generate from prompts in several languages, compare images and prompts.

    altdiffusion evaluate generation prompts.tsv --out results --model BAAI/AltDiffusion-m9 --languages en zh
    """
    say("loading ...")
    from altdiffusion.evaluation.html_report import write_pages
    from altdiffusion.evaluation.text_to_image import evaluate_generation, read_parity, read_results

    hide_loading()
    options = {name: value for name, value in settings if name not in ("model", "prompts", "out", "as_json")}
    results = []
    for result in evaluate_generation(settings.model, settings.prompts, settings.out, **options):
        results.append(asdict(result))
        if not settings.as_json:
            none = "none, all prompts are the same"
            precision = (
                none if result.r_precision is None else f"{100 * result.r_precision:.1f} %{_interval(result, 100)}"
            )
            distance = "" if result.frechet is None else f", Fréchet distance {result.frechet:.3f}"
            similarity = f"similarity {result.similarity:.4f}{_interval(result)}"
            about = f"{similarity}, R-precision {precision} of {result.prompts}{distance}"
            print(f"{result.language}: {about}; {result.sheet}", flush=True)
    parity = read_parity(settings.out)
    pages = write_pages(settings.out)
    if settings.as_json:
        figures = {result["language"]: result["figures"] for result in read_results(settings.out)}
        parities = {language: asdict(value) for language, value in parity.items()}
        print_json({"results": results, "parity": parities, "figures": figures, "pages": list(map(str, pages))})
    for language, value in parity.items() if not settings.as_json else ():
        interval = f"[{100 * value.low:.0f}, {100 * value.high:.0f}]"
        print(f"{language}: {100 * value.value:.0f} % {interval} of English's R-precision")
    if not settings.as_json:
        print("\n".join(map(str, pages)))


def _interval(result: GenerationResult, scale: int = 1) -> str:
    """Behind a figure: of R-precision in per cent, or of the similarity."""
    figure = result.figures["r_precision" if scale == 100 else "similarity"]
    return f" [{scale * figure.low:.{2 if scale == 1 else 0}f}, {scale * figure.high:.{2 if scale == 1 else 0}f}]"


@command(MiniSettings)
def mini(settings: MiniSettings) -> None:
    """What mini can do, by a judge that was trained apart (minutes).

    altdiffusion evaluate mini --every 6 --steps 15
    """
    if importlib.util.find_spec("emoji") is None:
        raise InputError('evaluate mini needs the library emoji: pip install "altdiffusion[train]"')
    from altdiffusion.toy.glyphs import LANGUAGES
    from altdiffusion.toy.judged import Metric
    from altdiffusion.toy.report import as_json, evaluate_mini, parity_table

    hide_loading()
    results = []
    languages = settings.languages or LANGUAGES
    for result in evaluate_mini(settings.build, languages, settings.every, settings.steps, settings.approximate):
        results.append(result)
        if not settings.as_json and isinstance(result, Metric):
            is_missed = result.target is not None and result.value < result.target
            target = "" if result.target is None else f"(target {result.target:g}{', MISSED' if is_missed else ''})"
            interval = "" if result.low is None else f"[{result.low:.0f}, {result.high:.0f}]"
            about = f"{result.what:58} {result.language:2} {result.value:6.1f} % {interval:9} {target}"
            print(about.rstrip(), flush=True)
    if settings.as_json:
        print_json(as_json(results))
    elif table := parity_table(results):
        print()
        print_table(table)


for subcommand in (retrieval, classification, generation, mini):
    evaluate.command(subcommand, name=subcommand.__name__)


def _each_system(
    settings: SystemSettings, measure: Callable[[System], Result]
) -> tuple[list[tuple[str, Result]], list[str]]:
    """The results by the systems' names, and which systems failed: what the others took hours for is not thrown away."""
    from altdiffusion.devices import DTYPES
    from altdiffusion.evaluation.systems.load import load_system

    options: dict[str, Any] = {name: getattr(settings, name) for name in ("device", "allow_pickle", "batch_size")}
    options["dtype"] = None if settings.dtype is None else DTYPES[settings.dtype]
    measured, failed = [], []
    for name in settings.model:
        try:
            measured.append((name, measure(load_system(name, **options))))
        except InputError as error:
            say(f"{name}: {error}")
            failed.append(name)
    return measured, failed


def _refuse(failed: Sequence[str], names: Sequence[str]) -> None:
    if failed:
        raise InputError(f"{len(failed)} of {len(names)} systems could not be measured: {', '.join(failed)} (above)")


def _in_per_cent(name: str, values: Any) -> list[str]:
    return [name, *("-" if value is None else f"{100 * value:.2f}" for value in values)]


def _print_protocols(results: Sequence[ClassificationResult]) -> None:
    """How the figures of classification were measured, and where published ones come from."""
    from altdiffusion.evaluation.report import protocol_lines

    sources = [f"{result.published_by}: {result.source}" for result in results if result.published]
    lines = dict.fromkeys(
        sources + [line for result in results for line in protocol_lines(result.system, result.protocol)]
    )
    print("\n".join(["", *(f"  {line}" for line in lines)]))
