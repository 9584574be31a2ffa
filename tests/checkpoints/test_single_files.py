"""What a single file is, read off the names and shapes in it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, infer_diffusers_model_type
from helpers import layouts
from helpers.ldm_names import single_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from altdiffusion import InputError
from altdiffusion.checkpoints.layouts import check_names, ldm_unet_config
from altdiffusion.checkpoints.single_files import (
    SingleFile,
    clip_config,
    look,
    open_clip_config,
    prediction,
    without_last_layer,
)

PATH = Path("x.safetensors")
UNET = "model.diffusion_model."


def named(*names, **shapes):
    return {name: torch.zeros(1, 1) for name in names} | {name: torch.zeros(shape) for name, shape in shapes.items()}


def whole(*encoder, takes=4):
    sizes = {f"{UNET}input_blocks.0.0.weight": (8, takes, 3, 3), f"{UNET}out.2.weight": (4, 8, 3, 3)}
    return named(*encoder, "first_stage_model.encoder.conv_in.weight", **sizes)


XL = "conditioner.embedders.0.transformer.text_model.x", "conditioner.embedders.1.model.x"


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (whole("cond_stage_model.transformer.text_model.embeddings.x"), SingleFile("sd1", False, True)),
        (whole("cond_stage_model.transformer.embeddings.x"), SingleFile("sd1", False, True)),
        (whole("cond_stage_model.model.ln_final.weight", takes=9), SingleFile("sd2", True, True)),
        (whole(*XL), SingleFile("xl", False, True)),
        (whole("cond_stage_model.roberta.embeddings.word_embeddings.weight"), SingleFile("altdiffusion", False, True)),
        (
            {key: value for key, value in whole(*XL).items() if "first_stage" not in key},
            SingleFile("xl", False, False),
        ),
    ],
)
def test_the_kind_is_read_off_the_names(state, found):
    assert look(state, PATH) == found


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["lora_unet_down_blocks_0_x.lora_down.weight"], "seems to be a LoRA: .*--lora"),
        (["lora_te1_text_model_x.alpha"], "a LoRA"),
        (["unet.down_blocks.0.attentions.0.attn2.to_k.lora_A.weight"], "a LoRA"),
        (["lycoris_x.hada_w1_a", "lora_unet_x.hada_w1_a"], "a LoRA"),
        (["first_stage_model.encoder.conv_in.weight"], "a VAE: .*--vae"),
        (["encoder.conv_in.weight", "decoder.up.0.block.0.conv1.weight"], "a VAE"),
        (["encoder.down_blocks.0.resnets.0.conv1.weight", "encoder.conv_in.weight"], "a VAE"),
        (["emb_params"], "a textual inversion: .*--textual-inversion"),
        (["clip_l", "clip_g"], "a textual inversion"),
        (["<dark-elf>"], "a textual inversion"),
        (["down_blocks.0.resnets.0.time_emb_proj.weight", "conv_in.weight"], "a UNet in diffusers' names"),
        (["double_blocks.0.img_attn.qkv.weight"], "a diffusion transformer such as Flux"),
        ([f"{UNET}double_blocks.0.img_attn.qkv.weight"], "a diffusion transformer such as Flux"),
        ([f"{UNET}joint_blocks.0.context_block.attn.qkv.weight", "text_encoders.clip_l.x"], "a Stable Diffusion 3"),
        (["control_model.input_hint_block.0.weight"], "a ControlNet: .*--controlnet"),
        (["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "an IP-Adapter"),
        (["down_blocks.0.motion_modules.0.x"], "an AnimateDiff motion module"),
        (["input_blocks.0.0.weight"], "a UNet alone"),
        (
            [f"{UNET}input_blocks.0.0.weight", "first_stage_model.encoder.conv_in.weight"],
            "has no text encoder that is known here: what denoises seems to be a UNet alone",
        ),
        (["model_ema.diffusion_modelinput_blocks00weight"], "moving averages"),
        (["roberta.embeddings.word_embeddings.weight"], "AltCLIP's text encoder: load it with load_text_encoder"),
        (["text_model.encoder.layers.0.x"], "CLIP's text encoder alone"),
        (["something", "else"], "2 tensors named like else, something"),
        ([], "a file without tensors"),
        (
            [f"{UNET}input_blocks.0.0.weight", "conditioner.embedders.0.model.x", f"{UNET}label_emb.0.0.weight"],
            "XL's refiner, .*take the base",
        ),
        ([*whole(*XL), "edm_mean"], r"a Playground v2\.5"),
    ],
)
def test_what_is_no_whole_model_says_what_it_seems_to_be_and_what_to_do(names, line):
    state = whole(*XL) | named(*names) if "edm_mean" in names else named(*names)
    with pytest.raises(InputError, match=rf"^x\.safetensors .*{line}"):
        look(state, PATH)


@pytest.mark.parametrize("takes", [5, 7, 8])
def test_unets_that_take_something_else_are_refused(takes):
    with pytest.raises(InputError, match=rf"more than an image, a mask and a text \({takes} channels\)"):
        look(whole("cond_stage_model.transformer.embeddings.x", takes=takes), PATH)
    with pytest.raises(InputError, match="unCLIP"):
        look(whole("cond_stage_model.model.x") | named(f"{UNET}label_emb.0.0.weight"), PATH)


def steps(number):
    return {"global_step": torch.tensor(number)}


def spread(std):
    biases = torch.tensor([-std, std])
    return {f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias": biases}


@pytest.mark.parametrize(
    ("kind", "state", "metadata", "settings", "expected", "told"),
    [
        ("sd1", {}, {}, "", "epsilon", None),
        ("xl", {}, {}, "", "epsilon", None),
        ("xl", {"v_pred": torch.zeros(0)}, {}, "", "v_prediction", None),
        ("xl", {}, {"modelspec.prediction_type": "v"}, "", "v_prediction", None),
        ("sd1", {}, {}, "model:\n  params:\n    parameterization: \"v\"\n", "v_prediction", None),
        ("sd2", spread(0.2), {}, "    parameterization: eps", "epsilon", None),
        ("sd2", spread(0.2), {"modelspec.prediction_type": "epsilon"}, "", "epsilon", None),
        ("sd2", steps(875000) | spread(0.2), {}, "", "epsilon", "step 875000"),
        ("sd2", steps(140000) | spread(0.2), {}, "", "v_prediction", "spread 0.200"),
        ("sd2", spread(0.05), {}, "", "epsilon", "spread 0.050"),
        ("sd2", {}, {}, "", "epsilon", "nothing"),
        ("sd2-inpainting", spread(0.2), {}, "", "epsilon", None),
    ],
)  # fmt: skip
def test_what_a_unet_predicts_is_read_or_guessed_and_a_guess_is_told(kind, state, metadata, settings, expected, told):
    found = prediction(SingleFile(kind[:3].rstrip("-"), "inpainting" in kind, True), state, metadata, settings)
    assert found.type == expected
    assert (found.guess is None) == (told is None)
    assert told is None or told in found.guess


def test_zero_snr_is_marked():
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    assert prediction(SingleFile("xl", False, True), marks, {}, "").zero_snr


OPEN = "cond_stage_model.model."


@pytest.mark.parametrize(
    ("layers", "projection", "kept"), [(24, True, 23), (24, False, 23), (23, False, 23), (3, True, 2), (2, False, 2)]
)
def test_what_stable_diffusion_2_reads_of_its_text_encoder(layers, projection, kept):
    state = named(*(f"{OPEN}transformer.resblocks.{layer}.mlp.c_fc.weight" for layer in range(layers)))
    state |= named(f"{OPEN}text_projection", f"{OPEN}logit_scale") if projection else {}
    state |= named(**{f"{OPEN}token_embedding.weight": (10, 128), f"{OPEN}positional_embedding": (77, 128)})
    read = open_clip_config(without_last_layer(state), OPEN)
    assert (read["num_hidden_layers"], read["hidden_size"], read["num_attention_heads"]) == (kept, 128, 2)
    assert (read["vocab_size"], read["max_position_embeddings"], read["hidden_act"]) == (10, 77, "gelu")


def test_a_layer_that_is_missing_is_named():
    layer = "cond_stage_model.transformer.encoder.layers.{}.mlp.fc1.weight"
    state = named(
        layer.format(0), layer.format(10**9), "cond_stage_model.transformer.embeddings.token_embedding.weight"
    )
    with pytest.raises(InputError, match=r"missing .*layers\.1\.mlp\.fc1\.weight"):
        clip_config(state, "cond_stage_model.transformer.")


ATTENDED, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
FOUR = {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [ATTENDED, ATTENDED, ATTENDED, PLAIN],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
UNETS = {  # as in the published unet/config.json
    "v1": FOUR | {"cross_attention_dim": 768, "attention_head_dim": 8},
    "v2": FOUR | {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    "xl_base": {
        "block_out_channels": [320, 640, 1280], "down_block_types": [PLAIN, ATTENDED, ATTENDED],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20], "use_linear_projection": True, "transformer_layers_per_block": [1, 2, 10],
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
CLIPS = {
    "v1": [(768, 12, "quick_gelu")],
    "v2": [(1024, 23, "gelu")],
    "xl_base": [(768, 12, "quick_gelu"), (1280, 32, "gelu")],
}


@pytest.mark.parametrize("name", UNETS)
def test_at_full_size_every_tensor_has_its_place(name):
    """On the meta device. name: what diffusers' own loader calls a file of these names and shapes."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[name])
        encoders = [
            kind(CLIPTextConfig(vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
                                num_attention_heads=width // 64, hidden_act=act, projection_dim=width))
            for kind, (width, layers, act) in zip((CLIPTextModel, CLIPTextModelWithProjection), CLIPS[name], strict=False)
        ]  # fmt: skip
        parts = dict(zip(("text_encoder", "text_encoder_2"), encoders, strict=False))
        parts |= {"unet": unet, "vae": layouts.small_vae()}
        state = single_file(SimpleNamespace(components=parts, **parts))
    assert infer_diffusers_model_type(state) == name
    config = ldm_unet_config(state, 1280 if name == "xl_base" else 0)
    assert {key: config[key] for key in UNETS[name]} == UNETS[name]
    check_names(convert_ldm_unet_checkpoint(state, config), unet.state_dict(), "the UNet")
    if name != "v1":
        state, prefix = (without_last_layer(state), OPEN) if name == "v2" else (state, "conditioner.embedders.1.model.")
        read = open_clip_config(state, prefix)
        assert {key: getattr(encoders[-1].config, key) for key in read} == read
    if name != "v2":
        read = clip_config(
            state, f"{'conditioner.embedders.0' if name == 'xl_base' else 'cond_stage_model'}.transformer."
        )
        assert {key: getattr(encoders[0].config, key) for key in read} == read
