"""VAEs, ControlNets, IP-Adapters, textual inversions, earlier layers and second passes: as by hand, or refused in one line."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from helpers import layouts
from helpers.bridges import readable
from helpers.controlnet import save_controlnet
from helpers.ip_adapter import save_ip_adapter
from helpers.ldm_names import ldm_vae
from PIL import Image
from safetensors.torch import save_file

from altdiffusion import AltDiffusionPipeline, InputError, generate
from altdiffusion.generation.draw import GenerateRequest, draw_batch
from altdiffusion.generation.load import load_pipeline
from altdiffusion.generation.settings import IN_MEMORY, ImageSettings
from altdiffusion.prompts.states import encode_prompts

COMMON = {"steps": 2, "size": (16, 16), "seed": 1}
NOISE = Image.effect_noise((32, 32), 80).convert("RGB")


@pytest.fixture(scope="module")
def folder(published):
    return published("m9")


@pytest.fixture(scope="module")
def plain(folder):
    return load_pipeline(folder, device="cpu", dtype="float32")


def pixels(image):
    return np.asarray(image, np.int16)


def image(model, prompt="一只猫", **options):
    return pixels(next(generate(prompt, model=model, **(COMMON | options))).image)


def by_hand(pipe, prompt="一只猫", **options):
    """diffusers' own call, with the states of the prompt."""
    kind = options.pop("clip_skip", None)
    states = encode_prompts(pipe, prompt, clip_skip=kind)
    options = {"num_inference_steps": 2, "guidance_scale": 7.5, "width": 16, "height": 16} | options
    return pixels(pipe(**states, generator=[torch.Generator().manual_seed(1)], **options).images[0])


def apart(one, other):
    return np.abs(one - other).max()


@pytest.mark.parametrize("form", ["folder", "pipeline", "ldm", "prefixed"])
def test_a_vae_in_every_form(folder, tmp_path, form):
    vae = layouts.small_vae()
    vae.register_to_config(scaling_factor=AltDiffusionPipeline.from_pretrained(folder).vae.config.scaling_factor)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.02
    source = tmp_path / "other"
    if form in ("folder", "pipeline"):
        vae.save_pretrained(source / "vae" if form == "pipeline" else source)
    else:
        source = tmp_path / "other.safetensors"
        prefix = "first_stage_model." if form == "prefixed" else ""
        state = {key.removeprefix("first_stage_model."): value for key, value in ldm_vae(vae.state_dict(), 2).items()}
        save_file({prefix + key: value.contiguous() for key, value in state.items()}, source)
    pipe = load_pipeline(folder, vae=source, device="cpu", dtype="float32")
    for name, tensor in vae.state_dict().items():
        assert torch.equal(pipe.vae.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"latent_channels": 8}, "latents of this VAE have channels 8, those of .* 4"),
        ({"scaling_factor": 0.13025}, "have scaling 0.13025"),
        ({"block_out_channels": (32, 32, 64), "down_block_types": ("DownEncoderBlock2D",) * 3,
          "up_block_types": ("UpDecoderBlock2D",) * 3}, "have pixels a side 4"),
    ],
)  # fmt: skip
def test_a_vae_of_other_latents_is_refused(folder, tmp_path, changes, line):
    AutoencoderKL(**(dict(layouts.small_vae().config) | changes)).save_pretrained(tmp_path / "vae")
    with pytest.raises(InputError, match=line):
        load_pipeline(folder, vae=tmp_path / "vae", device="cpu")


@pytest.fixture(scope="module")
def controlnet(plain, tmp_path_factory):
    return save_controlnet(tmp_path_factory.mktemp("control") / "edges", plain.unet, plain.vae_scale_factor)


@pytest.fixture(scope="module")
def controlled(folder, controlnet):
    return load_pipeline(folder, controlnet=controlnet, device="cpu", dtype="float32")


@pytest.mark.parametrize(
    "start", [{}, {"init_image": NOISE}, {"init_image": NOISE, "mask": Image.new("L", (32, 32), 255)}]
)
def test_a_controlnet_with_and_without_an_init_image(plain, controlled, start):
    options = {"control_image": NOISE} | start
    without = image(plain, **start)
    assert apart(image(controlled, **options, control_scale=0.0), without) <= 1
    got = image(controlled, **options)
    assert apart(got, without) > 5
    if not start:
        assert apart(got, by_hand(controlled, image=NOISE.resize((16, 16), Image.Resampling.LANCZOS))) <= 1


def test_controlled_images_together_are_those_alone(controlled):
    requests = [
        GenerateRequest(
            ImageSettings(prompt=prompt, seed=1, steps=2, width=16, height=16, control_image=IN_MEMORY),
            control_image=shown,
        )
        for prompt, shown in (("一只猫", NOISE), ("a dog", NOISE.transpose(Image.Transpose.ROTATE_90)))
    ]
    together = draw_batch(controlled, requests, lambda step: {1})
    assert together[0] is None
    assert apart(pixels(together[1].image), image(controlled, "a dog", control_image=requests[1].control_image)) <= 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"control_image": NOISE}, "this pipeline has no ControlNet"),
        ({"ip_image": NOISE}, "this pipeline has no IP-Adapter"),
        ({"controlnet": "x", "control_image": NOISE}, "controlnet is for loading"),
        ({"clip_skip": 5}, "this text encoder has 4 layers"),
    ],
)
def test_what_a_pipeline_lacks_is_said(plain, options, line):
    with pytest.raises(InputError, match=line):
        image(plain, **options)


def test_a_controlnet_wants_an_image_that_can_be_read_and_its_own_kind_of_model(folder, controlled, tmp_path):
    with pytest.raises(InputError, match="this pipeline has a ControlNet: give it a control image"):
        image(controlled)
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(InputError, match=r"broken.png: no image that can be read"):
        next(generate("猫", model=folder, controlnet="x/y", control_image=tmp_path / "broken.png"))
    with pytest.raises(InputError, match="control image needs controlnet"):
        next(generate("猫", model=folder, control_image=NOISE))
    save_controlnet(tmp_path / "wide", layouts.small_unet(64), 2)
    with pytest.raises(InputError, match=r"wide is a ControlNet for .*width 64.*, .* is .*width 32"):
        load_pipeline(folder, controlnet=tmp_path / "wide", device="cpu")


@pytest.mark.parametrize("form", ["", "ip-adapter_sd15.safetensors"])
def test_an_ip_adapter_shows_an_image(folder, plain, tmp_path, form):
    source = save_ip_adapter(tmp_path / "ip", plain.unet) / form
    without = image(plain)
    unseen = load_pipeline(folder, ip_adapter=source, ip_scale=0.0, device="cpu", dtype="float32")
    assert apart(image(unseen, ip_image=NOISE), without) <= 1
    pipe = load_pipeline(folder, ip_adapter=source, device="cpu", dtype="float32")
    seen = image(pipe, ip_image=NOISE)
    assert apart(seen, without) > 5
    assert apart(seen, by_hand(pipe, ip_adapter_image=NOISE)) <= 1
    several = list(generate("一只猫", model=pipe, num_images=2, batch_size=2, ip_image=NOISE, **COMMON))
    assert apart(pixels(several[0].image), seen) <= 1
    with pytest.raises(InputError, match="this pipeline has an IP-Adapter: give it an image"):
        image(pipe)


def test_an_ip_adapter_of_another_kind_or_without_its_encoder_is_refused(folder, plain, tmp_path):
    save_ip_adapter(tmp_path / "wide", plain.unet, width=64)
    with pytest.raises(InputError, match=r"wide is an IP-Adapter for .*width 64"):
        load_pipeline(folder, ip_adapter=tmp_path / "wide", device="cpu")
    (tmp_path / "wide" / "image_encoder").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="has no image encoder"):
        load_pipeline(folder, ip_adapter=tmp_path / "wide", device="cpu")


@pytest.fixture(scope="module")
def mini():
    """Trained, so that its images depend on the text."""
    return load_pipeline("mini", device="cpu", dtype="float32")


LARGE = {"size": (64, 64), "guidance_scale": 4.0}


def test_textual_inversions_are_words_of_prompts(mini, tmp_path):
    width = mini.text_encoder.get_input_embeddings().weight.shape[1]
    save_file({"<杯>": torch.randn(width)}, tmp_path / "cup.safetensors")
    save_file({"<two>": torch.randn(2, width)}, tmp_path / "two.safetensors")
    files = [tmp_path / "cup.safetensors", tmp_path / "two.safetensors"]
    pipe = load_pipeline("mini", textual_inversion=files, device="cpu", dtype="float32")
    for prompt in ("一只<杯>猫", "(<two>:1.2)猫"):
        assert apart(image(pipe, prompt, **LARGE), image(mini, prompt, **LARGE)) > 5
    save_file({"<wide>": torch.randn(768)}, tmp_path / "wide.safetensors")
    with pytest.raises(InputError, match="embeddings of width 768"):
        load_pipeline("mini", textual_inversion=[tmp_path / "wide.safetensors"], device="cpu")


def test_a_word_of_the_web_uis_is_the_files_name(tmp_path):
    save_file({"emb_params": torch.randn(2, 192)}, tmp_path / "dark-elf.safetensors")
    pipe = load_pipeline(
        "sd-mini", textual_inversion=[tmp_path / "dark-elf.safetensors"], device="cpu", dtype="float32"
    )
    assert "dark-elf" in pipe.tokenizer.tokenize("a dark-elf")
    save_file({"clip_l": torch.randn(1, 32), "clip_g": torch.randn(1, 48)}, tmp_path / "rune.safetensors")
    readable("xl").save_pretrained(tmp_path / "xl")
    xl = load_pipeline(
        tmp_path / "xl", textual_inversion=[tmp_path / "rune.safetensors"], device="cpu", dtype="float32"
    )
    assert all("rune" in tokenizer.tokenize("a rune") for tokenizer in (xl.tokenizer, xl.tokenizer_2))
    with pytest.raises(InputError, match="is a textual inversion for Stable Diffusion XL"):
        load_pipeline("sd-mini", textual_inversion=[tmp_path / "rune.safetensors"], device="cpu")


@pytest.mark.parametrize("clip_skip", [1, 2, 3])
def test_clip_skip_counts_as_the_web_uis(mini, clip_skip):
    skipped = None if clip_skip == 1 else clip_skip - 1
    expected = by_hand(mini, clip_skip=skipped, width=64, height=64, guidance_scale=4.0)
    assert apart(image(mini, clip_skip=clip_skip, **LARGE), expected) <= 1
    assert clip_skip == 1 or apart(expected, image(mini, **LARGE)) > 5


@pytest.mark.parametrize("options", [{}, {"hires_strength": 0.5, "hires_steps": 3}, {"steps": 4}])
def test_hires_is_image_to_image_of_the_enlarged_image(plain, options):
    steps = options.get("steps", 2)
    first = next(generate("一只猫", model=plain, **(COMMON | {"steps": steps}))).image
    strength = options.get("hires_strength", 0.7)
    larger = first.resize((24, 24), Image.Resampling.LANCZOS)
    second = {"steps": 6 if "hires_steps" in options else steps, "size": (24, 24), "strength": strength}
    expected = image(plain, init_image=larger, **second)
    got = list(generate(["一只猫", "a dog"], model=plain, batch_size=2, hires=1.5, **(COMMON | options)))
    assert [one.image.size for one in got] == [(24, 24)] * 2
    assert apart(pixels(got[0].image), expected) <= 1
    settings = got[0].settings
    assert (settings.width, settings.hires, settings.hires_strength, settings.init_image) == (16, 1.5, strength, None)
    assert settings.steps == steps


def test_hires_runs_a_step_at_least(plain):
    (got,) = generate("一只猫", model=plain, hires=1.5, **(COMMON | {"steps": 1}))
    assert got.image.size == (24, 24)


def test_hires_with_a_controlnet(controlled):
    assert image(controlled, control_image=NOISE, hires=2).shape == (32, 32, 3)
