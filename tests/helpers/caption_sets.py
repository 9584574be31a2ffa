"""A tiny data set of images with captions, written in every format that captions are published in."""

from __future__ import annotations

import base64
import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def _as_jpg(folder: Path) -> Path:
    """The pictures under names that end in .jpg, in a folder of their own; what is in them stays exact."""
    (folder / "images").mkdir()
    for number in IDS:
        shutil.copy(folder / "pictures" / f"{number}.png", folder / "images" / f"{number}.jpg")
    return folder / "images"


def xm3600(folder: Path, language: str) -> dict[str, Any]:
    """Every language in one line, as captions.jsonl has it."""
    lines = []
    for image, number in enumerate(IDS):
        record: dict[str, object] = {"image/key": str(number), "image/locale": "de"}
        for code in ("en", "zh"):
            texts = captions(image, code)
            lower = [text.lower() for text in texts]
            record[code] = {"caption": texts, "caption/tokenized": lower, "caption/tokenized/lowercase": lower}
        lines.append(json.dumps(record, ensure_ascii=False))
    return {"captions": _write(folder / "captions.jsonl", lines), "images": _as_jpg(folder), "language": language}


def xflickrco(folder: Path, language: str) -> dict[str, Any]:
    (folder / "annotations" / language).mkdir(parents=True)
    rows = [
        {"sentences": captions(image, language), "id": str(number), "img_path": f"{number}.jpg"}
        for image, number in enumerate(IDS)
    ]
    lines = [json.dumps(row) for row in rows]
    return {"captions": _write(folder / "annotations" / language / "test.jsonl", lines), "images": _as_jpg(folder)}


def _wit_rows(language: str) -> list[dict[str, object]]:
    rows = []
    for number, (name, _, text) in enumerate(_pairs(language)):
        url = f"https://upload.wikimedia.org/wikipedia/commons/3/33/{name}"
        row = {"image_idx": number, "image_url": url, "meta_url": f"http://commons.wikimedia.org/wiki/File:{name}"}
        row |= {
            "caption_reference_description": text,
            "language": language,
            "page_url": "https://x",
            "wit_ix": "wit-test_0",
        }
        rows.append(row)
    return rows


def wit(folder: Path, language: str) -> dict[str, Any]:
    """IGLUE's lines of JSON."""
    lines = [json.dumps(row) for row in _wit_rows(language)]
    return {"captions": _write(folder / f"test_{language}.jsonl", lines)}


def wit_tsv(folder: Path, language: str) -> dict[str, Any]:
    """Google's table, of all languages together."""
    rows = [row for code in ("en", "zh") for row in _wit_rows(code)]
    columns = ["language", "page_url", "image_url", "caption_reference_description", "caption_alt_text_description"]
    lines = ["\t".join(columns), *("\t".join(str(row.get(name, "")) for name in columns) for row in rows)]
    return {"captions": _write(folder / "wit_v1.test.tsv", lines), "language": language}


def babel(folder: Path, language: str) -> dict[str, Any]:
    by_language = {code: [captions(image, code) for image in range(COUNT)] for code in ("en", "zh")}
    document = {"images": [f"{number}.jpg" for number in IDS], "captions": by_language}
    path = folder / "xm3600.json"
    path.write_text(json.dumps(document))
    return {"captions": path, "images": _as_jpg(folder), "language": language}


def clip_benchmark_json(folder: Path, language: str) -> dict[str, Any]:
    """A caption an image, so each is named twice; paths as they were where the file was written."""
    pairs = _pairs(language)
    paths = [f"root/xtd10/images/{name}" for name, _, _ in pairs]
    document = {"image_paths": paths, "annotations": [text for _, _, text in pairs], "indicies": [*range(len(pairs))]}
    path = folder / f"xtd10-{language}.json"
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return {"captions": path}


WRITERS: dict[str, Callable[[Path, str], dict[str, Any]]] = {
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
    "xm3600": xm3600,
    "xflickrco": xflickrco,
    "wit": wit,
    "wit-tsv": wit_tsv,
    "babel": babel,
    "clip-benchmark-json": clip_benchmark_json,
}


def write(form: str, folder: Path, language: str = "en") -> dict[str, Any]:
    """The arguments of read_captions for the data set in one format."""
    pictures = save_pictures(folder / "pictures")
    return {"images": pictures, **WRITERS[form](folder, language)}
