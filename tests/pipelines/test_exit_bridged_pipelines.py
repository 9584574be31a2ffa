"""A bridge in pipelines of Stable Diffusion 1.x, 2.x and XL: swapped in, used with all they have, saved and reloaded."""

import json
import textwrap

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
)
from helpers import layouts
from helpers.bridges import PROMPT, SIZES, SMALL, WIDTHS, bridged, draw, encoder_of, small_bridge, stock
from PIL import Image
from torch import nn

from altdiffusion import (
    AltDiffusionPipeline,
    InputError,
    swap_text_encoder,
)
from altdiffusion.cli.main import main
from altdiffusion.text_encoder.exit_bridge import ExitBridge, ExitBridgeConfig

PICTURE = Image.new("RGB", (16, 16), "red")
MASK = Image.new("L", (16, 16), 255)
pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def _quiet():
    diffusers.utils.logging.disable_progress_bar()


# --- the swap ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(WIDTHS))
def test_the_unet_is_untouched_and_attends_to_the_bridges_states(published, kind):
    pipe = stock(kind)
    unet, before = pipe.unet, {key: value.clone() for key, value in pipe.unet.state_dict().items()}
    assert swap_text_encoder(pipe, published("m9"), bridge=small_bridge(kind)) is pipe
    assert pipe.unet is unet
    seen = []
    unet.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    assert np.isfinite(draw(pipe, guidance_scale=1.0)).all()
    assert all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())
    tokenizer = pipe.tokenizer_2 if kind == "xl" else pipe.tokenizer
    assert tokenizer.model_max_length == 77
    with torch.no_grad():
        encoder = encoder_of(pipe)
        expected = encoder.bridge(encoder.tower(tokenizer(PROMPT, return_tensors="pt").input_ids)[0])
    assert torch.allclose(seen[0]["encoder_hidden_states"], expected.last_hidden_state, atol=1e-4)
    if kind == "xl":
        assert torch.allclose(seen[0]["added_cond_kwargs"]["text_embeds"], expected.pooled, atol=1e-4)


@pytest.mark.parametrize("kind", list(WIDTHS))
def test_batches_negative_prompts_and_several_pictures_equal_single_ones(published, kind):
    pipe = bridged(published, kind)
    prompts, negatives = ["a cat", "黑暗精灵公主"], ["", "un gato, por favor"]
    noise = torch.randn(4, 4, 8, 8)
    many = pipe(prompts, negative_prompt=negatives, num_images_per_prompt=2, latents=noise, **SMALL).images
    for index, picture in enumerate(many):
        words = {"prompt": prompts[index // 2], "negative_prompt": negatives[index // 2]}
        np.testing.assert_allclose(
            pipe(**words, latents=noise[index : index + 1], **SMALL).images[0], picture, atol=1e-4
        )
    assert np.abs(many[0] - many[2]).max() > 1e-3
    unguided = pipe(prompts[1], negative_prompt="", latents=noise[2:3], **SMALL).images[0]
    assert np.abs(unguided - many[2]).max() > 1e-5


def test_dtype_is_the_unets_and_the_callers_bridge_stays_as_it_is(published):
    bridge = small_bridge()
    pipe = swap_text_encoder(stock().to(dtype=torch.bfloat16), published("m9"), bridge=bridge)
    assert {parameter.dtype for parameter in pipe.text_encoder.parameters()} == {torch.bfloat16}
    assert bridge.dtype == torch.float32


@pytest.mark.parametrize("kind", list(WIDTHS))
def test_clip_skip_is_refused(published, kind):
    with pytest.raises(InputError, match="with clip_skip=None"):
        draw(bridged(published, kind), clip_skip=1)


@pytest.mark.parametrize("kind", ["sd1", "xl"])
def test_image_to_image_inpainting_and_controlnet_from_pipe(published, kind):
    pipe = bridged(published, kind)
    for auto, more in ((AutoPipelineForImage2Image, {}), (AutoPipelineForInpainting, {"mask_image": MASK})):
        relative = auto.from_pipe(pipe)
        assert encoder_of(relative) is encoder_of(pipe)
        strong = {"image": PICTURE, "strength": 1.0} | more
        drawn = [draw(relative, prompt, **strong) for prompt in (PROMPT, "a cat, please")]
        assert np.abs(drawn[0] - drawn[1]).max() > 1e-5
    control = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(16, 32))
    nn.init.normal_(control.controlnet_mid_block.weight)  # zero before any training
    guided = {"sd1": StableDiffusionControlNetPipeline, "xl": StableDiffusionXLControlNetPipeline}[kind]
    guided = guided.from_pipe(pipe, controlnet=control)
    assert np.abs(draw(guided, image=PICTURE) - draw(pipe)).max() > 1e-5


@pytest.mark.parametrize("kind", ["sd1", "xl"])
def test_ip_adapter(published, kind):
    pipe = bridged(published, kind)
    width, layers = WIDTHS[kind][0], {}
    cross = [name for name in pipe.unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(cross):
        attention = pipe.unet.get_submodule(name.removesuffix(".processor"))
        for part in ("to_k_ip", "to_v_ip"):
            layers[f"{2 * number + 1}.{part}.weight"] = torch.randn(attention.inner_dim, width)
    project = {"proj.weight": torch.randn(4 * width, 6), "proj.bias": torch.zeros(4 * width)}
    project |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    pipe.load_ip_adapter(
        {"image_proj": project, "ip_adapter": layers}, subfolder="", weight_name="", image_encoder_folder=None
    )
    pictures = [draw(pipe, ip_adapter_image_embeds=[torch.full((2, 1, 6), value)]) for value in (0.0, 1.0)]
    assert np.abs(pictures[0] - pictures[1]).max() > 1e-5


def clip_lora(unet, encoders):
    """A LoRA as made for Stable Diffusion: a UNet half, and CLIP's layers in each text encoder."""
    state = {}
    for name, module in unet.named_modules():
        if name.endswith("attn2.to_k"):
            state[f"unet.{name}.lora_A.weight"] = torch.randn(2, module.in_features)
            state[f"unet.{name}.lora_B.weight"] = torch.randn(module.out_features, 2)
    for encoder in encoders:
        layer = f"{encoder}.text_model.encoder.layers.0.self_attn.q_proj"
        state |= {f"{layer}.lora_A.weight": torch.randn(2, 768), f"{layer}.lora_B.weight": torch.randn(768, 2)}
    return state


@pytest.mark.parametrize("kind", ["sd1", "xl"])
def test_the_unet_half_of_a_lora_for_clip_applies(published, caplog, kind):
    pytest.importorskip("peft")
    pipe = bridged(published, kind)
    before = draw(pipe)
    encoders = ["text_encoder", "text_encoder_2"] if kind == "xl" else ["text_encoder"]
    pipe.load_lora_weights(clip_lora(pipe.unet, encoders), adapter_name="style")
    assert caplog.text.count("2 tensors for CLIP's text encoder were left out") == len(encoders)
    assert not np.allclose(draw(pipe), before)
    pipe.set_adapters(["style"], [0.0])
    np.testing.assert_allclose(draw(pipe), before, atol=1e-5)
    pipe.unload_lora_weights()
    np.testing.assert_array_equal(draw(pipe), before)


def test_a_lora_for_altclips_tower_is_loaded_behind_a_bridge(published, tmp_path):
    peft = pytest.importorskip("peft")
    trained = AltDiffusionPipeline.from_pretrained(published("m9"))
    pipe = bridged(published)
    trained.text_encoder.add_adapter(peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False))
    trained.save_lora_weights(
        tmp_path, text_encoder_lora_layers=peft.get_peft_model_state_dict(trained.text_encoder),
        text_encoder_lora_adapter_metadata=trained.text_encoder.peft_config["default"].to_dict(),
    )  # fmt: skip
    pipe.load_lora_weights(tmp_path)
    ids = torch.tensor([[0, 8, 2]])
    with torch.no_grad():
        assert torch.allclose(pipe.text_encoder.tower(ids)[0], trained.text_encoder(ids)[0], atol=1e-5)
        assert not torch.allclose(pipe.text_encoder(ids)[0], bridged(published).text_encoder(ids)[0], atol=1e-4)


@pytest.mark.parametrize("kind", ["sd1", "xl"])
def test_textual_inversion_for_clip_is_refused_and_for_altclip_loaded(published, kind):
    pipe = bridged(published, kind)
    place = {"text_encoder": pipe.text_encoder_2, "tokenizer": pipe.tokenizer_2} if kind == "xl" else {}
    with pytest.raises(InputError, match="width 768, AltCLIP's are 64"):
        pipe.load_textual_inversion({"<style>": torch.randn(768)}, **place)
    before = draw(pipe, "<style> 一只猫")
    pipe.load_textual_inversion({"<style>": torch.randn(64)}, **place)
    assert not np.allclose(draw(pipe, "<style> 一只猫"), before)


@pytest.mark.parametrize(
    ("kind", "bridge", "line"),
    [
        ("sd1", small_bridge(input_width=48), "reads text states of width 48, this AltCLIP gives 32"),
        ("sd1", small_bridge("sd2"), "width 1024 and a pooled vector of 0, this UNet takes 768 and 0"),
        ("xl", small_bridge("sd1"), "width 768 and a pooled vector of 0, this UNet takes 2048 and 1280"),
        ("sd1", small_bridge("xl"), "width 2048 and a pooled vector of 1280, this UNet takes 768 and 0"),
        ("xl", None, "by a bridge, bridge="),
        ("sd1", None, "width 768, this encoder gives 32.*stands a bridge, bridge="),
        ("sd1", "nowhere", "unknown model 'nowhere'"),
    ],
)
def test_what_does_not_fit_is_one_line_and_changes_nothing(published, kind, bridge, line):
    pipe = stock(kind)
    before = dict(pipe.components)
    with pytest.raises(InputError, match=line) as error:
        swap_text_encoder(pipe, published("m9"), bridge=bridge)
    assert "\n" not in str(error.value)
    assert pipe.components == before


def test_a_folder_that_holds_no_bridge_is_refused(published, tmp_path):
    layouts.save_altclip(tmp_path / "altclip")
    for folder, line in ((published("m9"), "no bridge in"), (tmp_path / "altclip", "holds no bridge")):
        with pytest.raises(InputError, match=line):
            swap_text_encoder(stock(), published("m9"), bridge=folder)


@pytest.mark.parametrize(
    ("model", "bridge"), [("mini", "mini"), ("mini", small_bridge()), ("m9", "mini"), ("m18", small_bridge())]
)
def test_a_bridge_to_a_unet_that_reads_altclip_already_is_refused(published, model, bridge):
    pipe = AltDiffusionPipeline.from_pretrained(model if model == "mini" else published(model))
    before = dict(pipe.components)
    with pytest.raises(InputError, match=r"reads prompts with AltCLIP already.*leave out bridge="):
        swap_text_encoder(pipe, bridge=bridge)
    assert pipe.components == before


def test_a_second_swap_takes_the_place_of_the_first(published):
    pipe = bridged(published)
    first = draw(pipe)
    other = ExitBridge(ExitBridgeConfig(32, 768, **SIZES)).eval()
    assert not np.allclose(draw(swap_text_encoder(pipe, published("m9"), bridge=other)), first)
    np.testing.assert_array_equal(draw(swap_text_encoder(pipe, published("m9"), bridge=small_bridge())), first)


def test_xls_refiner_is_told_a_score_beside_a_narrower_pooled_vector(published):
    pipe = AutoPipelineForImage2Image.from_pipe(stock("xl"))
    pipe.register_to_config(requires_aesthetics_score=True)  # 5 numbers of 8: 1288 are left for the vector
    bridge = ExitBridge(ExitBridgeConfig(32, 2048, 1288, **SIZES)).eval()
    swap_text_encoder(pipe, published("m9"), bridge=bridge)
    assert np.isfinite(draw(pipe, image=PICTURE, strength=1.0)).all()


# --- saved and reloaded ------------------------------------------------------------------------------------------------

_PLAIN = """
    import sys, numpy as np, torch
    {first}
    import diffusers
    pipe = diffusers.{name}.from_pretrained(sys.argv[1])
    np.save(sys.argv[2], pipe("一只猫", num_inference_steps=2, height=16, width=16, output_type="np",
                              generator=torch.Generator().manual_seed(1)).images[0])
"""


def load_in_plain_diffusers(server, pipe, folder, first):
    """Generate with what was saved, in a process that has diffusers and imports `first`."""
    script = textwrap.dedent(_PLAIN).format(first=first, name=type(pipe).__name__)
    return server.run_script(script, folder, folder / "image.npy")


@pytest.mark.parametrize("kind", list(WIDTHS))
def test_saved_pipeline_draws_the_same_in_plain_diffusers_beside_altdiffusion(
    published, plain_diffusers, tmp_path, kind
):
    pipe = bridged(published, kind)
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["text_encoder_2" if kind == "xl" else "text_encoder"] == ["altdiffusion", "BridgedTextEncoder"]
    done = load_in_plain_diffusers(plain_diffusers, pipe, tmp_path, "import altdiffusion")
    assert done.status == [0], done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "image.npy"), draw(pipe))


def test_plain_diffusers_alone_says_what_to_import(published, plain_diffusers, tmp_path):
    pipe = bridged(published)
    pipe.save_pretrained(tmp_path)
    done = load_in_plain_diffusers(plain_diffusers, pipe, tmp_path, "")
    loaded = done.status == [0]  # before 0.42.1, diffusers imports the module by itself
    assert loaded or "import altdiffusion before calling `from_pretrained`" in done.stderr


@pytest.mark.parametrize("half", [False, True])
def test_saved_pipeline_reloads_as_ours_and_is_saved_again(published, tmp_path, half):
    pipe = bridged(published)
    if half:
        pipe.to(dtype=torch.bfloat16)
    pipe.save_pretrained(tmp_path / "once")
    pipe.to(dtype=torch.float32)
    ours = AltDiffusionPipeline.from_pretrained(tmp_path / "once")
    assert {parameter.dtype for parameter in ours.text_encoder.parameters()} == {torch.float32}
    assert ours.tokenizer.model_max_length == 77
    np.testing.assert_array_equal(draw(ours), draw(pipe))
    ours.save_pretrained(tmp_path / "twice")
    card = (tmp_path / "twice" / "README.md").read_text()
    assert "(batch, 77, 768), from `altdiffusion.BridgedTextEncoder`" in card
    for folder in ("once", "twice"):
        np.testing.assert_array_equal(draw(StableDiffusionPipeline.from_pretrained(tmp_path / folder)), draw(pipe))


def test_ours_sends_xl_to_its_own_class(published, tmp_path):
    bridged(published, "xl").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="diffusers' StableDiffusionXLPipeline after `import altdiffusion`"):
        AltDiffusionPipeline.from_pretrained(tmp_path)


def test_what_is_saved_does_not_tell_where_the_bridge_lay(published, tmp_path):
    small_bridge().save_pretrained(tmp_path / "bridge")
    swap_text_encoder(stock(), published("m9"), bridge=tmp_path / "bridge").save_pretrained(tmp_path / "saved")
    assert str(tmp_path) not in (tmp_path / "saved" / "text_encoder" / "config.json").read_text()


def test_generate_draws_with_a_saved_pipeline(published, tmp_path, capsys):
    bridged(published).save_pretrained(tmp_path / "model")
    words = ["generate", PROMPT, "--model", str(tmp_path / "model"), "--out", str(tmp_path / "a.png"), "--steps", "2"]
    assert main(words) == 0
    assert Image.open(tmp_path / "a.png").size == (16, 16)
