"""Images, data sets and what else strangers give to read: none reaches outside a folder, runs code or fills the memory."""

import gzip
import io
import json
import pickle
import shutil
import tarfile
import zlib

import numpy as np
import pytest
from helpers.hostile_files import Touch, files_in, refused
from helpers.hostile_images import bomb
from PIL import Image, PngImagePlugin

from altdiffusion import InputError
from altdiffusion.altclip.calibration import ABOUT, TENSORS, Calibration
from altdiffusion.checkpoints import hub
from altdiffusion.data import arrow_tables
from altdiffusion.data.image_folder import CaptionFolder
from altdiffusion.data.tar_shards import TarTable
from altdiffusion.data.text_lines import LineTable
from altdiffusion.errors import spelled_out
from altdiffusion.evaluation.datasets import caption_entry
from altdiffusion.evaluation.datasets.labelled import read_labelled
from altdiffusion.files import plain_name
from altdiffusion.generation.infotext import read_info
from altdiffusion.generation.manifest import NAME, Manifest
from altdiffusion.images import open_image

TARS = {
    "above": ["../../evil.txt", "../../evil.png"],
    "absolute": ["/tmp/evil.txt", "/tmp/evil.png"],
    "a drive": ["C:\\evil.txt", "C:\\evil.png"],
    "controls": ["\x1b[2Jevil.txt", "\x1b[2Jevil.png"],
}


@pytest.mark.parametrize("names", TARS.values(), ids=TARS)
def test_names_in_tars_lead_nowhere(tmp_path, names):
    """Members are read in place: none becomes a file, and links, devices and folders aren't looked at."""
    outside = tmp_path / "outside.txt"
    outside.write_text("the owner's secret")
    folder = tmp_path / "data"
    folder.mkdir()
    with tarfile.open(folder / "x.tar", "w") as tar:
        for name, content in zip(names, (b"a cat", png()), strict=True):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"{kind!r}.txt")
            member.type, member.linkname = kind, str(outside)
            tar.addfile(member)
    before = files_in(tmp_path)
    table = TarTable(folder / "x.tar", [], images=True, skip=lambda *_: None)
    assert [record["caption"] for record in table] == ["a cat"]
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2"])
def test_packed_and_truncated_tars(tmp_path, ending):
    with tarfile.open(tmp_path / "x.tar", f"w:{ending[1:]}") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    refused(lambda: TarTable(tmp_path / "x.tar", [], images=False, skip=lambda *_: None), match="uncompressed")


def png(noise=0, **texts):
    buffer, info = io.BytesIO(), PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key, text, zip=True)
    image = Image.effect_noise((50, 50), noise) if noise else Image.new("RGB", (4, 4))
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def chunk(name, content):
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")


IMAGES = {
    "a bomb": bomb(50_000),
    "a giant side": bomb(2**31 - 1),
    "truncated": png(noise=50)[:500],
    "wrong magic": b"\x89PMG" + png()[4:],
    "nothing": b"",
    "a script": b"#!/bin/sh\necho evil\n",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(evil) run\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "a pickle": pickle.dumps([1]),
}


@pytest.mark.parametrize("content", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("ending", [".png", ".jpg", ".eps"])
def test_images(tmp_path, content, ending):
    (tmp_path / f"x{ending}").write_bytes(content)
    refused(open_image, tmp_path / f"x{ending}")
    refused(read_info, tmp_path / f"x{ending}")


@pytest.mark.parametrize("key", [b"zTXt", b"iTXt"])
def test_texts_of_gigabytes_in_an_image_are_left_out(tmp_path, key):
    """100 MB in 100 KB: the image is read, or refused, and the text is not unpacked into memory as a whole."""
    packed = zlib.compress(bytes(10**8), 9)
    start = b"parameters\0\0" if key == b"zTXt" else b"parameters\0\1\0\0\0"
    whole = png()
    (tmp_path / "x.png").write_bytes(whole[:33] + chunk(key, start + packed) + whole[33:])
    refused(read_info, tmp_path / "x.png")


SETTINGS_IN_IMAGES = {
    "nested": '{"prompt":' * 5000,
    "a size of digits": "a\nSteps: 5, Size: " + "9" * 5000 + "x8",
    "nested exact prompts": "a\nSteps: 5, Exact prompts: " + "[" * 5000,
}


@pytest.mark.parametrize("text", SETTINGS_IN_IMAGES.values(), ids=SETTINGS_IN_IMAGES)
def test_settings_in_images(tmp_path, text):
    (tmp_path / "x.png").write_bytes(png(parameters=text))
    assert read_info(tmp_path / "x.png")[0].width is None


def test_an_error_steers_no_terminal():
    shown = str(InputError("no such image: \x1b]0;evil\x07\x1b[2J\r\nroot# \u202egnp.exe\x85"))
    assert shown.isprintable()
    assert shown.startswith("no such image: \\x1b]0;evil\\x07\\x1b[2J\\r\\nroot# \\u202egnp")
    assert spelled_out("一只猫 café 🐱") == "一只猫 café 🐱"


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "../x.png",
     "/x.png", "a/b.png", "a\\b.png", "\\\\host\\x", "C:x.png", "x\0.png", "NUL", "con.png", "Com1.txt.png",
     "aux .png", None, 5],
)  # fmt: skip
def test_names_that_lead_out_of_a_folder(tmp_path, name):
    refused(plain_name, name)
    if name is not None:
        (tmp_path / NAME).write_text(json.dumps({"seed": 1, "planned": {"a": name}}) + "\n")
        refused(Manifest, tmp_path, match="no line of a manifest")


@pytest.mark.parametrize("name", ["一只猫-1.png", "a.b.png", "..a.png", "console.png", "com10.png", "nul-1.png"])
def test_names_that_stay(name):
    assert plain_name(name) == name


LINES = {
    "nested": '{"seed":' * 5000,
    "no settings": '{"key": "a", "image": "x.png", "filtered": false, "settings": {"_fields_set": [], "evil": 1}}',
    "settings of another type": '{"key": "a", "image": "x.png", "filtered": false, "settings": 5}',
    "infinite": '{"seed": Infinity, "planned": {}}',
    "a key of no type": '{"key": [], "image": "x.png", "filtered": false, "settings": {}}',
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_manifests(tmp_path, line):
    (tmp_path / NAME).write_text(line + "\n")
    refused(Manifest, tmp_path, match="no line of a manifest")


def array_pickle(body):
    """CIFAR's dictionary whose data is what this pickle code leaves."""
    return b"\x80\x02}(C\x04data" + body + b"C\x06labels]K\0au."


CIFAR = {
    "code": lambda ran: pickle.dumps({b"data": Touch(ran)}),
    "eval by name": lambda ran: b"cbuiltins\neval\n(S'open(1)'\ntR.",
    "terabytes": lambda ran: array_pickle(b"cnumpy\nndarray\n(M\xff\xff\x8a\x08" + b"\xff" * 7 + b"\x00\x86tR"),
    "objects of bytes": lambda ran: pickle.dumps({b"data": np.array([None, None], object), b"labels": [0, 1]}, 2),
    "a structure": lambda ran: pickle.dumps({b"data": np.zeros(2, [("a", "u1")]), b"labels": [0, 1]}, 2),
    "another encoding": lambda ran: b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x04\x00\x00\x00zlibtR.",
    "a length of gigabytes": lambda ran: b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x.",
    "nested": lambda ran: b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    "nothing": lambda ran: b"",
}


@pytest.mark.parametrize("build", CIFAR.values(), ids=CIFAR)
def test_pickled_data_sets(tmp_path, build):
    ran, folder = tmp_path / "ran", tmp_path / "cifar"
    folder.mkdir()
    (folder / "test_batch").write_bytes(build(ran))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"a", b"b"]}))
    refused(read_labelled, folder)
    assert not ran.exists()


def test_pickled_arrays_of_cifar_are_read(tmp_path):
    """As Python 2 and 3 write them."""
    batch = {b"data": np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072), b"labels": [0, 1]}
    for protocol in (0, 2, 4):
        (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol))
        (tmp_path / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"a", b"b"]}, protocol))
        data = read_labelled(tmp_path)
        pixels = np.asarray(Image.open(io.BytesIO(data.images[1].read())))
        assert (pixels.transpose(2, 0, 1).ravel() == batch[b"data"][1]).all()


def test_packed_captions(tmp_path, monkeypatch):
    path = tmp_path / "captions.txt"
    monkeypatch.setattr(caption_entry, "MAX_UNPACKED", 10**6)
    path.write_bytes(gzip.compress(bytes(2 * 10**6)))
    refused(caption_entry.read_lines, path, match="more than 1,000,000 bytes")
    path.write_bytes(gzip.compress(b"a.jpg#0\ta cat\n")[:-10] + b"\xff" * 9)
    refused(caption_entry.read_lines, path, match="unpacked")
    assert caption_entry.read_head(path, 10) in (b"", b"a.jpg#0\ta ")


def test_parquet_that_unpacks_to_a_thousand_times_its_size(tmp_path, monkeypatch):
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"caption": ["a" * 1000 + str(number) for number in range(5000)]})
    parquet.write_table(table, tmp_path / "x.parquet", compression="zstd", use_dictionary=False)
    monkeypatch.setattr(arrow_tables, "MAX_UNPACKED", 1000)
    monkeypatch.setattr(arrow_tables, "MAX_RATIO", 10)
    refused(
        lambda: arrow_tables.ArrowTable(tmp_path / "x.parquet", [], images=False, skip=lambda *_: None),
        match="times its size",
    )


LONG_NAME = "../" * 50 + "x" * 5000


def test_names_of_images_that_no_file_can_have_are_bad_records(tmp_path):
    (tmp_path / "x.tsv").write_text(f"file_name\ten\n{LONG_NAME}.png\ta\na\0.png\tb\n/dev/zero\tc\n")
    bad = []
    table = LineTable(tmp_path / "x.tsv", [], images=True, skip=lambda where, reason: bad.append(reason))
    assert len(table) == 0
    assert len(bad) == 3


def test_links_in_a_folder_of_images_are_files_like_others(tmp_path):
    """A link to no image is a bad image; one to a device, or to itself, is none."""
    (tmp_path / "secret").write_text("the owner's secret")
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    (folder / "a.txt").write_text("a cat")
    (folder / "b.png").symlink_to(tmp_path / "secret")
    (folder / "c.png").symlink_to("/dev/zero")
    (folder / "d.png").symlink_to(folder / "d.png")
    table = CaptionFolder(folder, [], lambda *_: None)
    assert [record["caption"] for record in table] == ["a cat"]


ABOUTS = {
    "nested": '{"format":' * 5000,
    "weights of no numbers": '{"format": 1, "made_from": "", "weights": ["a"], "languages": {}}',
    "texts of no number": '{"format": 1, "made_from": "", "weights": [], "languages": {"en": {"texts": Infinity}}}',
    "another format": '{"format": [2], "languages": {}}',
}


@pytest.mark.parametrize("about", ABOUTS.values(), ids=ABOUTS)
def test_calibrations(tmp_path, about):
    (tmp_path / ABOUT).write_text(about)
    shutil.copy(hub.mini_folder() / "altclip" / TENSORS, tmp_path)
    refused(Calibration.load, tmp_path)
