"""A tiny data set of images with captions, written in every format that captions are published in."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

COUNT = 12  # images, with two captions each
IDS = [1000 + 7 * image for image in range(COUNT)]


def colour(image: int) -> tuple[int, int, int]:
    return 20 * image, 255 - 20 * image, 7


def captions(image: int, language: str = "en") -> tuple[str, str]:
    """Commas, quotes and a line separator are what formats differ in."""
    if language == "zh":
        return f"{image} 号，一只猫", f"{image} 号“东西”, 在这里"
    return f"{image} is a thing, a \"small\" one", f"{image} is in the\u2028corner, again"  # fmt: skip


def save_pictures(folder: Path, ending: str = ".png") -> Path:
    folder.mkdir(exist_ok=True)
    for image, number in enumerate(IDS):
        Image.new("RGB", (9, 7), colour(image)).save(folder / f"{number}{ending}")
    return folder


def _pairs(language: str) -> list[tuple[str, int, str]]:
    return [(f"{number}.png", n, text) for i, number in enumerate(IDS) for n, text in enumerate(captions(i, language))]


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def token(folder: Path, language: str) -> dict[str, Path]:
    lines = [f"{name}#{n}\t{text}" for name, n, text in _pairs(language)]
    return {"captions": _write(folder / "results.token", lines)}


def flickr30k_cna(folder: Path, language: str) -> dict[str, Path]:
    lines = [f"{Path(name).stem}#{n}\t{text}" for name, n, text in _pairs(language)]
    return {"captions": _write(folder / "cna.txt", lines)}


def flickr30k_cn(folder: Path, language: str) -> dict[str, Path]:
    """As it is distributed, with a language before the number and a space."""
    lines = [f"{Path(name).stem}#zhm#{n} {text}" for name, n, text in _pairs(language)]
    return {"captions": _write(folder / "cn.txt", lines)}


def coco_cn(folder: Path, language: str) -> dict[str, Path]:
    """Images under COCO's names, in the folder of COCO's split."""
    pictures = folder / "coco" / "val2014"
    pictures.mkdir(parents=True)
    for image, number in enumerate(IDS):
        Image.new("RGB", (9, 7), colour(image)).save(pictures / f"COCO_val2014_{number:012}.png")
    lines = [f"COCO_val2014_{int(Path(name).stem):012}#{n}\t{text}" for name, n, text in _pairs(language)]
    return {"captions": _write(folder / "coco-cn.txt", lines), "images": folder / "coco"}


def karpathy(folder: Path, language: str) -> dict[str, Path]:
    images = [
        {"filename": f"{number}.png", "split": "test", "sentences": [{"raw": text} for text in captions(i, language)]}
        for i, number in enumerate(IDS)
    ]
    images.insert(3, {"filename": "1.png", "split": "train", "sentences": [{"raw": "another"}]})
    path = folder / "dataset.json"
    path.write_text(json.dumps({"images": images, "dataset": "flickr30k"}))
    return {"captions": path}


def cn_clip(
    folder: Path, language: str, keys: tuple[str, str, str] = ("text_id", "text", "image_ids")
) -> dict[str, Path]:
    rows = [(text_id, text, [int(Path(name).stem)]) for text_id, (name, _, text) in enumerate(_pairs(language))]
    lines = [json.dumps(dict(zip(keys, row, strict=True)), ensure_ascii=False) for row in rows]
    encoded = []
    for image in reversed(range(COUNT)):
        picture = (folder / "pictures" / f"{IDS[image]}.png").read_bytes()
        encoded.append(f"{IDS[image]}\t{base64.urlsafe_b64encode(picture).decode()}")
    images = _write(folder / f"{keys[0]}_imgs.tsv", encoded)
    return {"captions": _write(folder / f"{keys[0]}_texts.jsonl", lines), "images": images}


def old_cn_clip(folder: Path, language: str) -> dict[str, Path]:
    return cn_clip(folder, language, ("query_id", "query_text", "item_ids"))


def clip_benchmark(folder: Path, language: str) -> dict[str, Path]:
    lines = ["image, caption"] + [f"{name},{text}" for name, _, text in _pairs(language)]
    return {"captions": _write(folder / "flickr_test.txt", lines)}


def xtd10(folder: Path, language: str) -> dict[str, Path]:
    """An image for every caption, so each is named twice; no newline at the end."""
    pairs = _pairs(language)
    names = _write(folder / "test_image_names.txt", [name for name, _, _ in pairs])
    path = folder / f"test_1kcaptions_{language}.txt"
    path.write_text("\n".join(text for _, _, text in pairs), encoding="utf-8")
    return {"captions": path, "names": names}


def plain_csv(folder: Path, language: str) -> dict[str, Path]:
    path = folder / "captions.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "Caption", "image"])
        writer.writerows([n, text, name] for name, n, text in _pairs(language))
    return {"captions": path}


WRITERS: dict[str, Callable[[Path, str], dict[str, Path]]] = {
    "token": token,
    "flickr30k-cn": flickr30k_cn,
    "flickr30k-cna": flickr30k_cna,
    "coco-cn": coco_cn,
    "karpathy": karpathy,
    "cn-clip": cn_clip,
    "old cn-clip": old_cn_clip,
    "clip-benchmark": clip_benchmark,
    "xtd10": xtd10,
    "csv": plain_csv,
}


def write(form: str, folder: Path, language: str = "en") -> dict[str, Path]:
    """The arguments of read_captions for the data set in one format."""
    pictures = save_pictures(folder / "pictures")
    return {"images": pictures, **WRITERS[form](folder, language)}
