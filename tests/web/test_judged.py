"""Whether an image and a prompt belong together, and how sure that is: what the page says by the model's calibration."""

import pytest
from PIL import Image

from altdiffusion.toy.glyphs import CONCEPTS, render
from altdiffusion.web import html_parts
from altdiffusion.web.limits import Limits
from altdiffusion.web.model_pool import Models
from altdiffusion.web.service import DemoService, Judged

PROMPTS = ["一只猫", "a dog on a blue background", "el gato está sentado en la mesa", "บนพื้นหลังสีน้ำเงินมีแมวหนึ่งตัว"]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    return DemoService(Models(["mini"]), Limits(), max_waiting=4, folder=tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def judged(service):
    images = [render(CONCEPTS.index("🐈"), 0), render(CONCEPTS.index("🚗"), 0), Image.new("RGB", (64, 64), "gray")]
    scores = service.score(images, PROMPTS, "mini")
    return service.judge(scores, PROMPTS, "mini")


def test_a_right_image_is_sure_and_a_wrong_one_is_not(judged):
    cat = judged[0]
    assert (cat.language, len(cat.probabilities)) == ("zh", 3)
    assert cat.probabilities[0] > 0.9
    assert max(cat.probabilities[1:]) < 0.5
    assert cat.percentiles[0] > 10


def test_each_prompt_has_its_language_and_one_without_calibration_is_not_judged(judged):
    assert [each.language for each in judged] == ["zh", "en", "es", "th"]
    assert judged[3].probabilities is None


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_says_it_in_a_sentence_each(judged, language):
    html = html_parts.judged(["image 1", "image 2", "image 3"], PROMPTS, judged, language)
    assert html.count("<li") == 3 * 3 + 1
    assert ("yes" if language == "en" else "相符，把握") in html
    assert html_parts.judged(["image 1"], PROMPTS, [], language) == ""


@pytest.mark.parametrize(
    ("probability", "said"), [(1.0, "&gt; 99.9 %"), (0.97, "97.0 %"), (0.5, "50.0 %"), (0.0, "&lt; 0.1 %")]
)
def test_nothing_is_quite_sure(probability, said):
    assert said in html_parts.judged(["1"], ["a cat"], [Judged("en", True, [probability], [3.0])], "en")


def test_what_visitors_write_is_escaped():
    html = html_parts.judged(["1"], ["<script>"], [Judged("en", False, [0.7], [3.0])], "en")
    assert "<script>" not in html
    assert "(en?)" in html
