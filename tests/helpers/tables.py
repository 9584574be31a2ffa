"""Tables of text and images in every format that trainings read, written and read back."""

from __future__ import annotations

import csv
import io
import json
import tarfile

import datasets
import pyarrow.parquet
from PIL import Image

from altdiffusion.data.open_tables import open_tables
from altdiffusion.data.table import SkipLog


def tsv(path, header, *rows):
    """Tab-separated; this and the others return the path."""
    path.write_text("\n".join("\t".join(row) for row in (header, *rows)) + "\n", encoding="utf-8")
    return path


def comma_separated(path, header, *rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows((header, *rows))
    return path


def jsonl(path, *records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def tar(path, members, form="w"):
    """members: {name: text, bytes or an object for JSON}, or pairs of them."""
    with tarfile.open(path, form) as file:
        for name, content in members.items() if isinstance(members, dict) else members:
            content = content if isinstance(content, (str, bytes)) else json.dumps(content)
            content = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def parquet(path, records, features=None):
    datasets.Dataset.from_list(records, features=features).to_parquet(path)
    return path


def plain_parquet(path, records):
    """Parquet by another program than datasets, without its features."""
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return path


def saved(path, records, features=None):
    """A folder by save_to_disk."""
    datasets.Dataset.from_list(records, features=features).save_to_disk(path)
    return path


def read(path, columns=(), *, images=False, limit=1.0):
    """The only table of a path, and the counts of what was skipped."""
    skipped = SkipLog(limit)
    (table,) = open_tables([path], columns, images=images, skipped=skipped)
    return table, skipped


def skips(capsys):
    """{where: reason}, as printed."""
    lines = capsys.readouterr().err.splitlines()
    return dict(line.removeprefix("skipped ").split(": ", 1) for line in lines if ": " in line)


def save_image(path, color="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 4), color).save(path)
    return path


def encoded(color, form="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (8, 4), color).save(file, form)
    return file.getvalue()
