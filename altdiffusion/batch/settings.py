"""The settings of `altdiffusion batch`. Light on purpose: no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from altdiffusion.altclip.score_kinds import ScoreAs
from altdiffusion.generation.flags import ImageFlags, LabelSettings
from altdiffusion.generation.settings import ImageSettings
from altdiffusion.settings import Settings, about_of, device_setting, neutral, setting

DEFAULT_PARTITION = 4096  # items: small enough to lose little by a kill, large enough that files are few


class BatchSettings(Settings):
    """What every task shares."""

    group: ClassVar[str] = "Every task"

    source: str = setting(
        ..., "webdataset tars, .parquet, .jsonl, .csv, .tsv, or a folder of images; patterns and {000..012} are expanded, "
        "and fsspec's URLs such as s3://bucket/{000..012}.tar are read", positional="IN",
    )  # fmt: skip
    out: Path = neutral(..., "folder; one that an interrupted run has left is gone on with", positional="OUT")
    engine: Literal["local", "ray"] = neutral("local", "processes on this machine, or Ray")
    workers: int | None = neutral(
        None, "processes that each hold the model (default: one a GPU, on a CPU one)", minimum=1, maximum=4096
    )
    threads: int | None = neutral(
        None, "of each worker on a CPU (default: the cores, shared among the workers)", minimum=1, maximum=4096
    )
    ray_address: str | None = neutral(None, "a running cluster, such as auto (default: a local one)", metavar="A")
    gpus: float | None = neutral(
        None, "GPUs that a worker of Ray takes, such as 0.25 (default: 1 where there are any)", minimum=0
    )
    device: str | None = device_setting(neutral=True)
    batch_size: int = setting(32, "items that a model computes at once", minimum=1, maximum=4096)
    partition_size: int = setting(
        DEFAULT_PARTITION, "items of a partition: rows of a table, images of a folder; a tar or a group of parquet's rows is one",
        minimum=1,
    )  # fmt: skip
    allow_pickle: bool = setting(False, "read .bin, .pt and .ckpt files, which can carry code")

    as_json: bool = neutral(False, "print one JSON document on standard output", flag="json")

    @classmethod
    def neutral(cls) -> set[str]:
        """Settings that leave the output as it is."""
        return {name for name, field in cls.model_fields.items() if about_of(field).get("neutral")}

    @property
    def result(self) -> dict[str, Any]:
        """What the output depends on, for JSON."""
        return self.model_dump(mode="json", exclude=type(self).neutral())

    def problems(self) -> list[str]:
        if self.engine == "local" and (unused := self.changed("ray_address", "gpus")):
            return [f"{unused}: only with --engine ray"]
        return []


class ReadSettings(BatchSettings):
    """How images and captions are found in the input."""

    caption: str | None = setting(None, "column of the captions (default: caption, text, ...)", metavar="C")
    id_column: str | None = setting(
        None, "column of the items' names (default: uid, id, else where they stand)", metavar="C"
    )
    fetch: list[str] = setting(
        [], "kinds of URLs in the input that are fetched, such as https s3 (default: none, only files)", metavar="KIND"
    )


class ModelSettings(ReadSettings):
    """The AltCLIP that computes."""

    model: str | None = setting(None, "AltCLIP: id on the hub or folder (default: mini)", source="model", metavar="M")
    dtype: Literal["float32", "float16", "bfloat16"] = setting("float32", "arithmetic; float32 is exact")


class ScoreBatch(ModelSettings):
    """How well images fit prompts, or each image its caption."""

    prompt: list[str] = setting([], "what each image is scored against (default: its own caption)", metavar="P")
    score_as: list[ScoreAs] = setting(
        ["cosine"], "columns of scores: cosine; by the model's calibration percentile, match_percentile, probability",
        flag="as", metavar="KIND",
    )  # fmt: skip
    language: str | None = setting(None, "of all texts, such as zh (default: found, by py3langid)", metavar="L")
    calibration: str | None = setting(None, "folder of one that isn't beside the model", source="path", metavar="DIR")


class EmbedBatch(ModelSettings):
    """Features of images and captions, in clip-retrieval's layout."""

    what: Literal["images", "captions", "both"] = setting("both", "what features are computed of")


class FilterBatch(ReadSettings):
    """The items whose scores are high enough, as copies, and as a list of their names."""

    scores: Path = setting(..., "what `batch score` wrote of the same input", source="path", metavar="DIR")
    by: str = setting("cosine", "column of the scores", metavar="COLUMN")
    minimum: float | None = setting(None, "keep what scores at least so much", flag="min")
    top: float | None = setting(None, "keep this fraction, of the highest scores", above=0, maximum=1)
    uids: bool = setting(False, "write DataComp's subset file of the items' uids, uids.npy")
    copy_items: bool = setting(True, "copy the items that are kept; --no-copy writes the lists alone", flag="copy")

    def problems(self) -> list[str]:
        wrong = (self.minimum is None) == (self.top is None)
        return [*super().problems(), *(["expected one of --min and --top"] if wrong else [])]


class GenerateBatch(ImageFlags, BatchSettings, LabelSettings):
    """Images of prompts, as webdataset tars with their settings."""

    source: str = setting(
        ..., "prompts: .txt, or .csv, .tsv, .jsonl, .parquet, whose other columns are settings of an image; patterns and "
        "{000..012} are expanded, and fsspec's URLs are read", positional="IN",
    )  # fmt: skip
    seed: int = setting(
        0, "of item 0; item i has seed + i, wherever it is generated", minimum=0, maximum=2**62, metavar="N"
    )
    keep: list[str] = setting([], "columns of IN that are no settings, for the images' .json", metavar="COLUMN")
    form: Literal["png", "jpg", "webp"] = setting("png", "of the images")
    batch_size: int = setting(4, "images generated at once", minimum=1, maximum=64)
    partition_size: int = setting(64, "images of a tar", minimum=1)

    def problems(self) -> list[str]:
        """Images to start from are named by the rows, all else can be said for all."""
        return [*BatchSettings.problems(self), *ImageSettings(prompt="a", **self.said).problems()]
