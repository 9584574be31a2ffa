"""Sets in many languages: one is chosen, every bad row is named, and halves that don't fit each other are refused."""

import json
import shutil

import pytest
from helpers import caption_sets
from helpers.caption_sets import COUNT, IDS

from altdiffusion import InputError
from altdiffusion.evaluation.datasets.caption_languages import flores_code, usual_code
from altdiffusion.evaluation.datasets.captioned import read_captions
from altdiffusion.evaluation.paper_results import BY_SET

IN_ONE_FILE = ["xm3600", "wit-tsv", "babel"]


def read(arguments, **others):
    arguments = {**arguments, **others}
    return read_captions(arguments.pop("captions"), arguments.pop("images"), **arguments)


def reasons(data):
    return {problem.where.rpartition("/")[2]: problem.reason for problem in data.problems}


@pytest.mark.parametrize("form", IN_ONE_FILE)
def test_a_language_is_chosen_in_any_spelling(tmp_path, form):
    arguments = caption_sets.write(form, tmp_path, "zh")
    expected = [text for image in range(COUNT) for text in caption_sets.captions(image, "zh")]
    for language in ("zh", "ZH", "zho_Hans"):
        data = read(arguments, language=language)
        assert (data.captions, data.problems) == (expected, [])
    assert (data.language, data.form) == ("zh", form.partition("-")[0])


@pytest.mark.parametrize("form", IN_ONE_FILE)
def test_where_none_is_chosen_or_another_the_languages_are_named(tmp_path, form):
    arguments = caption_sets.write(form, tmp_path)
    with pytest.raises(InputError, match="has captions in en, zh: choose one with --language"):
        read(arguments, language=None)
    with pytest.raises(InputError, match="has no captions in fr, only in en, zh: choose one with --language"):
        read(arguments, language="fr")


def test_every_language_of_the_published_sets_has_a_code_of_flores():
    languages = {row.language for rows in BY_SET.values() for row in rows}
    assert {"mi", "fil", "quz", "no", "zh", "ja"} < languages
    codes = {language: flores_code(language) for language in languages}
    assert all(codes.values())
    assert all(usual_code(code) in (language, code) for language, code in codes.items())
    assert [flores_code(code) for code in ("jp", "ZH", "yue_Hant", "und", "zho")] == [
        "jpn_Jpan", "zho_Hans", "yue_Hant", None, None,
    ]  # fmt: skip


def test_japanese_is_found_under_xtds_code(tmp_path):
    arguments = caption_sets.write("babel", tmp_path)
    document = json.loads(arguments["captions"].read_text())
    document["captions"]["jp"] = document["captions"].pop("zh")
    arguments["captions"].write_text(json.dumps(document))
    assert read(arguments, language="ja").language == read(arguments, language="jp").language == "ja"


def test_the_language_of_xflickrco_is_its_folders_and_of_a_file_a_language_its_names(tmp_path):
    (tmp_path / "x").mkdir()
    arguments = caption_sets.write("xflickrco", tmp_path / "x")
    folder = arguments["captions"].parent
    assert read({**arguments, "captions": folder.rename(folder.with_name("id"))}).language == "id"
    for code, language in (
        ("pt", "pt"),
        ("jp", "ja"),
        ("deu_Latn", "de"),
        ("ace_Latn", "ace_Latn"),
        ("pes_Arab", "fa"),
    ):
        (tmp_path / code).mkdir()
        arguments = caption_sets.write("clip-benchmark-json", tmp_path / code)
        path = arguments["captions"].rename(tmp_path / code / f"xtd200-{code}.json")
        assert read({**arguments, "captions": path}).language == language


def test_all_captions_or_each_images_first(tmp_path):
    arguments = caption_sets.write("xm3600", tmp_path)
    data = read(arguments, used="first")
    assert data.captions == [caption_sets.captions(image)[0] for image in range(COUNT)]
    assert (data.used, read(arguments).used) == ("first", "all")


@pytest.mark.parametrize(
    ("form", "bad", "found"),
    [
        ("xm3600", {"image/key": "7", "en": {"caption": []}}, {":13": "no caption in en"}),
        ("xm3600", {"image/key": "7", "zh": {"caption": ["a"]}}, {":13": "no caption in en"}),
        ("xm3600", {"en": {"caption": ["a"]}}, {":13": "no image/key"}),
        ("xm3600", {"image/key": "7", "en": {"caption": ["a"]}}, {":13, en[0], image 7.jpg": "no such image"}),
        ("xm3600", {"image/key": "7", "en": {"caption": [" "]}}, {":13, en[0]": "caption is empty"}),
        (
            "xflickrco",
            {"sentences": [], "id": "7", "img_path": "7.jpg"},
            {":13": "no sentences: an image without captions"},
        ),
        ("xm3600", {"image/key": str(IDS[0]), "en": {"caption": ["a"]}}, {":13": "the same image/key again"}),
        ("xflickrco", {"sentences": ["a"], "img_path": f"{IDS[0]}.jpg"}, {":13": "the same img_path again"}),
        ("xflickrco", {"sentences": ["a"], "id": "7"}, {":13": "no img_path"}),
        ("xflickrco", {"sentences": ["a"], "img_path": "7.jpg"}, {":13[0], image 7.jpg": "no such image"}),
        ("wit", {"caption_reference_description": "a", "language": "en"}, {":25": "no image_url"}),
        ("wit", {"caption_reference_description": "a", "image_url": "http://x/1000.png"}, {":25": "no language"}),
    ],
)
def test_every_kind_of_bad_row_is_counted_where_it_stands(tmp_path, form, bad, found):
    arguments = caption_sets.write(form, tmp_path)
    before = read(arguments).captions
    with arguments["captions"].open("a") as file:
        file.write(json.dumps(bad) + "\n")
    data = read(arguments, max_skipped=0.1)
    assert data.captions == before
    assert reasons(data) == {f"{arguments['captions'].name}{where}": reason for where, reason in found.items()}


def test_babels_images_without_captions_are_counted(tmp_path):
    arguments = caption_sets.write("babel", tmp_path)
    document = json.loads(arguments["captions"].read_text())
    document["captions"]["en"][3] = []
    arguments["captions"].write_text(json.dumps(document))
    data = read(arguments, max_skipped=0.1)
    assert reasons(data) == {"xm3600.json:captions[en][3]": "an image without captions"}
    assert len(data.images) == COUNT - 1


@pytest.mark.parametrize("repeated", [[3], [3, 3], [3, 5]])
def test_babels_repeated_images_are_one_each_and_said(tmp_path, repeated):
    arguments = caption_sets.write("babel", tmp_path)
    document = json.loads(arguments["captions"].read_text())
    for number, image in enumerate(repeated):
        document["images"].append(document["images"][image])
        document["captions"]["en"].append([f"once more, {number}"])
    arguments["captions"].write_text(json.dumps(document))
    data = read(arguments)
    assert (len(data.images), len(data.captions), data.problems) == (COUNT, 2 * COUNT + len(repeated), [])
    assert data.positives[-1] == (repeated[-1],)
    listed = f"{len(set(repeated))} of the {COUNT} images are listed more than once, such as {document['images'][3]}"
    assert f"{listed}: the captions of each are taken together" in data.notes


@pytest.mark.parametrize("form", ["babel", "clip-benchmark-json"])
def test_halves_that_do_not_fit_each_other_are_refused_with_their_lengths(tmp_path, form):
    arguments = caption_sets.write(form, tmp_path)
    document = json.loads(arguments["captions"].read_text())
    captions = document["captions"]["en"] if form == "babel" else document["annotations"]
    images = len(captions)
    captions.pop(2)
    arguments["captions"].write_text(json.dumps(document))
    with pytest.raises(InputError, match=f"don't fit each other, {images} and {images - 1}: expected one for one"):
        read(arguments)


def test_wits_rows_without_a_description_are_passed_over_and_counted(tmp_path):
    arguments = caption_sets.write("wit-tsv", tmp_path)
    with arguments["captions"].open("a") as file:
        file.write("en\thttps://x\thttps://x/7.png\t\talt\nde\thttps://x\thttps://x/8.png\t\talt\n")
    data = read(arguments)
    assert data.problems == []
    assert data.notes[0] == "1 of 25 rows in en have no caption_reference_description and are passed over"


@pytest.mark.parametrize(
    "saved", ["Łódź, 1000.png", "%C5%81%C3%B3d%C5%BA%2C_1000.png", "Łódź,_1000.png", "Łódź,_1000.webp"]
)
def test_wits_images_are_found_by_the_end_of_their_url(tmp_path, saved):
    pictures = caption_sets.save_pictures(tmp_path / "pictures")
    shutil.copy(pictures / f"{IDS[0]}.png", pictures / saved)
    url = "https://upload.wikimedia.org/x/%C5%81%C3%B3d%C5%BA%2C_1000.png"
    record = {"image_url": url, "caption_reference_description": "a city", "language": "en"}
    path = tmp_path / "test_en.jsonl"
    path.write_text(json.dumps(record) + "\n")
    if " " in saved:
        with pytest.raises(InputError, match="has none of the images"):
            read_captions(path, pictures)
    else:
        assert read_captions(path, pictures).image_names == [saved]


# ---- named formats


@pytest.mark.parametrize("form", [form for form in caption_sets.WRITERS if form not in ("xtd10", "clip-benchmark")])
def test_a_format_that_is_named_reads_what_is_recognised(tmp_path, form):
    arguments = caption_sets.write(form, tmp_path)
    recognised = read(arguments)
    named = read(arguments, form=recognised.form)
    for what in ("captions", "positives", "image_names", "form", "language", "notes", "problems", "revision"):
        assert getattr(named, what) == getattr(recognised, what)


@pytest.mark.parametrize(
    ("form", "named", "message"),
    [
        ("token", "xm3600", r"not valid JSON|no language"),
        ("babel", "clip-benchmark-json", "is JSON, but not clip-benchmark-json: it looks like babel"),
        ("karpathy", "babel", "is JSON, but not babel: it looks like karpathy"),
        ("token", "multi30k", "needs the file of its image names: name it with --names"),
    ],
)
def test_another_format_than_the_files_is_refused(tmp_path, form, named, message):
    arguments = caption_sets.write(form, tmp_path)
    with pytest.raises(InputError, match=message):
        read(arguments, form=named)


def test_images_of_cocos_training_half_are_said(tmp_path):
    pictures = caption_sets.save_pictures(tmp_path / "pictures")
    names = [f"COCO_train2014_{number:012}" if number % 2 else f"COCO_val2014_{number:012}" for number in IDS]
    for number, name in zip(IDS, names, strict=True):
        (pictures / f"{number}.png").rename(pictures / f"{name}.png")
    path = tmp_path / "xtd.json"
    path.write_text(json.dumps({"images": [f"{name}.png" for name in names], "captions": {"en": [["a cat"]] * COUNT}}))
    note = "6 of the 12 images are of COCO's training half (COCO_train2014...): a system trained on COCO has seen them"
    assert read_captions(path, pictures).notes == [note]
