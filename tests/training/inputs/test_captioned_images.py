"""Images to train on: with captions and without, good ones and bad ones."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from altdiffusion.errors import InputError
from altdiffusion.images import BadImage, decode_image
from altdiffusion.training.inputs.captioned_images import CaptionedImages
from altdiffusion.training.inputs.image_tensors import ImageCache, fit_to, to_tensor

COLOURS = ["red", "green", "blue", "white"]


def read(source):
    return to_tensor(fit_to(decode_image(source), 2, 2))


def encoded(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def save_folder(folder: Path, columns: dict[str, str], bad: tuple[int, ...] = ()) -> Path:
    """Four images with these texts in metadata.jsonl."""
    folder.mkdir()
    lines = []
    for number, colour in enumerate(COLOURS):
        (folder / f"{number}.png").write_bytes(b"no picture" if number in bad else encoded(colour))
        lines.append(json.dumps({"image": f"{number}.png"} | columns))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def save_parquet(path: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"image": [encoded(colour) for colour in COLOURS]}).to_parquet(str(path))
    return path


def save_tar(path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for number, colour in enumerate(COLOURS):
            member = tarfile.TarInfo(f"{number}.png")
            content = encoded(colour)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def save_plain(folder: Path) -> Path:
    (save_folder(folder, {}) / "metadata.jsonl").unlink()
    return folder


def save_tsv(folder: Path) -> Path:
    (save_plain(folder) / "pictures.tsv").write_text("image\n" + "".join(f"{number}.png\n" for number in range(4)))
    return folder / "pictures.tsv"


ALONE = {
    "parquet": lambda root: save_parquet(root / "data.parquet"),
    "tar": lambda root: save_tar(root / "data.tar"),
    "jsonl": lambda root: save_folder(root / "data", {}),
    "tsv": lambda root: save_tsv(root / "data"),
    "folder": lambda root: save_plain(root / "data"),
}


@pytest.mark.parametrize("form", ALONE)
def test_images_alone_need_no_text(tmp_path, form):
    path = ALONE[form](tmp_path)
    data = CaptionedImages([str(path)], None, 0.0)
    seen = [data.image(number, read)[1][:, 0, 0].tolist() for number in range(len(data))]
    assert seen == [[255, 0, 0], [0, 128, 0], [0, 0, 255], [255, 255, 255]]
    with pytest.raises(InputError):
        CaptionedImages([str(path)], [], 0.0)


def test_without_images_the_images_alone_are_missed(tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"en": "a cat"}\n')
    (tmp_path / "nothing.jsonl").write_text("{}\n")
    for name in ("texts.jsonl", "nothing.jsonl"):
        with pytest.raises(InputError, match="has no images: expected a column image or file_name"):
            CaptionedImages([str(tmp_path / name)], None, 0.0)


def test_texts_beside_images_alone_may_be_bad(tmp_path):
    data = CaptionedImages([str(save_folder(tmp_path / "data", {"en": ""}))], None, 0.0)
    assert len(data) == 4


def test_a_bad_images_place_is_taken_within_its_table(tmp_path):
    """The other table has no English caption that could go with it."""
    paths = [
        save_folder(tmp_path / "en", {"en": "a cat"}, bad=(3,)),
        save_folder(tmp_path / "zh", {"zh": "猫"}, bad=(0,)),
    ]
    data = CaptionedImages([str(path) for path in paths], [], 0.5)
    record, pixels = data.image(3, read)
    assert record == 0
    assert torch.equal(pixels, data.image(0, read)[1])
    assert data.caption(record, "en") == "a cat"
    assert data.image(4, read)[0] == 5


def test_the_fraction_of_bad_images_is_of_all_records(tmp_path):
    """One of five is missing and one broken: 40 %, not 50."""
    folder = save_folder(tmp_path / "data", {"en": "a cat"}, bad=(1,))
    with (folder / "metadata.jsonl").open("a") as file:
        file.write('{"image": "missing.png", "en": "a cat"}\n')
    for limit, allowed in ((0.41, True), (0.39, False)):
        data = CaptionedImages([str(folder)], ["en"], limit)
        if allowed:
            assert data.image(1, read)[0] == 2
        else:
            with pytest.raises(InputError, match="2 of 5 records can't be used"):
                data.image(1, read)


def test_images_that_are_all_bad_end_it_whatever_is_allowed(tmp_path):
    data = CaptionedImages([str(save_folder(tmp_path / "data", {"en": "a cat"}, bad=(0, 1, 2, 3)))], ["en"], 1.0)
    with pytest.raises(InputError, match=r"none can be used of the images like .*metadata\.jsonl:2"):
        data.image(1, read)


def test_images_are_cached_in_every_size_while_there_is_room(tmp_path):
    data = CaptionedImages([str(save_folder(tmp_path / "data", {"en": "a cat"}))], ["en"], 0.0)
    prepared = []

    def prepare(image, width, height):
        prepared.append((width, height))
        return to_tensor(fit_to(image, width, height))

    cached = ImageCache(prepare, room=3 * (2 * 2 + 4 * 2))  # bytes
    for size in ((2, 2), (4, 2), (4, 4)):
        for _ in range(2):
            assert cached(data.source(0), *size).shape == (3, size[1], size[0])
    assert prepared == [(2, 2), (4, 2), (4, 4), (4, 4)]


def test_a_bad_image_is_not_cached(tmp_path):
    data = CaptionedImages([str(save_folder(tmp_path / "data", {"en": "a cat"}, bad=(0,)))], ["en"], 1.0)
    cached = ImageCache(to_tensor)
    for _ in range(2):
        with pytest.raises(BadImage):
            cached(data.source(0))
