"""Parsers of files: images, tables, archives, captions, settings. Inputs are written into memory's file system."""

# ruff: noqa: E501, PT018
from __future__ import annotations

import atexit
import contextlib
import gzip
import io
import pickle
import shutil
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fuzzing.inputs import Maker, corpus
from PIL import ExifTags, Image, PngImagePlugin

from altdiffusion import images as image_files
from altdiffusion.data.image_folder import CaptionFolder
from altdiffusion.data.table import Table
from altdiffusion.data.tar_shards import TarTable
from altdiffusion.data.text_lines import LineTable
from altdiffusion.errors import InputError
from altdiffusion.evaluation.datasets import caption_formats as formats
from altdiffusion.evaluation.datasets import class_files as classes
from altdiffusion.evaluation.datasets.labelled import read_labelled
from altdiffusion.generation.infotext import read_info, to_infotext
from altdiffusion.generation.label import DEFAULT, PNG_KEY, read_label
from altdiffusion.generation.prompts_file import read_prompts_file
from altdiffusion.generation.settings import ImageSettings

SETTINGS = ImageSettings(prompt="一只猫", steps=5, seed=1, width=8, height=8)


@cache
def folder() -> Path:
    """In memory where there is such a file system."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def written(name: str, content: bytes) -> Path:
    path = folder() / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def nobody(where: str, reason: str) -> None:
    """Takes note of bad records."""


def read_all(table: Table) -> None:
    """Every record of a table is one that it promised, and has a place."""
    for index in range(min(len(table), 20)):
        record = table[index]
        assert all(isinstance(record[column], str) and record[column] for column in table.columns)
        table.where(index), table.source_row(index)
        if "image" in record:
            with contextlib.suppress(image_files.BadImage):
                image_files.decode_image(record["image"])


@cache
def image_seeds() -> list[bytes]:
    info, seeds = PngImagePlugin.PngInfo(), []
    info.add_itxt("parameters", to_infotext(SETTINGS))
    info.add_text("Comment", '{"prompt": "a", "steps": 5}', zip=True)
    info.add_itxt(PNG_KEY, (DEFAULT.xmp(SETTINGS) or b"").decode())
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + to_infotext(SETTINGS).encode(
        "utf-16-be"
    )
    for mode in ("RGB", "RGBA", "P", "L", "I;16", "1", "LA", "CMYK", "F"):
        image = Image.new(mode, (9, 7))
        for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
            options: dict[str, Any] = (
                {"pnginfo": info} if form == "PNG" else {"exif": exif, "xmp": DEFAULT.xmp(SETTINGS)}
            )
            buffer = io.BytesIO()
            with contextlib.suppress(OSError, ValueError):
                image.save(buffer, form, **(options if form in ("PNG", "JPEG", "WEBP", "TIFF") else {}))
                seeds.append(buffer.getvalue())
    return seeds


IMAGE_WORDS = [
    b"IHDR",
    b"iTXt",
    b"zTXt",
    b"tEXt",
    b"IDAT",
    b"iCCP",
    b"eXIf",
    b"Exif\0\0",
    b"UNICODE\0",
    b"II*\0",
    b"MM\0*",
    b"RIFF",
]


def an_image(make: Maker) -> bytes:
    return make.data(image_seeds(), IMAGE_WORDS)


def images(content: bytes) -> None:
    mode = "RGB" if len(content) % 2 else "L"
    with contextlib.suppress(image_files.BadImage):
        width, height = image_files.image_size(image_files.ImageSource(Path("x"), "", lambda: content))
        assert width > 0 and height > 0
    image = image_files.read_image(io.BytesIO(content), mode)
    assert image.mode == mode and image.width * image.height <= image_files.MAX_PIXELS


def an_image_with_texts(make: Maker) -> bytes:
    if make.chance(0.5):
        return an_image(make)
    info, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    text = make.text([*corpus("infotexts"), *corpus("foreign_json")], ["\n", "Steps: 5", ","])
    text = text.encode("utf-8", "replace").decode().replace("\0", "")
    info.add_itxt(make.one(["parameters", "Comment", "invokeai_metadata", PNG_KEY]), text, zip=make.chance(0.3))
    Image.new("L", (2, 2)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def image_info(content: bytes) -> None:
    path = written("info.png", content)
    with contextlib.suppress(InputError), image_files.opened_image(path) as image:
        read_label(image).lines()
    read_info(path)


def a_table(make: Maker) -> tuple[str, bytes, str]:
    ending = make.one([".csv", ".tsv", ".txt", ".jsonl"])
    words = [
        ",",
        "\t",
        "\n",
        '"',
        '""',
        "en",
        "zh",
        "image",
        "caption",
        "\r\n",
        '{"en": "a"}',
        "猫",
        ";",
        "|",
        "a.png",
        '\t"',
        '"\t"""\n',
    ]
    return ending, encoded(make.text(corpus("tables"), words)), make.one(["", "en", "caption", "none"])


def line_table(given: tuple[str, bytes, str]) -> None:
    ending, content, column = given
    path = written(f"table{ending}", content)
    if not (folder() / "a.png").exists():
        written("a.png", image_seeds()[0])
    asked = None if column == "none" else [column] if column else []
    for images in (False, True):
        with contextlib.suppress(InputError):
            read_all(LineTable(path, asked, images=images, skip=nobody))


def a_prompts_file(make: Maker) -> tuple[str, bytes]:
    words = [
        "prompt",
        ",",
        "\n",
        "steps",
        "seed",
        "size",
        "8x8",
        '"',
        '{"prompt": "a"}',
        "猫",
        "--steps",
        "#",
        "\t",
        "guidance scale",
    ]
    return make.one([".csv", ".tsv", ".txt", ".jsonl"]), encoded(make.text(corpus("prompt_files"), words))


def prompts_file(given: tuple[str, bytes]) -> None:
    ending, content = given
    rows, bad = read_prompts_file(written(f"prompts{ending}", content), {"steps": 5}, ["note"])
    assert rows or bad
    assert all(row.settings.prompt.strip() for row in rows)


@cache
def tar_seeds() -> list[bytes]:
    seeds = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
            for name, content in (("a/1.png", image_seeds()[0][:200]), ("a/1.txt", "一只猫".encode()), ("2.json", b'{"caption": "a"}'),
                                  ("2.jpg", b"x"), ("long" * (40 if form else 9) + ".txt", b"a cat"), ("../3.txt", b"a"), ("/4.txt", b"b")):  # fmt: skip
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
                member = tarfile.TarInfo("5.jpg")
                member.type, member.linkname = kind, "/etc/passwd"
                tar.addfile(member)
        seeds.append(buffer.getvalue().rstrip(b"\0") + bytes(1024))
    return seeds


def a_tar(make: Maker) -> bytes:
    data = bytearray(
        make.data(
            tar_seeds(),
            [b"L", b"x", b"g", b"K", b"S", b"12 size=-512\n", b"-00000000001", b"\x80\xff\xff\xff", b"ustar"],
        )
    )
    for at in (
        range(0, len(data) - 511, 512) if make.chance(0.7) else ()
    ):  # checksums that fit, so that headers are read
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 155] = b"%06o\0" % (sum(data[at : at + 512]) % 8**6)
    return bytes(data)


def tar(content: bytes) -> None:
    path = written("shard.tar", content)
    for images in (False, True):
        with contextlib.suppress(InputError):
            read_all(TarTable(path, [], images=images, skip=nobody))


def some_captions(make: Maker) -> list[bytes]:
    return [encoded(make.text(corpus("prompts"), ["\n", "a", "猫"])) for _ in range(2)]


def caption_folder(captions: list[bytes]) -> None:
    for number, caption in enumerate(captions):
        written(f"pictures/{number}.png", image_seeds()[0])
        written(f"pictures/{number}.txt", caption)
    read_all(CaptionFolder(folder() / "pictures", [], nobody))


@cache
def parquet_seeds() -> list[bytes]:
    import pyarrow
    from pyarrow import parquet

    seeds = []
    for table in ({"caption": ["a", "b", None], "image": [image_seeds()[0], b"", None]}, {"translation": [{"en": "a", "zh": "猫"}]},
                  {"en": ["a"], "file_name": ["../" * 50 + "x" * 300]}, {"en": [1, 2], "zh": ["a", "b"]}):  # fmt: skip
        buffer = io.BytesIO()
        parquet.write_table(pyarrow.table(table), buffer)
        seeds.append(buffer.getvalue())
    return seeds


def a_parquet(make: Maker) -> bytes:
    return make.data(parquet_seeds())


def parquet(content: bytes) -> None:
    import datasets

    from altdiffusion.data.arrow_tables import ArrowTable

    datasets.config.HF_DATASETS_CACHE = folder() / "datasets"
    datasets.disable_progress_bars()
    path = written("table.parquet", content)
    try:
        for images in (False, True):
            with contextlib.suppress(InputError):
                read_all(ArrowTable(path, [], images=images, skip=nobody))
    finally:
        shutil.rmtree(folder() / "datasets", ignore_errors=True)


def a_caption_file(make: Maker) -> tuple[bytes, str | None, str | None]:
    words = [
        "a.jpg",
        "#0\t",
        "\n",
        "caption",
        ",",
        '{"',
        '"images"',
        ": [",
        "]",
        "}",
        "1000#0 a",
        "image,caption",
        "猫",
        "\t",
        '"raw"',
        ".jpg,",
    ]
    content = encoded(make.text(corpus("captions"), words))
    if make.chance(0.1):
        content = make.data([gzip.compress(content)])
    form = make.one(
        [
            None,
            None,
            None,
            "token",
            "karpathy",
            "cn-clip",
            "csv",
            "jsonl",
            "xm3600",
            "xflickrco",
            "wit",
            "babel",
            "xtd10",
        ]
    )
    return content, form, make.one([None, "en", "de", "deu_Latn"])


def caption_formats(given: tuple[bytes, str | None, str | None]) -> None:
    content, form, language = given
    path = written("captions.txt", content)
    formats.recognise(path)
    names = written("names.txt", b"a.jpg\nb.jpg\n") if form == "xtd10" else None
    read = formats.read_entries(path, "test", nobody, names=names, language=language, form=form)
    assert all(isinstance(entry.caption, str) and entry.images for entry in read.entries)
    formats.strip_tags([entry.caption for entry in read.entries] or ["a"])


def a_class_file(make: Maker) -> bytes:
    return encoded(make.text(corpus("classes"), ['{"DE"', ": [[0, 1], ", '["a"', "]", "}", "\n", "a photo of {}", ","]))


def class_files(content: bytes) -> None:
    path = written("classes.json", content)
    for read in (classes.read_class_names, classes.read_templates):
        with contextlib.suppress(InputError):
            read(path, "de")


@cache
def cifar_seeds() -> list[bytes]:
    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1], b"fine_labels": [0, 1]}
    return [pickle.dumps(batch, protocol) for protocol in range(5)]


def a_cifar(make: Maker) -> bytes:
    words = [
        b"cos\nsystem\n",
        b"R",
        b"cnumpy\ndtype\n",
        b"b",
        b"(",
        b"t",
        b".",
        b"cnumpy\nndarray\n",
        b"X\xff\xff\xff\x7f",
        b"\x8e" + b"\xff" * 7,
    ]
    return make.data(cifar_seeds(), words)


def cifar(content: bytes) -> None:
    written("cifar/test_batch", content)
    written("cifar/batches.meta", pickle.dumps({b"label_names": [b"a", b"b"]}, 2))
    for image in read_labelled(folder() / "cifar").images:
        image.read()
