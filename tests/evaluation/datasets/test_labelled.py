"""The same few images in every layout of labelled data."""

import io
import pickle

import numpy as np
import pytest
from helpers import tables
from PIL import Image

from altdiffusion import InputError
from altdiffusion.evaluation.datasets.labelled import CIFAR_10, read_labelled, read_lines
from altdiffusion.images import decode_image

LABELS = [3, 0, 9, 3]
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)


def binary(folder, labels=LABELS, coarse=False):
    folder.mkdir()
    first = [[7, label] if coarse else [label] for label in labels]
    rows = [bytes(numbers) + row.tobytes() for numbers, row in zip(first, PIXELS, strict=True)]
    (folder / ("test.bin" if coarse else "test_batch.bin")).write_bytes(b"".join(rows))
    return folder


def pickled(folder, coarse=False):
    folder.mkdir()
    key, meta, names = (
        (b"fine_labels", "meta", b"fine_label_names") if coarse else (b"labels", "batches.meta", b"label_names")
    )
    content = {b"data": PIXELS, key: LABELS}
    (folder / ("test" if coarse else "test_batch")).write_bytes(pickle.dumps(content))
    (folder / meta).write_bytes(pickle.dumps({names: [name.encode() for name in CIFAR_10]}))
    return folder


def parquet(path):
    import pyarrow
    import pyarrow.parquet

    encoded = []
    for row in PIXELS:
        buffer = io.BytesIO()
        Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(buffer, format="PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    pyarrow.parquet.write_table(pyarrow.table({"img": encoded, "label": [3, 0, 9, 3]}), path)
    return path


@pytest.mark.parametrize("form", ["binary", "pickled", "parquet"])
def test_cifar_in_every_form_is_the_same(tmp_path, form):
    make = {"binary": binary, "pickled": pickled, "parquet": parquet}[form]
    data = read_labelled(make(tmp_path / "cifar"))
    assert list(data.labels) == LABELS
    assert list(data.classes) == list(CIFAR_10)
    assert data.kind == "cifar-10"
    for source, row in zip(data.images, PIXELS, strict=True):
        np.testing.assert_array_equal(np.asarray(decode_image(source)), row.reshape(3, 32, 32).transpose(1, 2, 0))


@pytest.mark.parametrize("form", ["x.parquet", "saved", "splits"])
def test_tables_of_datasets_name_their_classes(tmp_path, monkeypatch, form):
    monkeypatch.setattr(tables.datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = tables.datasets.Features(
        img=tables.datasets.Image(), label=tables.datasets.ClassLabel(names=["cat", "dog", "owl"])
    )
    rows = [
        {"img": {"bytes": tables.encoded(colour), "path": None}, "label": n}
        for n, colour in enumerate(["red", "lime", "blue"])
    ]
    path = tmp_path / form
    if form == "x.parquet":
        tables.parquet(path, rows, features)
    elif form == "saved":
        tables.saved(path, rows, features)
    else:
        data = tables.datasets.Dataset.from_list(rows, features=features)
        tables.datasets.DatasetDict(train=data.select([0]), test=data).save_to_disk(path)
    data = read_labelled(path)
    assert (list(data.classes), list(data.labels)) == (["cat", "dog", "owl"], [0, 1, 2])
    assert [decode_image(image).getpixel((0, 0)) for image in data.images] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


@pytest.mark.parametrize("labels", [["dog", "cat", None, "dog"], [1, 0, None, 1]])
def test_rows_without_image_are_counted_and_without_label_refused(tmp_path, monkeypatch, labels):
    monkeypatch.setattr(tables.datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    image = {"bytes": tables.encoded("red"), "path": None}
    rows = [{"image": image if number != 2 else None, "label": label} for number, label in enumerate(labels)]
    path = tables.plain_parquet(tmp_path / "x.parquet", rows)
    data = read_labelled(path, max_skipped=0.25)
    assert list(data.labels) == [1, 0, 1]
    with pytest.raises(InputError, match=r"1 of 4 records .*no image"):
        read_labelled(path)
    rows[1]["label"] = None
    with pytest.raises(InputError, match="has no label: expected one in every row"):
        read_labelled(tables.plain_parquet(path, rows), max_skipped=0.25)


def test_cifar_100_has_its_fine_labels(tmp_path):
    folder = binary(tmp_path / "binary", coarse=True)
    with pytest.raises(InputError, match="fine_label_names"):
        read_labelled(folder)
    (folder / "fine_label_names.txt").write_text("\n".join(CIFAR_10))
    for data in (read_labelled(folder), read_labelled(pickled(tmp_path / "pickled", coarse=True))):
        assert (data.kind, list(data.labels)) == ("cifar-100", LABELS)


def test_folders_and_elevater_cn(tmp_path):
    for name, count in (("n02", 2), ("n01", 1)):
        (tmp_path / "test" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "test" / name / f"{number}.JPEG")
    assert list(read_labelled(tmp_path).classes) == ["n01", "n02"]
    assert list(read_labelled(tmp_path / "test").labels) == [0, 1, 1]
    (tmp_path / "label.txt").write_text("cat\ndog\n")
    (tmp_path / "label_cn.txt").write_text("猫\n狗\n", encoding="utf-8")
    assert list(read_labelled(tmp_path).classes) == ["猫", "狗"]
    (tmp_path / "label_cn.txt").write_text("猫\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"1 names of classes for .*, which has 2"):
        read_labelled(tmp_path)


class Evil:
    def __reduce__(self):
        return (print, ("it ran",))


def test_a_pickle_that_would_run_something_is_refused(tmp_path, capsys):
    folder = pickled(tmp_path / "cifar")
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(InputError, match="which no CIFAR does"):
        read_labelled(folder)
    assert "it ran" not in capsys.readouterr().out


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(InputError, match="no data set at"):
        read_labelled(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no images in"):
        read_labelled(tmp_path)
    cut = binary(tmp_path / "cut")
    (cut / "test_batch.bin").write_bytes((cut / "test_batch.bin").read_bytes()[:-5])
    with pytest.raises(InputError, match="cut off"):
        read_labelled(cut)
    with pytest.raises(InputError, match="label 200"):
        read_labelled(binary(tmp_path / "wrong", [0, 1, 200, 2]))
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="no parquet file"):
        read_labelled(tmp_path / "x.parquet")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(InputError, match="is empty"):
        read_lines(tmp_path / "empty.txt")
