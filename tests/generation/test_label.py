"""The label of a generated image: in every format, as other programs write it, and the mark that people see."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from altdiffusion.generation.infotext import open_info
from altdiffusion.generation.label import PNG_KEY, Label, read_label
from altdiffusion.generation.result import GeneratedImage, save_image, save_png
from altdiffusion.generation.settings import ImageSettings
from altdiffusion.images import WRITTEN

PROMPTS = ["一只猫", 'a "cat" & <dog> \u0003', "قطة 😀" * 200]
FIELDS = ["Label", "ContentProducer", "ProduceID", "ReservedCode1", "ContentPropagator", "PropagateID", "ReservedCode2"]


def generated(prompt="一只猫"):
    settings = ImageSettings(prompt=prompt, steps=3, seed=7, width=8, height=8)
    return GeneratedImage(Image.new("RGB", (64, 48), "red"), settings, False)


@pytest.mark.parametrize("ending", WRITTEN)
@pytest.mark.parametrize("producer", ["", "某某公司 & <Co>", "001191610133596325171T12566"])
def test_every_format_says_what_it_is(tmp_path, ending, producer):
    for prompt in PROMPTS:
        path = save_image(generated(prompt), tmp_path / f"x{ending}", Label(producer))
        with Image.open(path) as image:
            label = read_label(image)
        assert label.source_type == "trainedAlgorithmicMedia"
        assert list(label.aigc) == FIELDS
        assert (label.aigc["Label"], label.aigc["ContentProducer"]) == ("1", producer)
        assert open_info(path).prompt == prompt


def test_the_packet_is_xml_with_a_property_in_each_vocabularys_name_space():
    packet = Label("A & B").xmp(generated(PROMPTS[1]).settings).decode()
    root = ElementTree.fromstring(packet[packet.index("<x:") : packet.index("<?xpacket end")])
    tags = {element.tag: element.text for element in root.iter()}
    source = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    assert tags[source] == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert '"ContentProducer": "A & B"' in tags["{http://www.tc260.org.cn/ns/AIGC/1.0/}AIGC"]


def test_a_photo_that_was_painted_over_is_a_composite():
    settings = ImageSettings(prompt="a cat", init_image="photo.png", mask="mask.png", strength=0.5)
    assert b"/compositeWithTrainedAlgorithmicMedia<" in Label().xmp(settings)


def test_the_number_is_the_images_own_and_the_same_each_time():
    numbers = [Label().xmp(generated(prompt).settings) for prompt in ("a", "b", "a")]
    assert numbers[0] == numbers[2] != numbers[1]


@pytest.mark.parametrize("ending", WRITTEN)
def test_it_can_be_left_out(tmp_path, ending):
    with Image.open(save_image(generated(), tmp_path / f"x{ending}", Label(is_written=False))) as image:
        assert (read_label(image).source_type, read_label(image).aigc) == (None, None)


@pytest.mark.parametrize(
    ("packet", "source_type", "aigc"),
    [
        ("", None, None),
        ("<rdf:Description Iptc4xmpExt:DigitalSourceType='http://x/y/algorithmicMedia'/>", "algorithmicMedia", None),
        ('<d a:AIGC="{&quot;AIGC&quot;: {&quot;Label&quot;: 2}}"/>', None, {"Label": "2"}),
        ("<TC260:AIGC>{broken</TC260:AIGC>", None, None),
        ("<TC260:AIGC>[1]</TC260:AIGC>", None, None),
        ('<t:AIGC>{"AIGC": 3}</t:AIGC>', None, None),
    ],
)
def test_other_programs_labels_are_read_and_broken_ones_say_nothing(tmp_path, packet, source_type, aigc):
    info = PngImagePlugin.PngInfo()
    info.add_itxt(PNG_KEY, packet)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    with Image.open(tmp_path / "x.png") as image:
        found = read_label(image)
    assert (found.source_type, found.aigc) == (source_type, aigc)


@pytest.mark.parametrize("size", [(512, 512), (768, 256), (256, 1024), (64, 64), (16, 16)])
@pytest.mark.parametrize("mark", ["AI", "AI generated"])
def test_a_mark_stands_in_the_corner_at_a_twentieth_of_the_shorter_side(size, mark):
    image = Image.new("RGB", size, "red")
    marked = Label(mark=mark).marked(image)
    assert (marked.size, image.getpixel((size[0] - 1, size[1] - 1))) == (size, (255, 0, 0))
    changed = np.argwhere((np.asarray(marked) != np.asarray(image)).any(-1))
    light = np.argwhere((np.asarray(marked) > 150).all(-1))
    assert changed[:, 0].max() == size[1] - 1
    assert changed[:, 1].max() == size[0] - 1
    assert np.ptp(light[:, 0]) + 1 >= min(0.05 * min(size), size[1])
    if min(size) > 64:
        assert len(changed) < 0.2 * size[0] * size[1]


def test_without_a_mark_the_image_is_its_own():
    image = Image.new("RGB", (8, 8))
    assert Label().marked(image) is image


def test_a_sheet_carries_the_label_too(tmp_path):
    path = save_png(Image.new("RGB", (8, 8)), tmp_path / "sheet.png", Label().xmp(generated().settings))
    with Image.open(path) as image:
        assert read_label(image).source_type == "trainedAlgorithmicMedia"
