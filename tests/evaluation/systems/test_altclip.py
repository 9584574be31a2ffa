"""AltCLIP: features as transformers' class gives them, of a folder and of the embedded default."""

from __future__ import annotations

import pytest
import torch
from helpers import layouts
from helpers import small_systems as small
from helpers.small_systems import assert_features, load
from transformers import CLIPImageProcessorPil, XLMRobertaTokenizer

from altdiffusion.checkpoints import hub


@pytest.fixture(scope="module")
def altclip(tmp_path_factory):
    """A full AltCLIP and its folder, where the embedded default has its own: mini/altclip."""
    folder = tmp_path_factory.mktemp("mini") / "altclip"
    model = layouts.save_altclip(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return model, folder


def test_altclip_gives_what_transformers_class_gives(altclip):
    model, folder = altclip
    tokens = XLMRobertaTokenizer.from_pretrained(folder)(
        small.TEXTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(small.pictures(), return_tensors="pt")
    expected = model(**tokens, **pixels)
    system = load(folder, batch_size=2)
    assert system.name == "AltCLIP"
    texts, images = system.text_features(small.TEXTS), system.image_features(small.pictures())
    assert_features(texts, expected.text_embeds)
    assert_features(images, expected.image_embeds)
    cosines = expected.logits_per_text.detach() / model.logit_scale.detach().exp()
    torch.testing.assert_close(system.similarity(texts, images), cosines, atol=1e-5, rtol=0)
    torch.testing.assert_close(system.image_to_text_similarity(texts, images), cosines, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [None, "mini", "altclip:mini"])
def test_the_embedded_default_is_its_altclip(altclip, monkeypatch, name):
    monkeypatch.setattr(hub, "mini_folder", lambda: altclip[1].parent)
    found = load(name).text_features(small.TEXTS)
    torch.testing.assert_close(found, load(altclip[1]).text_features(small.TEXTS))
