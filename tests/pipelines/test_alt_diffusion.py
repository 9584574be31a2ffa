"""Every layout through the pipelines, out again into plain diffusers, and into every door that diffusers has."""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import diffusers
import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    ControlNetModel,
    DiffusionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from helpers import layouts
from helpers.clip_pipeline import clip_pipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AltCLIPTextModel

from altdiffusion import (
    AltDiffusionImg2ImgPipeline,
    AltDiffusionInpaintPipeline,
    AltDiffusionPipeline,
    InputError,
    swap_text_encoder,
)

SMALL = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "np"}
PICTURE = Image.new("RGB", (16, 16), "red")
MASK = Image.new("L", (16, 16), 255)
pytestmark = pytest.mark.long


def draw(pipe, prompt="一只猫", **kwargs):
    return pipe(prompt, generator=torch.Generator().manual_seed(1), **(SMALL | kwargs)).images[0]


@pytest.fixture(autouse=True)
def _no_bars():
    diffusers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def pipe(published):
    return AltDiffusionPipeline.from_pretrained(published("m9"))


def test_a_pipeline_that_kept_its_clip_is_saved_too(tmp_path):
    AltDiffusionPipeline.from_pretrained("sd-mini").save_pretrained(tmp_path)
    assert "(batch, 77, 192), from `transformers.CLIPTextModel`" in (tmp_path / "README.md").read_text("utf-8")
    assert np.array_equal(
        draw(StableDiffusionPipeline.from_pretrained(tmp_path)), draw(AltDiffusionPipeline.from_pretrained("sd-mini"))
    )


def reference(folder, kind, prompt="一只猫"):
    """Drawn by diffusers' deprecated class and the encoder it was published with, all built by hand."""
    deprecated = diffusers.AltDiffusionPipeline(
        vae=layouts.small_vae(),
        text_encoder=layouts.published_encoder(kind),
        tokenizer=AltDiffusionPipeline.from_pretrained(folder).tokenizer,
        unet=layouts.small_unet(layouts.KINDS[kind].project_dim),
        scheduler=diffusers.PNDMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return draw(deprecated, prompt)


@pytest.mark.parametrize("kind", list(layouts.KINDS))
def test_picture_equals_the_deprecated_pipelines(published, kind):
    folder = published(kind)
    np.testing.assert_allclose(draw(AltDiffusionPipeline.from_pretrained(folder)), reference(folder, kind), atol=1e-4)


@pytest.mark.parametrize("loader", [AltDiffusionPipeline, StableDiffusionPipeline, DiffusionPipeline])
@pytest.mark.parametrize("weights", ["bin", "safetensors"])
def test_published_folder_loads_in_ours_and_in_stock_classes(published, loader, weights):
    options = {"allow_pickle": True} if loader is AltDiffusionPipeline else {}
    loaded = loader.from_pretrained(published("m9", weights), **options)
    assert type(loaded.text_encoder) is AltCLIPTextModel
    np.testing.assert_allclose(draw(loaded), reference(published("m9"), "m9"), atol=1e-4)


def test_pickles_are_refused_unless_allowed(published):
    with pytest.raises(InputError, match="--allow-pickle"):
        AltDiffusionPipeline.from_pretrained(published("m9", "bin"))


@pytest.mark.parametrize("kind", list(layouts.KINDS))
@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_single_file(published, tmp_path, kind, ending):
    state = layouts.single_file_state(kind, ema=True)
    path = tmp_path / f"x.{ending}"
    if ending == "ckpt":
        torch.save({"state_dict": state, "epoch": 1}, path)
    else:
        save_file(state, path)
    options = {"tokenizer": published(kind), "allow_pickle": ending == "ckpt"}
    loaded = AltDiffusionPipeline.from_pretrained(path, **options)
    averaged = AltDiffusionPipeline.from_single_file(path, ema=True, **options)
    linear = layouts.KINDS[kind].pre_transformation
    made = layouts.small_unet(layouts.KINDS[kind].project_dim, linear, (64, 128) if linear else (32, 64))
    for key, value in made.state_dict().items():
        assert torch.equal(loaded.unet.state_dict()[key], value)
        assert torch.equal(averaged.unet.state_dict()[key], value * 2)
    inputs = loaded.tokenizer(list(layouts.GREETINGS.values()), padding="max_length", return_tensors="pt")
    with torch.no_grad():
        states, expected = loaded.text_encoder(**inputs)[0], layouts.published_encoder(kind)(**inputs)[0]
    assert (states - expected).abs().max() < 1e-5 * expected.abs().max()
    for key, value in layouts.small_vae().state_dict().items():
        assert torch.equal(loaded.vae.state_dict()[key], value)
    assert np.isfinite(draw(loaded)).all()


_PLAIN = """
    import sys
    sys.modules["altdiffusion"] = None  # importing it raises ImportError
    import numpy as np, torch
    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
    assert type(pipe).__name__ == "StableDiffusionPipeline", type(pipe)
    assert type(pipe.text_encoder).__module__.startswith("transformers."), type(pipe.text_encoder)
    image = pipe("一只猫", num_inference_steps=2, height=16, width=16, output_type="np",
                 generator=torch.Generator().manual_seed(1)).images[0]
    np.save(sys.argv[2], image)
"""


@pytest.mark.parametrize("kind", ["m9", "m18"])
def test_saved_pipeline_draws_the_same_in_plain_diffusers(published, plain_diffusers, tmp_path, kind):
    loaded = AltDiffusionPipeline.from_pretrained(published(kind))
    loaded.save_pretrained(tmp_path / "saved")
    assert "creativeml-openrail-m" in (tmp_path / "saved" / "README.md").read_text()
    done = plain_diffusers.run_script(textwrap.dedent(_PLAIN), tmp_path / "saved", tmp_path / "image.npy")
    assert done.status == [0], done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "image.npy"), draw(loaded), atol=1e-4)


def test_saving_keeps_a_readme_that_is_there(pipe, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    pipe.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_image_to_image_and_inpainting_load_every_layout(published):
    changed = AltDiffusionImg2ImgPipeline.from_pretrained(published("m18"))
    out = changed("一只猫", image=PICTURE, strength=1.0, num_inference_steps=2, output_type="np").images[0]
    assert out.shape == (16, 16, 3)
    filled = AltDiffusionInpaintPipeline.from_pretrained(published("m9"))
    out = filled("一只猫", image=PICTURE, mask_image=MASK, num_inference_steps=2, height=16, width=16).images[0]
    assert out.size == (16, 16)


def test_auto_pipelines_find_the_relatives(pipe):
    assert type(AutoPipelineForImage2Image.from_pipe(pipe)) is AltDiffusionImg2ImgPipeline
    inpaint = AutoPipelineForInpainting.from_pipe(pipe)
    assert type(inpaint) is AltDiffusionInpaintPipeline
    back = AutoPipelineForText2Image.from_pipe(inpaint)
    assert type(back) is AltDiffusionPipeline
    np.testing.assert_array_equal(draw(back), draw(pipe))


def test_components_and_controlnet(pipe):
    again = AltDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    np.testing.assert_array_equal(draw(again), draw(pipe))
    control = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(16, 32))
    guided = StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=control)
    assert np.isfinite(draw(guided, image=Image.new("RGB", (16, 16)))).all()


@pytest.mark.parametrize("model", ["mini", "sd-mini"])
def test_a_controlnet_on_an_embedded_model_is_made_as_the_documentation_says(model):
    pipe = AltDiffusionPipeline.from_pretrained(model)
    page = (Path(__file__).parents[2] / "docs/pipelines.md").read_text(encoding="utf-8")
    channels = tuple(map(int, re.search(r"conditioning_embedding_out_channels=\((.*?)\)", page)[1].split(", ")))
    assert len(channels) == len(pipe.vae.config.block_out_channels)
    control = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=channels)
    guided = StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=control)
    assert np.isfinite(draw(guided, image=PICTURE)).all()


_ALIAS = """
    import sys
    {first}
    {second}
    from diffusers.pipelines.alt_diffusion.modeling_roberta_series import RobertaSeriesModelWithTransformation
    encoder = RobertaSeriesModelWithTransformation.from_pretrained(sys.argv[1], subfolder="text_encoder", revision=None)
    print(type(encoder).__module__, type(encoder).__name__)
    from diffusers import StableDiffusionPipeline
    print(type(StableDiffusionPipeline.from_pretrained(sys.argv[1]).text_encoder).__name__)
"""


@pytest.mark.parametrize(
    "order", [("import altdiffusion", "import diffusers"), ("import diffusers", "import altdiffusion")]
)
def test_old_import_path_works_whatever_is_imported_first(published, order):
    script = textwrap.dedent(_ALIAS).format(first=order[0], second=order[1])
    run = subprocess.run([sys.executable, "-c", script, published("m9")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [
        "transformers.models.altclip.modeling_altclip",
        "AltCLIPTextModel",
        "AltCLIPTextModel",
    ]


def test_old_import_path_holds_what_the_removed_package_did(published):
    from diffusers.pipelines import alt_diffusion
    from diffusers.pipelines.alt_diffusion.modeling_roberta_series import RobertaSeriesConfig
    from diffusers.pipelines.alt_diffusion.pipeline_alt_diffusion_img2img import (
        AltDiffusionImg2ImgPipeline as OldImg2Img,
    )

    removed = diffusers.pipelines.deprecated.alt_diffusion
    assert not [
        name for module in removed._import_structure.values() for name in module if not hasattr(alt_diffusion, name)
    ]
    assert OldImg2Img is AltDiffusionImg2ImgPipeline
    with pytest.raises(ImportError):
        from diffusers.pipelines.alt_diffusion import Nothing  # noqa: F401
    folder = Path(published("m9"))
    config = RobertaSeriesConfig.from_pretrained(folder, subfolder="text_encoder")
    encoder = alt_diffusion.RobertaSeriesModelWithTransformation(config)
    pretrained = alt_diffusion.RobertaSeriesModelWithTransformation.from_pretrained(folder, subfolder="text_encoder")
    assert encoder.state_dict().keys() == pretrained.state_dict().keys()
    image = alt_diffusion.AltDiffusionPipeline.from_pretrained(folder)(
        "一只猫", num_inference_steps=1, height=16, width=16
    )
    assert isinstance(image, alt_diffusion.AltDiffusionPipelineOutput)


@pytest.mark.parametrize("option", ["config", "output_loading_info", "torch_dtpye"])
def test_old_encoder_class_refuses_what_nobody_reads(published, option):
    from diffusers.pipelines.alt_diffusion import RobertaSeriesModelWithTransformation

    with pytest.raises(InputError, match=f"takes no {option}="):
        RobertaSeriesModelWithTransformation.from_pretrained(
            published("m9"), subfolder="text_encoder", **{option: True}
        )
    with pytest.raises(InputError, match="no folder 'encoder'"):
        RobertaSeriesModelWithTransformation.from_pretrained(published("m9"), subfolder="encoder")
    options = {"torch_dtype": "float16", "attn_implementation": "eager"}
    encoder = RobertaSeriesModelWithTransformation.from_pretrained(published("m9"), subfolder="text_encoder", **options)
    assert encoder.dtype == torch.float16
    assert encoder.config._attn_implementation == "eager"


def test_swap_in_place_draws_as_the_published_pipeline(published):
    stock = StableDiffusionPipeline.from_pretrained(published("m9"))
    stock.text_encoder = None
    assert swap_text_encoder(stock, published("m9")) is stock
    np.testing.assert_array_equal(draw(stock), draw(AltDiffusionPipeline.from_pretrained(published("m9"))))


def test_swap_takes_dtype_and_saves_as_stock(published, tmp_path):
    stock = swap_text_encoder(clip_pipeline().to(dtype=torch.bfloat16), published("m9"))
    assert stock.text_encoder.dtype == torch.bfloat16
    stock.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["text_encoder"] == ["transformers", "AltCLIPTextModel"]


def test_swap_forgets_what_marigold_kept_of_the_old_encoder(published):
    stock = clip_pipeline()
    stock.empty_text_embedding = torch.zeros(1)
    assert swap_text_encoder(stock, published("m9")).empty_text_embedding is None


def test_swap_refuses_widths_that_do_not_fit_and_changes_nothing(published):
    stock = clip_pipeline(width=64)
    before = stock.text_encoder
    with pytest.raises(InputError, match="width 64, this encoder gives 32"):
        swap_text_encoder(stock, published("m9"))
    assert stock.text_encoder is before


def test_swap_refuses_a_pipeline_of_another_kind(published):
    with pytest.raises(InputError, match="DDIMPipeline is not a Stable Diffusion"):
        swap_text_encoder(diffusers.DDIMPipeline(layouts.small_unet(32), diffusers.DDIMScheduler()), published("m9"))


def clip_lora(unet):
    """A LoRA as made for Stable Diffusion 1.5: a UNet half and a half for CLIP's text encoder."""
    state = {}
    for name, module in unet.named_modules():
        if name.endswith("attn2.to_k"):
            state[f"unet.{name}.lora_A.weight"] = torch.randn(2, module.in_features)
            state[f"unet.{name}.lora_B.weight"] = torch.randn(module.out_features, 2)
    clip = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    state[f"{clip}.lora_A.weight"] = torch.randn(2, 768)
    state[f"{clip}.lora_B.weight"] = torch.randn(768, 2)
    return state


@pytest.mark.parametrize("swapped", [False, True])
def test_lora_for_clip_applies_its_unet_half_and_says_so(published, caplog, swapped):
    pytest.importorskip("peft")
    ours = (
        swap_text_encoder(clip_pipeline(), published("m9"))
        if swapped
        else AltDiffusionPipeline.from_pretrained(published("m9"))
    )
    before = draw(ours)
    ours.load_lora_weights(clip_lora(ours.unet))
    assert "2 tensors for CLIP's text encoder were left out" in caplog.text
    assert not np.allclose(draw(ours), before)
    assert list(ours.unet.peft_config) == ["default_0"]


@pytest.mark.parametrize("swapped", [False, True])
def test_lora_without_a_text_half_warns_as_diffusers_does(published, monkeypatch, swapped):
    pytest.importorskip("peft")
    said: list[str] = []
    monkeypatch.setattr(diffusers.loaders.lora_base.logger, "warning", said.append)
    ours = (
        swap_text_encoder(clip_pipeline(), published("m9"))
        if swapped
        else AltDiffusionPipeline.from_pretrained(published("m9"))
    )
    for pipe in (clip_pipeline(), ours):
        pipe.load_lora_weights(
            {name: value for name, value in clip_lora(pipe.unet).items() if name.startswith("unet.")}
        )
    stock, own = [line for line in said if "No LoRA keys" in line]
    assert own == stock.replace("CLIPTextModel", "AltCLIPTextModel")


def test_a_text_encoders_lora_by_too_old_a_peft_is_one_line(published, monkeypatch):
    pytest.importorskip("peft")
    pipe = AltDiffusionPipeline.from_pretrained(published("m9"))
    layer = "text_encoder.roberta.encoder.layer.0.attention.self.query"
    state = {f"{layer}.lora_A.weight": torch.randn(2, 64), f"{layer}.lora_B.weight": torch.randn(64, 2)}
    monkeypatch.setattr("altdiffusion.pipelines.adapters.MIN_PEFT_VERSION", "99.0")
    with pytest.raises(InputError, match=r"wants peft 99\.0 or newer .*pip install \"transformers<"):
        pipe.load_lora_weights(state)


@pytest.mark.parametrize("alpha", [2, 7])
def test_lora_of_our_tower_is_loaded(published, tmp_path, alpha):
    peft = pytest.importorskip("peft")
    trained = AltDiffusionPipeline.from_pretrained(published("m9"))
    trained.text_encoder.add_adapter(
        peft.LoraConfig(r=2, lora_alpha=alpha, target_modules=["query", "value"], init_lora_weights=False)
    )
    expected = draw(trained)
    layers = peft.get_peft_model_state_dict(trained.text_encoder)
    metadata = trained.text_encoder.peft_config["default"].to_dict()
    trained.save_lora_weights(tmp_path, text_encoder_lora_layers=layers, text_encoder_lora_adapter_metadata=metadata)
    fresh = AltDiffusionPipeline.from_pretrained(published("m9"))
    fresh.load_lora_weights(tmp_path)
    np.testing.assert_allclose(draw(fresh), expected, atol=1e-5)


@pytest.mark.parametrize("swapped", [False, True])
def test_textual_inversion_for_clip_is_refused_with_the_reason(published, tmp_path, swapped):
    save_file({"emb_params": torch.randn(1, 768)}, tmp_path / "style.safetensors")
    ours = (
        swap_text_encoder(clip_pipeline(), published("m9"))
        if swapped
        else AltDiffusionPipeline.from_pretrained(published("m9"))
    )
    with pytest.raises(InputError, match="width 768, AltCLIP's are 64"):
        ours.load_textual_inversion(str(tmp_path / "style.safetensors"), token="<style>")


def test_textual_inversion_in_a_folder_by_its_file_name(published, tmp_path):
    save_file({"<style>": torch.randn(64)}, tmp_path / "odd.safetensors")
    ours = AltDiffusionPipeline.from_pretrained(published("m9"))
    ours.load_textual_inversion(str(tmp_path), weight_name="odd.safetensors", local_files_only=True)
    assert "<style>" in ours.tokenizer.get_vocab()


def test_textual_inversion_for_altclip_is_loaded(published):
    ours = AltDiffusionPipeline.from_pretrained(published("m9"))
    before = draw(ours, "<style> 一只猫")
    ours.load_textual_inversion({"<style>": torch.randn(64)})
    assert not np.allclose(draw(ours, "<style> 一只猫"), before)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("change", ["missing", "extra"])
@pytest.mark.parametrize("layout", ["published", "stock"])
def test_missing_and_extra_tensors_are_named(own_copy, part, change, layout):
    if layout == "stock":
        AltDiffusionPipeline.from_pretrained(own_copy).save_pretrained(own_copy)
    file = next((own_copy / part).glob("*.safetensors"))
    state = load_file(file)
    key = sorted(key for key in state if key.endswith((".weight", ".bias")) and "pooler" not in key)[3]
    if change == "missing":
        del state[key]
    else:
        key = "roberta.surprise" if part == "text_encoder" else "surprise"
        state[key] = torch.zeros(1)
    save_file(state, file)
    with pytest.raises(InputError, match=key.replace("encoder.layer.", "encoder.layers.")):
        AltDiffusionPipeline.from_pretrained(own_copy)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_truncated_file_is_one_clear_line(own_copy, part):
    file = next((own_copy / part).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError) as error:
        AltDiffusionPipeline.from_pretrained(own_copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["{", None])
def test_damaged_or_missing_tokenizer_is_one_clear_line(own_copy, content):
    (own_copy / "tokenizer" / "sentencepiece.bpe.model").unlink()
    if content:
        (own_copy / "tokenizer" / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="tokenizer"):
        AltDiffusionPipeline.from_pretrained(own_copy)


def test_a_folder_in_the_home_directory_and_its_name_afterwards(own_copy, monkeypatch):
    monkeypatch.setenv("HOME", str(own_copy.parent))
    assert AltDiffusionPipeline.from_pretrained("~/own").name_or_path == "~/own"


def test_a_folder_called_mini_is_the_users(own_copy, monkeypatch):
    own_copy.rename(own_copy.parent / "mini")
    monkeypatch.chdir(own_copy.parent)
    assert AltDiffusionPipeline.from_pretrained(Path("mini")).text_encoder.config.hidden_size == 64


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (vars(huggingface_hub.errors)["HTTPError"]("read timed out"), "broke off"),
        (huggingface_hub.errors.LocalEntryNotFoundError("x"), "can't be reached"),
        (OSError("no file named model.safetensors"), "can't be downloaded"),
    ],
)
def test_every_failure_of_a_download_is_one_clear_line(monkeypatch, error, line):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=line):
        AltDiffusionPipeline.from_pretrained("BAAI/AltDiffusion-m9")


@pytest.mark.parametrize("weights", ["safetensors", "bin"])
def test_a_model_on_the_hub(published, monkeypatch, weights):
    """The hub itself can't be asked here; what it would hand over is a folder."""
    folder = published("m9", weights)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: str(folder))
    monkeypatch.setattr(AltDiffusionPipeline, "download", classmethod(lambda cls, name, **options: str(folder)))
    loaded = AltDiffusionPipeline.from_pretrained("BAAI/AltDiffusion-m9", allow_pickle=weights == "bin")
    assert loaded.name_or_path == "BAAI/AltDiffusion-m9"


def test_an_encoder_on_the_hub_is_no_pipeline(tmp_path, monkeypatch):
    layouts.save_altclip(tmp_path / "altclip")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: str(tmp_path / "altclip"))
    with pytest.raises(InputError, match="swap_text_encoder"):
        AltDiffusionPipeline.from_pretrained("BAAI/AltCLIP")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", ""])
def test_impossible_names_are_one_clear_line(name):
    with pytest.raises(InputError):
        AltDiffusionPipeline.from_pretrained(name)


def test_parts_that_are_passed_take_the_place_of_a_single_files(published, tmp_path):
    save_file(layouts.single_file_state("m9"), tmp_path / "x.safetensors")
    vae = layouts.small_vae()
    options = {"tokenizer": published("m9"), "vae": vae, "local_files_only": True}
    assert AltDiffusionPipeline.from_pretrained(tmp_path / "x.safetensors", **options).vae is vae


def test_folder_without_model_index_says_what_it_is(tmp_path):
    with pytest.raises(InputError, match="no model"):
        AltDiffusionPipeline.from_pretrained(tmp_path)
    layouts.save_altclip(tmp_path / "altclip")
    with pytest.raises(InputError, match="swap_text_encoder"):
        AltDiffusionPipeline.from_pretrained(tmp_path / "altclip")


def test_swap_after_offload_is_refused(published):
    from accelerate import cpu_offload

    stock = clip_pipeline()
    cpu_offload(stock.text_encoder, execution_device=torch.device("cpu"))
    with pytest.raises(InputError, match="then enable the offload"):
        swap_text_encoder(stock, published("m9"))
