"""A prompt's weights of LoRAs: in the UNet and in the text encoder apart, and gone afterwards."""

import peft
import pytest

from altdiffusion import AltDiffusionPipeline, InputError
from altdiffusion.prompt_syntax import LoraTag, lora_names, lora_tags
from altdiffusion.prompts.loras import check_loaded, loaded_adapters, lora_weights, set_weights


@pytest.fixture
def pipe(published):
    pipe = AltDiffusionPipeline.from_pretrained(published("m9"))
    for name in ("ink", "v1_5"):
        pipe.text_encoder.add_adapter(peft.LoraConfig(r=2, lora_alpha=4, target_modules=["query"]), adapter_name=name)
        pipe.unet.add_adapter(peft.LoraConfig(r=2, lora_alpha=4, target_modules=["to_q"]), adapter_name=name)
    set_weights(pipe, {"ink": (0.5, 0.5)})
    return pipe


def state(pipe):
    """(active adapters, weights) in the UNet and in the text encoder; alpha / rank is 2."""
    layers = [
        next(part for part in model.modules() if hasattr(part, "set_scale")) for model in (pipe.unet, pipe.text_encoder)
    ]
    return [(layer.active_adapters, {name: scale / 2 for name, scale in layer.scaling.items()}) for layer in layers]


@pytest.mark.parametrize(
    ("tags", "active", "unet", "text"),
    [
        ((), ["ink"], {"ink": 0.5}, {"ink": 0.5}),
        ((LoraTag("ink", 0.9),), ["ink"], {"ink": 0.9}, {"ink": 0.9}),
        ((LoraTag("ink", 0.9, 0.0),), ["ink"], {"ink": 0.9}, {"ink": 0.0}),
        ((LoraTag("v1.5", -2.0, 0.3),), ["ink", "v1_5"], {"ink": 0.5, "v1_5": -2.0}, {"ink": 0.5, "v1_5": 0.3}),
    ],
)
def test_each_half_has_its_weight_and_afterwards_its_own(pipe, tags, active, unet, text):
    before = state(pipe)
    assert [acting for acting, _ in before] == [["ink"], ["ink"]]
    with lora_weights(pipe, tags):
        for (acting, weights), expected in zip(state(pipe), (unet, text), strict=True):
            assert acting == active
            assert {name: pytest.approx(weights[name]) for name in acting} == expected
    assert state(pipe) == before


def test_what_is_not_loaded_is_named_with_what_is(pipe):
    assert loaded_adapters(pipe) == {"ink", "v1_5"}
    check_loaded(pipe, ["ink", "v1.5"])
    with pytest.raises(InputError, match="<lora:brush>: this model has no LoRA of that name, loaded: ink, v1_5"):
        check_loaded(pipe, ["brush"])


def test_names_in_every_choice():
    prompts = ["a {<lora:a:1>|<lora:b:1>} cat", "<lora:{c|d}:1>", "\\<lora:e>"]
    assert list(lora_names(prompts)) == ["a", "b", "c", "d"]
    assert list(lora_names(prompts, "none")) == []
    assert lora_tags("<lora:a:1>", "none") == ()
    with pytest.raises(InputError, match="names the LoRA a twice"):
        lora_tags("<lora:a:1> cat <lyco:a:2>")
