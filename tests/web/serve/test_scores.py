"""Scores over HTTP are the scorer's."""

import pytest
import torch
from helpers.base64_images import encoded
from PIL import Image

from altdiffusion.altclip.calibration import LEVELS, Calibration, LanguageScores


@pytest.fixture
def images():
    return [Image.new("RGB", (40, 32), colour) for colour in ("red", "green", "blue")]


def test_cosines_are_the_scorers(client, service, images):
    prompts = ["一只猫", "a dog"]
    answer = client.post("/v1/scores", json={"images": [encoded(image) for image in images], "prompts": prompts})
    assert answer.status_code == 200, answer.text
    expected = service.models.scorer("alt-small").score(images, prompts)
    for row, wanted in zip(answer.json()["scores"], expected.tolist(), strict=True):
        assert row == pytest.approx(wanted, abs=1e-5)
    assert answer.json()["model"] == "alt-small"


def test_percentiles_are_there_where_the_model_is_calibrated(client, service, images, monkeypatch):
    class Calibrated:
        calibration = Calibration({"zh": LanguageScores(LEVELS / 990, None, None, 100, None)}, [])
        calls = 0

        def score(self, images, prompts):
            self.calls += 1
            return torch.tensor([[0.1, 0.2]])

    scorer = Calibrated()
    body = {"images": [encoded(images[0])], "prompts": ["一只猫", "บนพื้นหลังสีน้ำเงินมีแมวหนึ่งตัว"]}
    assert client.post("/v1/scores", json=body).json()["percentiles"] is None
    monkeypatch.setattr(service.models, "scorer", lambda label: scorer)
    assert client.post("/v1/scores", json=body).json()["percentiles"] == [[pytest.approx(99.0), None]]
    assert scorer.calls == 1


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"images": [], "prompts": ["a"]}, 400, "No image"),
        ({"images": ["x"] * 31, "prompts": ["a"]}, 400, "31 images"),
        ({"images": ["no image"], "prompts": ["a"]}, 400, "no whole image"),
        ({"images": ["IMAGE"], "prompts": []}, 400, "No prompts"),
        ({"images": ["IMAGE"], "prompts": ["a", " "]}, 400, "empty"),
        ({"images": ["IMAGE"], "prompts": ["a"] * 51}, 400, "51 lines"),
        ({"images": ["IMAGE"], "prompts": ["a"], "model": "/etc/passwd"}, 404, "not in the list"),
        ({"images": ["IMAGE"], "prompts": ["a"], "pictures": []}, 400, "unknown parameter 'pictures'"),
        ({"images": "IMAGE", "prompts": "a"}, 400, "valid list"),
    ],
)
def test_what_is_refused(client, images, body, status, words):
    if body["images"] == ["IMAGE"]:
        body = body | {"images": [encoded(images[0])]}
    answer = client.post("/v1/scores", json=body)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]
