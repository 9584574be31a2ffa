"""Every format of captions is recognised by its content and gives the same data; whatever is wrong is named and counted."""

import base64
import csv
import json

import pytest
from helpers import caption_sets, tables
from helpers.caption_sets import COUNT, IDS
from PIL import Image

from altdiffusion import InputError
from altdiffusion.data.open_tables import open_tables
from altdiffusion.data.table import SkipLog
from altdiffusion.evaluation.datasets.captioned import CaptionedImages, guess_language, read_captions
from altdiffusion.images import BadImage, ImageSource, decode_image

FORMS = {
    "flickr30k-cn": "token", "flickr30k-cna": "token", "coco-cn": "token", "old cn-clip": "cn-clip", "wit-tsv": "wit",
}  # fmt: skip


def read(arguments, **others):
    arguments = {**arguments, **others}
    return read_captions(arguments.pop("captions"), arguments.pop("images", None), **arguments)


def content(data):
    """[(colour of the image, captions)], by image."""
    found = [(decode_image(image).getpixel((0, 0)), []) for image in data.images]
    for caption, images in zip(data.captions, data.positives, strict=True):
        for image in images:
            found[image][1].append(caption)
    return sorted((colour, *captions) for colour, captions in found)


def reasons(data):
    return {problem.where.rpartition("/")[2]: problem.reason for problem in data.problems}


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def pictures(tmp_path):
    return caption_sets.save_pictures(tmp_path / "pictures")


# ---- the same data in every format


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("form", caption_sets.WRITERS)
def test_every_format_is_recognised_and_gives_the_same_data(tmp_path, form, language):
    arguments = caption_sets.write(form, tmp_path, language)
    path = arguments["captions"].rename(tmp_path / "no-hint")
    data = read({**arguments, "captions": path})
    assert content(data) == [(caption_sets.colour(i), *caption_sets.captions(i, language)) for i in range(COUNT)]
    assert (data.form, data.language, data.problems) == (FORMS.get(form, form), language, [])


@pytest.mark.parametrize("form", caption_sets.WRITERS)
def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path, form):
    arguments = caption_sets.write(form, tmp_path)
    before = content(read(arguments))
    raw = arguments["captions"].read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    arguments["captions"].write_bytes(b"\xef\xbb\xbf" + raw.replace(b"\n", b"\r\n"))
    assert content(read(arguments)) == before


@pytest.mark.parametrize(
    "form", ["token", "karpathy", "cn-clip", "clip-benchmark", "xtd10", "csv", "wit", "clip-benchmark-json"]
)
def test_a_folder_with_one_set_of_captions_is_enough(tmp_path, form):
    arguments = caption_sets.write(form, tmp_path)
    write(tmp_path / "README.txt", "About this data.", "Have fun.")
    assert content(read_captions(tmp_path)) == content(read(arguments))


def test_of_several_files_in_a_folder_split_and_language_choose(tmp_path, pictures):
    for name in ("train_zh", "test_zh", "test_it"):
        write(tmp_path / f"{name}.txt", f"{IDS[0]}#0\t{name}")
    assert read_captions(tmp_path, pictures, language="it").captions == ["test_it"]
    assert read_captions(tmp_path, pictures, split="train").captions == ["train_zh"]
    with pytest.raises(InputError, match=r"several files of captions, test_it\.txt, test_zh\.txt: name one"):
        read_captions(tmp_path, pictures)


def test_another_split_of_karpathys_json(tmp_path, pictures):
    path = caption_sets.karpathy(tmp_path, "en")["captions"]
    Image.new("RGB", (4, 4)).save(pictures / "1.png")
    assert read_captions(path, pictures, split="train").captions == ["another"]
    with pytest.raises(InputError, match=r"no split 'val', only test, train: choose one with --split"):
        read_captions(path, pictures, split="val")


def test_a_csv_may_use_bars_and_a_clip_benchmark_file_any_header(tmp_path, pictures):
    lines = ["image_name| comment_number| comment", f'{IDS[0]}.png| 0|  A man, "old" .']
    bars = write(tmp_path / "results.csv", *lines)
    assert read_captions(bars, pictures).captions == ['A man, "old" .']
    odd = write(tmp_path / "x", "anything at all", f"{IDS[0]}.png,a, b", f"{IDS[1]}.png,\"c\" and d")  # fmt: skip
    data = read_captions(odd, pictures)
    assert (data.form, data.captions) == ("clip-benchmark", ["a, b", '"c" and d'])


def test_a_csv_field_may_hold_line_ends(tmp_path, pictures):
    path = write(tmp_path / "x.csv", "image,caption", f'{IDS[0]}.png,"a\nb"', f"{IDS[1]}.png,c")
    assert read_captions(path, pictures).captions == ["a\nb", "c"]


def test_one_caption_of_several_images(tmp_path):
    arguments = caption_sets.write("cn-clip", tmp_path)
    line = json.dumps({"text_id": 1, "text": "two things", "image_ids": [IDS[2], IDS[5]]})
    data = read({**arguments, "captions": write(tmp_path / "x.jsonl", line)})
    assert data.positives == [(0, 1)]
    assert data.pairs.tolist() == [[0, 0], [0, 1]]
    assert data.image_names[:2] == [str(IDS[2]), str(IDS[5])]


# ---- a part of the images


@pytest.mark.parametrize("ids", ["names", "ids", "karpathy", "token"])
def test_ids_restrict_a_file_that_holds_everything(tmp_path, pictures, ids):
    path = caption_sets.token(tmp_path, "en")["captions"]
    splits = ["test" if image in (2, 4) else "train" for image in range(COUNT)]
    images = [
        {"filename": f"{IDS[image]}.jpg", "split": split, "sentences": [{"raw": "x"}]}
        for image, split in enumerate(splits)
    ]
    lists = {
        "names": [f"{IDS[4]}.jpg", f"{IDS[2]}.jpg"],
        "ids": [str(IDS[4]), str(IDS[2])],
        "karpathy": [json.dumps({"images": images})],
        "token": [f"{IDS[4]}#0\tx", f"{IDS[2]}#0\ty"],
    }
    data = read_captions(path, pictures, ids=write(tmp_path / "wanted", *lists[ids]))
    assert [name.partition(".")[0] for name in data.image_names] == [str(IDS[2]), str(IDS[4])]
    assert data.captions == [*caption_sets.captions(2), *caption_sets.captions(4)]
    assert data.notes == []


def test_ids_that_no_caption_names_are_problems(tmp_path, pictures):
    path = caption_sets.token(tmp_path, "en")["captions"]
    wanted = write(tmp_path / "wanted", str(IDS[0]), "77")
    data = read_captions(path, pictures, ids=wanted, max_skipped=0.5)
    assert reasons(data) == {"wanted: 77": "no caption names it"}
    with pytest.raises(InputError, match=r"no caption of any image that .*such as 77"):
        read_captions(path, pictures, ids=write(tmp_path / "wanted", "77"))


# ---- what is wrong


def test_captions_without_their_image_are_named_and_counted(tmp_path, pictures):
    path = caption_sets.token(tmp_path, "en")["captions"]
    (pictures / f"{IDS[3]}.png").unlink()
    data = read_captions(path, pictures, max_skipped=0.1)
    image = f"{IDS[3]}.png"
    assert reasons(data) == {f"results.token:{n}, image {image}": "no such image" for n in (7, 8)}
    assert (len(data.images), len(data.captions)) == (COUNT - 1, 2 * COUNT - 2)
    with pytest.raises(InputError, match=r"2 of 24 records .*no such image"):
        read_captions(path, pictures)


def test_images_without_captions_are_named_and_counted(tmp_path, pictures):
    path = caption_sets.token(tmp_path, "en")["captions"]
    Image.new("RGB", (4, 4)).save(pictures / "extra.png")
    data = read_captions(path, pictures)
    assert data.notes == ["1 images have no caption here and are left out: extra.png"]
    assert len(data.images) == COUNT


def test_cn_clips_images_without_captions_are_searched_through(tmp_path):
    arguments = caption_sets.write("cn-clip", tmp_path)
    lines = arguments["captions"].read_text().rstrip().split("\n")
    write(arguments["captions"], *lines[2:])
    data = read(arguments)
    assert data.image_names == [*map(str, IDS[1:]), str(IDS[0])]
    assert data.notes == [f"1 images without a caption are searched through: {IDS[0]}"]
    assert data.pairs.amax(0).tolist() == [2 * COUNT - 3, COUNT - 2]


@pytest.mark.parametrize(
    "beside",
    [
        {
            "test_texts.tr.jsonl": '{"image_id": 7, "text_ids": [1, 2]}'
        },  # text retrieval, as CN-CLIP's own script writes it
        {"test_texts.tr.jsonl": '{"text_id": 1, "text": "bir kedi", "image_ids": [7]}'},  # in Turkish
        {f"test_texts.{each}.jsonl": '{"text_id": 1, "text": "a", "image_ids": [7]}' for each in ("de", "en", "zh-CN")},
        {"valid_texts.jsonl": '{"text_id": 1, "text": "a", "image_ids": [7]}', "valid_imgs.tsv": f"7\t{'A' * 40}"},
    ],
)
def test_what_lies_beside_cn_clips_captions_does_not_confuse_it(tmp_path, beside):
    arguments = caption_sets.write("cn-clip", tmp_path)
    folder = tmp_path / "set"
    folder.mkdir()
    arguments["captions"].rename(folder / "test_texts.jsonl")
    arguments["images"].rename(folder / "test_imgs.tsv")
    for name, line in beside.items():
        write(folder / name, line)
    data = read_captions(folder)
    assert data.name == "test_texts.jsonl"
    assert len(data.images) == COUNT


def test_a_file_of_ids_alone_is_named_as_such(tmp_path, pictures):
    path = write(tmp_path / "test_texts.tr.jsonl", '{"image_id": 7, "text_ids": [1, 2]}')
    with pytest.raises(InputError, match=r"holds ids alone, no captions .*: .*test_texts\.jsonl"):
        read_captions(path, pictures)


@pytest.mark.parametrize(
    ("form", "bad", "reason"),
    [
        ("token", f"{IDS[0]}.png#7\t ", "caption is empty"),
        ("token", f"{IDS[0]}.png#7", "caption is empty"),
        ("token", f"{IDS[0]}.png a cat", "expected image#number, a tab, a caption"),
        ("token", f"{IDS[11]}.png#1\t{caption_sets.captions(11)[1]}", "the same caption under the same number again"),
        ("token", f"{IDS[0]}.png#7\ta\0b", "a NUL byte, no UTF-8 text"),
        ("cn-clip", '{"text_id": 99, "text": "a", "image_ids": []}', "no image_ids: it names no image"),
        ("cn-clip", f'{{"text_id": 3, "text": "a", "image_ids": [{IDS[0]}]}}', "the same text_id again"),
        ("cn-clip", '{"text_id": 99', "not valid JSON"),
        ("cn-clip", "{}", "no text_id"),
        ("cn-clip", f'{{"text_id": 99, "text": "", "image_ids": [{IDS[0]}]}}', "caption is empty"),
        ("clip-benchmark", "a cat", "expected the name of an image, a comma, a caption"),
        ("clip-benchmark", f"{IDS[0]}.png,", "caption is empty"),
        ("csv", "a cat", "1 fields where the header has 3"),
        ("csv", f'1,"a" cat,{IDS[0]}.png', "no valid CSV: ',' expected after '\"'"),
        ("csv", f"1,,{IDS[0]}.png", "caption is empty"),
    ],
)
def test_every_kind_of_bad_line_is_counted_where_it_stands(tmp_path, form, bad, reason):
    arguments = caption_sets.write(form, tmp_path)
    before = content(read(arguments))
    lines = arguments["captions"].read_bytes().rstrip().split(b"\n")
    arguments["captions"].write_bytes(b"\n".join([*lines, bad.encode()]) + b"\n")
    data = read(arguments, max_skipped=0.1)
    assert content(data) == before
    assert reasons(data) == {f"{arguments['captions'].name}:{len(lines) + 1}": reason}


def test_the_same_number_with_another_caption_is_another_caption(tmp_path, pictures):
    data = read_captions(write(tmp_path / "x", f"{IDS[0]}#0\ta", f"{IDS[0]}#0\tb"), pictures)
    assert data.captions == ["a", "b"]


def test_xtd10s_files_must_fit_each_other(tmp_path):
    arguments = caption_sets.write("xtd10", tmp_path)
    lines = arguments["captions"].read_text().split("\n")
    arguments["captions"].write_text("\n".join(["", *lines[1:]]))
    data = read(arguments, max_skipped=0.1)
    assert reasons(data) == {f"{arguments['captions'].name}:1": "caption is empty"}
    assert data.positives[0] == (0,)
    assert data.captions[0] == caption_sets.captions(0)[1]
    arguments["captions"].write_text("\n".join(lines[1:]))
    with pytest.raises(InputError, match=r"has 23 lines, .*test_image_names\.txt has 24"):
        read(arguments)
    with pytest.raises(InputError, match="holds names of images, no captions"):
        read_captions(arguments["names"], arguments["images"])


def test_bad_lines_among_cn_clips_images(tmp_path):
    arguments = caption_sets.write("cn-clip", tmp_path)
    with arguments["images"].open("a") as file:
        file.write(f"no tab\n{IDS[0]}\tAAAA\n77\tAAA\n")
    data = read(arguments, max_skipped=0.1)
    assert reasons(data) == {
        f"{arguments['images'].name}:13": "expected an id, a tab, an image in base64",
        f"{arguments['images'].name}:14": "the same image id again",
    }
    assert data.image_names[-1] == "77"
    with pytest.raises(BadImage, match="base64"):
        decode_image(data.images[-1])


def test_standard_base64_is_read_too(tmp_path):
    arguments = caption_sets.write("cn-clip", tmp_path)
    before = content(read(arguments))
    lines = [line.partition("\t") for line in arguments["images"].read_text().splitlines()]
    write(arguments["images"], *(f"{k}\t{base64.b64encode(base64.urlsafe_b64decode(v)).decode()}" for k, _, v in lines))
    assert content(read(arguments)) == before


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["just", "some text"], r"in no format for captions, .*Read are token files"),
        ([], "is empty"),
        ([" ", ""], "is empty"),
        (["{", '"images"'], r"neither Karpathy's JSON \(.*nor lines with text_id"),
        (['{"images": [{"id": 1}], "annotations": []}'], "not Karpathy's: expected"),
        (['{"image_id": 1, "text_ids": [2]}', '{"image_id": 1, "text_ids": [2]}'], "nor lines with text_id"),
        ([f"{IDS[0]}\t" + "QUFB" * 10] * 2, "holds images: give the captions"),
        (["1.png,a cat", "2.png,a dog"], r"has none of the images that .*such as 1\.png: give their folder"),
    ],
)
def test_files_that_are_no_captions_are_refused(tmp_path, pictures, lines, message):
    with pytest.raises(InputError, match=message):
        read_captions(write(tmp_path / "x", *lines), pictures)


def test_files_that_cannot_be_read_are_refused(tmp_path, pictures):
    with pytest.raises(InputError, match=r"no such file or folder: .*nothing"):
        read_captions(tmp_path / "nothing")
    with pytest.raises(InputError, match="holds no captions"):
        read_captions(pictures)
    path = tmp_path / "x"
    path.write_bytes(f"{IDS[0]}#0\ta\n".encode("utf-16"))
    with pytest.raises(InputError, match="UTF-16, expected UTF-8"):
        read_captions(path, pictures)
    path.write_bytes(f"{IDS[0]}#0\t狗\n".encode("gbk"))
    with pytest.raises(InputError, match=r"not UTF-8 \(.*x:1\)"):
        read_captions(path, pictures)


# ---- columns, quotes, parts of speech


def table(path, header, *rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("image", ["image", "file_name", "filepath"])
def test_the_columns_of_a_table_are_those_that_a_training_reads(tmp_path, pictures, image, delimiter):
    rows = [(f"{number}.png", "test", f'a cat, "black" {number}') for number in IDS]
    for caption in ("caption", "title", "description", "text"):
        path = table(tmp_path / "x", [image, "split", caption], *rows, delimiter=delimiter)
        data = read_captions(path, pictures)
        assert data.captions == [row[2] for row in rows]
        assert data.notes == [f"captions are read from the column {caption}, images from {image}; left out: split"]


@pytest.mark.parametrize(
    "header",
    [
        ("image", "caption_0", "caption_1"), ("file_name", "split", "alt"), ("picture", "en", "zh"), ("photo", "split", "alt"),
        ("image", "title", "description"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("caption", ["a cat", "a cat, black", 'a "black" cat'])
def test_columns_that_are_not_known_are_named_and_can_be_chosen(tmp_path, pictures, header, caption):
    path = table(tmp_path / "x.csv", header, *[(f"{number}.png", "test", caption) for number in IDS])
    with pytest.raises(InputError, match=f"has no .*{', '.join(header)}"):
        read_captions(path, pictures)
    if header[0] != "photo":
        assert set(read_captions(path, pictures, language=header[2]).captions) == {caption}


def test_a_language_is_its_column(tmp_path, pictures):
    path = table(tmp_path / "x.csv", ("image", "en", "zh"), *[(f"{number}.png", "a cat", "猫") for number in IDS])
    for language, caption in (("en", "a cat"), ("zh", "猫")):
        data = read_captions(path, pictures, language=language)
        assert (set(data.captions), data.language) == ({caption}, language)
    with pytest.raises(InputError, match="no column fr: its columns are image, en, zh"):
        read_captions(path, pictures, language="fr")


def test_json_lines_of_a_training_are_read_too(tmp_path, pictures):
    path = write(
        tmp_path / "x", *[json.dumps({"file_name": f"{number}.png", "text": "a cat", "n": 1}) for number in IDS]
    )
    data = read_captions(path, pictures)
    assert (data.form, data.captions) == ("jsonl", ["a cat"] * COUNT)


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_training_and_evaluation_read_the_same_captions(tmp_path, delimiter):
    hard = ['a 24" tv', "two\nlines", "tab\there", '"', '"quoted" cat', 'say ""', "猫, 狗", '"Hello"', "x"]
    for number in range(len(hard)):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    rows = [(f"{number}.png", caption) for number, caption in enumerate(hard)]
    path = table(
        tmp_path / ("x.csv" if delimiter == "," else "x.tsv"), ("image", "caption"), *rows, delimiter=delimiter
    )
    (trained,) = open_tables([path], [], images=True, skipped=SkipLog())
    assert read_captions(path).captions == [record["caption"] for record in trained] == hard


@pytest.mark.parametrize(
    ("tagged", "plain"),
    [
        ("两:m 个:q 男人:n 。:wj", "两个男人。"), ("NBA:nx 球员:n 12:30:t", "NBA球员12:30"), ("a:DT big:JJ cat:NN", "a big cat"),
        ("两/m 只/q 猫/n", "两只猫"), ("::w 猫:n 跑:v 了:ule", ":猫跑了"),
    ],
)  # fmt: skip
def test_parts_of_speech_are_left_out_and_that_is_said(tmp_path, pictures, tagged, plain):
    data = read_captions(write(tmp_path / "seg.txt", *[f"{number}#zhb#0 {tagged}" for number in IDS]), pictures)
    assert data.captions == [plain] * COUNT
    assert data.notes == [f"parts of speech are left out of the captions, which read: {plain}"]


@pytest.mark.parametrize("caption", ["at 12:30 a man and/or dog", "Note: a cat", "一只 猫 在 这里", "black/white"])
def test_captions_without_parts_of_speech_stay_as_they_are(tmp_path, pictures, caption):
    data = read_captions(write(tmp_path / "x", *[f"{number}#0\t{caption}" for number in IDS]), pictures)
    assert (data.captions, data.notes) == ([caption] * COUNT, [])


# ---- what the data is


@pytest.mark.parametrize(
    ("caption", "name", "language"),
    [
        ("一只猫", "", "zh"), ("猫が一匹いる", "", "ja"), ("고양이", "", "ko"), ("кот", "", "ru"), ("قطة", "", "ar"),
        ("A man in the sea", "test", "en"), ("un gatto sul letto", "test_1kcaptions_it", "it"), ("kot", "x", "und"),
    ],
)  # fmt: skip
def test_language_is_guessed_by_script_name_and_words(caption, name, language):
    assert guess_language([caption], name) == language


def flickr30k(images=1000, captions=5, name="{}.jpg"):
    source = ImageSource(None, "", lambda: b"")
    names = [name.format(10_000 + image) for image in range(images)]
    positives = [(image,) for image in range(images) for _ in range(captions)]
    return CaptionedImages("x", "token", "en", names, [source] * images, ["a"] * len(positives), positives, [])


def test_flickr30ks_test_set_is_known_by_its_shape():
    assert flickr30k().is_flickr30k_test
    assert flickr30k(name="images/{}.png").is_flickr30k_test
    assert not flickr30k(images=999).is_flickr30k_test
    assert not flickr30k(captions=1).is_flickr30k_test
    assert not flickr30k(name="COCO_val2014_{}.jpg").is_flickr30k_test
    assert not flickr30k().without([3], []).is_flickr30k_test


def test_without_some_images_only_captions_without_any_image_go():
    source = [ImageSource(None, str(i), lambda: b"") for i in range(4)]
    data = CaptionedImages("x", "csv", "en", ["a", "b", "c", "d"], source, ["1", "2", "3"], [(0, 1), (1,), (3,)], [])
    left = data.without([1], [])
    assert (left.captions, left.positives, left.image_names) == (["1", "3"], [(0,), (2,)], ["a", "c", "d"])
    assert [image.member for image in left.images] == ["0", "2", "3"]


# ---- what trainings read, by the same readers


def as_tar(folder):
    members = {}
    for number, image in enumerate(IDS):
        members |= {f"{image}.png": tables.encoded(caption_sets.colour(number)), f"{image}.txt": f"a cat {number}"}
    return tables.tar(folder / "x.tar", members)


def as_rows(folder):
    paths = caption_sets.save_pictures(folder / "pictures")
    return [
        {
            "image": {"bytes": (paths / f"{image}.png").read_bytes(), "path": None},
            "url": "u",
            "caption": f"a cat {number}",
        }
        for number, image in enumerate(IDS)
    ]


def as_dict(folder):
    other = tables.datasets.Dataset.from_list([{"caption": "of the other split", "url": "u"}])
    rows = tables.datasets.Dataset.from_list(as_rows(folder))
    tables.datasets.DatasetDict(train=other, test=rows).save_to_disk(folder / "x")
    return folder / "x"


def as_paths(folder):
    rows = [{"file_name": f"pictures/{image}.png", "caption": f"a cat {number}"} for number, image in enumerate(IDS)]
    caption_sets.save_pictures(folder / "pictures")
    return tables.plain_parquet(folder / "metadata.parquet", rows).parent


def as_kohya(folder):
    folder = caption_sets.save_pictures(folder / "pictures")
    for number, image in enumerate(IDS):
        write(folder / f"{image}.txt", f"a cat {number}")
    return folder


TABLES = {
    "tar": as_tar, "parquet": lambda folder: tables.parquet(folder / "x.parquet", as_rows(folder)),
    "saved": lambda folder: tables.saved(folder / "x", as_rows(folder)), "splits": as_dict, "paths": as_paths, "kohya": as_kohya,
}  # fmt: skip


@pytest.fixture
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(tables.datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("form", TABLES)
@pytest.mark.parametrize("language", [None, "en"])
def test_what_trainings_read_is_evaluated_too(tmp_path, form, language):
    path = TABLES[form](tmp_path)
    data = read_captions(path, language=language)
    assert content(data) == [(caption_sets.colour(number), f"a cat {number}") for number in range(COUNT)]
    assert (data.form, data.language, data.problems) == ("table", language or "en", [])
    assert data.notes[0].startswith("captions are read from the column caption")
    with pytest.raises(InputError, match=r"has images of its own: leave out "):
        read_captions(path, tmp_path)


@pytest.mark.usefixtures("_own_cache")
def test_a_table_has_a_column_for_each_language(tmp_path):
    rows = [row | {"en": "a cat", "zh": None if not number else "猫"} for number, row in enumerate(as_rows(tmp_path))]
    for row in rows:
        row.pop("caption")
    path = tables.parquet(tmp_path / "x.parquet", rows)
    assert read_captions(path, language="en").captions == ["a cat"] * COUNT
    data = read_captions(path, language="zh", max_skipped=0.1)
    assert (data.captions, reasons(data)) == (["猫"] * (COUNT - 1), {"x.parquet:0": "no zh"})
    with pytest.raises(InputError, match="no column fr: its columns are image, url, en, zh; choose one"):
        read_captions(path, language="fr")
    with pytest.raises(InputError, match="no single column of captions"):
        read_captions(path)


def test_ids_choose_among_the_samples_of_a_tar(tmp_path):
    data = read_captions(as_tar(tmp_path), ids=write(tmp_path / "ids", str(IDS[2]), f"{IDS[5]}.png"))
    assert data.captions == ["a cat 2", "a cat 5"]


def test_what_is_bad_in_a_tar_is_named_once(tmp_path):
    path = tables.tar(
        tmp_path / "x.tar", {"1.png": tables.encoded("red"), "1.txt": "a cat", "2.png": b"", "3.v2.png": b""}
    )
    data = read_captions(path, language="en", max_skipped=0.9)
    assert data.captions == ["a cat"]
    assert list(reasons(data)) == ["x.tar:3.v2.png", "x.tar:2.png"]
