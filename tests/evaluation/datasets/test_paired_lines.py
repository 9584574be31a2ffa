"""Captions a line and image names in another file, laid out as XTD10, XTD200, Flickr30k-200 and Multi30k have them."""

import gzip

import pytest
from helpers import caption_sets
from helpers.caption_sets import COUNT, IDS

from altdiffusion import InputError
from altdiffusion.evaluation.datasets.captioned import read_captions

NAMES = [f"{number}.png" for number in IDS]
FIRST = [caption_sets.captions(image)[0] for image in range(COUNT)]
SECOND = [caption_sets.captions(image)[1] for image in range(COUNT)]


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture
def pictures(tmp_path):
    return caption_sets.save_pictures(tmp_path / "pictures")


def test_multi30ks_names_are_those_of_its_own_test_set(tmp_path, pictures):
    task = tmp_path / "task1"
    for name, images in (("test_2016_flickr", NAMES), ("test_2017_flickr", NAMES[::-1])):
        write(task / "image_splits" / f"{name}.txt", images)
        for language in ("de", "en"):
            write(task / "raw" / f"{name}.{language}.gz", [f"{text} {language}" for text in FIRST])
    for name, images in (("test_2016_flickr", NAMES), ("test_2017_flickr", NAMES[::-1])):
        data = read_captions(task / "raw" / f"{name}.de.gz", pictures)
        assert (data.image_names, data.captions) == (images, [f"{text} de" for text in FIRST])
        assert (data.form, data.language) == ("xtd10", "de")
    assert read_captions(task / "raw" / "test_2016_flickr.en.gz", pictures, form="multi30k").form == "multi30k"


def test_multi30ks_names_of_cocos_images_have_the_number_of_a_caption(tmp_path, pictures):
    for number in IDS:
        (pictures / f"{number}.png").rename(pictures / f"COCO_val2014_{number:012}.png")
    images = [f"COCO_val2014_{number:012}" for number in IDS]
    write(
        tmp_path / "image_splits" / "test_2017_mscoco.txt", [f"{image}.png#{10 * n}" for n, image in enumerate(images)]
    )
    path = write(tmp_path / "raw" / "test_2017_mscoco.fr", FIRST)
    data = read_captions(path, pictures)
    assert data.image_names == [f"{image}.png" for image in images]
    assert (data.captions, data.language) == (FIRST, "fr")


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_multi30ks_captions_in_several_files_are_read_together(tmp_path, pictures, ending):
    for name, images in (("test_2016", NAMES), ("val", NAMES[::-1])):
        names = write(tmp_path / "image_splits" / f"{name}_images.txt", images)
    for number, texts in enumerate((FIRST, SECOND), 1):
        path = write(tmp_path / "raw" / f"test_2016.{number}.en{ending}", texts)
    data = read_captions(path, pictures)
    assert (data.captions, data.positives) == (FIRST + SECOND, [(image,) for image in [*range(COUNT)] * 2])
    assert data.notes == [f"captions are read from test_2016.1.en{ending} to test_2016.2.en{ending}"]
    assert read_captions(path, pictures, used="first").captions == FIRST
    assert read_captions(path, pictures, names=names).image_names == NAMES[::-1]


@pytest.mark.parametrize(("names", "form"), [("test_image_names.txt", "xtd200"), ("filenames.txt", "flickr30k-200")])
def test_a_file_a_language_under_its_code_of_flores(tmp_path, pictures, names, form):
    write(tmp_path / names, NAMES)
    for code in ("deu_Latn", "ace_Latn", "zho_Hans"):
        write(tmp_path / f"{code}.txt", [f"{text} {code}" for text in FIRST])
    for asked, code, language in (
        ("deu_Latn", "deu_Latn", "de"),
        ("zh", "zho_Hans", "zh"),
        ("ace_Latn", "ace_Latn", "ace_Latn"),
    ):
        data = read_captions(tmp_path, pictures, language=asked, form=form)
        assert (data.captions, data.language, data.form) == ([f"{text} {code}" for text in FIRST], language, form)
        assert read_captions(tmp_path / f"{code}.txt", pictures).language == language


def test_xtd10s_german_and_japanese_lie_beside_its_names(tmp_path, pictures):
    write(tmp_path / "XTD10" / "test_image_names.txt", NAMES)
    write(tmp_path / "XTD10" / "test_1kcaptions_it.txt", FIRST)
    for path, language in (("MIC/test_1kcaptions_de.txt", "de"), ("STAIR/test_1kcaptions_jp.txt", "ja")):
        data = read_captions(write(tmp_path / path, FIRST), pictures)
        assert (data.image_names, data.captions, data.language) == (NAMES, FIRST, language)
    assert read_captions(tmp_path / "XTD10", pictures).language == "it"


def test_a_file_that_does_not_fit_its_names_is_refused(tmp_path, pictures):
    write(tmp_path / "test_image_names.txt", NAMES)
    path = write(tmp_path / "deu_Latn.txt", FIRST[1:])
    with pytest.raises(InputError, match=r"has 11 lines, .*test_image_names\.txt has 12: expected a caption for every"):
        read_captions(path, pictures)
    cut = tmp_path / "fra_Latn.txt.gz"
    cut.write_bytes(write(tmp_path / "x.gz", FIRST).read_bytes()[:40])
    with pytest.raises(InputError, match="is packed and can't be unpacked"):
        read_captions(cut, pictures, form="xtd200")


def test_packed_tables_are_to_be_unpacked(tmp_path, pictures):
    path = write(tmp_path / "x.csv.gz", ["image,caption", *(f"{name},a cat" for name in NAMES)])
    with pytest.raises(InputError, match=r"is packed: unpack it first \(gunzip -k x\.csv\.gz\)"):
        read_captions(path, pictures)
