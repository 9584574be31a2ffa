"""A small model with random weights for every diffusers pipeline that reads prompts with CLIP's text encoder alone.

`PYTHONPATH=tests python -m helpers.pipeline_zoo` prints the documentation's table: in which of them AltCLIP's encoder works.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import DiffusionPipeline
from diffusers.pipelines.deprecated.blip_diffusion.blip_image_processing import BlipImageProcessor
from diffusers.pipelines.deprecated.blip_diffusion.modeling_blip2 import Blip2QFormerModel
from diffusers.pipelines.deprecated.blip_diffusion.modeling_ctx_clip import ContextCLIPTextModel
from diffusers.pipelines.deprecated.unidiffuser.modeling_text_decoder import UniDiffuserTextDecoder
from diffusers.pipelines.deprecated.unidiffuser.modeling_uvit import UniDiffuserModel
from diffusers.pipelines.stable_diffusion.clip_image_project_model import CLIPImageProjection
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel

WIDTH = 32  # of the text states, as in `layouts.save_published(folder, "m9")`
SIZE = 16  # of the images; latents have half of it
PROMPT, OTHER = "一只猫，黑暗精灵公主", "黑暗精灵公主"


def pipeline_classes() -> list[type[DiffusionPipeline]]:
    """Every class in diffusers with a UNet and a `CLIPTextModel` as its only text encoder."""
    found = []
    for name in dir(diffusers):
        if name.endswith("Pipeline"):
            parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
            if {"unet", "text_encoder"} <= set(parameters) and "text_encoder_2" not in parameters:
                annotation = str(parameters["text_encoder"].annotation)
                if "CLIPTextModel" in annotation and "Projection" not in annotation:
                    found.append(getattr(diffusers, name))
    return found


# --- components: made by the name of the parameter of `__init__` ---------------------------------------------------

Parts = dict[str, Any]

_BLOCKS = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": WIDTH,
}
_CONTROL = _BLOCKS | {"conditioning_embedding_out_channels": (16, 32)}
_CLIP = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
_CLIP |= {"projection_dim": 32}
_DEPTH = _CLIP | {"num_hidden_layers": 4, "image_size": 32, "patch_size": 8, "fusion_hidden_size": 16}
_DEPTH |= {"backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 16, 32, 32]}
_CLIP_TEXT = _CLIP | {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "max_position_embeddings": 77}

# What the UNets of single classes need besides.
_UNETS: dict[str, dict[str, Any]] = {
    "LatentConsistencyModelImg2ImgPipeline": {"time_cond_proj_dim": 32},
    "LatentConsistencyModelPipeline": {"time_cond_proj_dim": 32},
    "MarigoldDepthPipeline": {"in_channels": 8},
    "MarigoldIntrinsicsPipeline": {"in_channels": 12, "out_channels": 8},
    "MarigoldNormalsPipeline": {"in_channels": 8},
    "PIAPipeline": {"in_channels": 9},
    "StableDiffusionControlNetXSPipeline": {"layers_per_block": 2},
    "StableDiffusionDepth2ImgPipeline": {"in_channels": 5},
    "StableDiffusionGLIGENPipeline": {"attention_type": "gated"},
    "StableDiffusionGLIGENTextImagePipeline": {"attention_type": "gated-text-image"},
    "StableDiffusionInpaintPipeline": {"in_channels": 9},
    "StableDiffusionInstructPix2PixPipeline": {"in_channels": 8},
    "StableDiffusionLatentUpscalePipeline": {"in_channels": 8, "out_channels": 5, "time_cond_proj_dim": 128 + WIDTH},
    "StableDiffusionUpscalePipeline": {"in_channels": 7, "num_class_embeds": 1000},
    "StableUnCLIPImg2ImgPipeline": {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 64},
    "StableUnCLIPPipeline": {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 64},
}


def _unet(cls: type[DiffusionPipeline], parts: Parts) -> torch.nn.Module:
    if cls.__name__ == "UniDiffuserPipeline":
        return UniDiffuserModel(
            text_dim=WIDTH, clip_img_dim=32, num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
            num_layers=2, sample_size=SIZE // 2, patch_size=2, num_embeds_ada_norm=1000, norm_type="layer_norm",
        )  # fmt: skip
    annotation = str(inspect.signature(cls.__init__).parameters["unet"].annotation)
    settings = _BLOCKS | {"sample_size": SIZE // 2, "attention_head_dim": 8}
    if "UNet2DConditionModel" in annotation:
        settings["up_block_types"] = ("UpBlock2D", "CrossAttnUpBlock2D")
        return diffusers.UNet2DConditionModel(**settings | _UNETS.get(cls.__name__, {}))
    settings["down_block_types"] = ("CrossAttnDownBlock3D", "DownBlock3D")
    settings["up_block_types"] = ("UpBlock3D", "CrossAttnUpBlock3D")
    if "I2VGenXLUNet" in annotation:
        return diffusers.I2VGenXLUNet(**settings)
    return diffusers.UNet3DConditionModel(**settings)


def _vae(cls: type[DiffusionPipeline], parts: Parts) -> torch.nn.Module:
    colours = 6 if cls.__name__ == "StableDiffusionLDM3DPipeline" else 3
    return diffusers.AutoencoderKL(
        in_channels=colours, out_channels=colours, latent_channels=4, block_out_channels=(32, 64), sample_size=SIZE,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip


def _scheduler(cls: type[DiffusionPipeline], parts: Parts) -> Any:
    """The class that the pipeline asks for, or DDIM as Stable Diffusion has it."""
    if cls.__name__ == "StableDiffusionParadigmsPipeline":
        return diffusers.DDIMParallelScheduler()
    wanted = inspect.signature(cls.__init__).parameters["scheduler"].annotation
    if wanted is diffusers.PNDMScheduler:
        return wanted(skip_prk_steps=True)
    if wanted in (diffusers.EulerDiscreteScheduler, diffusers.LCMScheduler):
        return wanted()
    return diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def _text_encoder(cls: type[DiffusionPipeline], parts: Parts) -> torch.nn.Module:
    settings = transformers.CLIPTextConfig(**_CLIP_TEXT)
    wanted = "ContextCLIPTextModel" in str(inspect.signature(cls.__init__).parameters["text_encoder"].annotation)
    return (ContextCLIPTextModel if wanted else transformers.CLIPTextModel)(settings)


def _tokenizer(cls: type[DiffusionPipeline], parts: Parts) -> Any:
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def _prior_text_encoder(cls: type[DiffusionPipeline], parts: Parts) -> torch.nn.Module:
    return transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**_CLIP_TEXT))


def _image_encoder(cls: type[DiffusionPipeline], parts: Parts) -> torch.nn.Module:
    return transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(**_CLIP, image_size=32, patch_size=8)
    )


def _image_processor(cls: type[DiffusionPipeline], parts: Parts) -> Any:
    if "Blip" in cls.__name__:
        return BlipImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return transformers.CLIPImageProcessor(crop_size=32, size=32)


def _controlnet(cls: type[DiffusionPipeline], parts: Parts) -> torch.nn.Module:
    annotation = str(inspect.signature(cls.__init__).parameters["controlnet"].annotation)
    if "SparseControlNetModel" in annotation:
        blocks = {"down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion")}
        return diffusers.SparseControlNetModel(**_CONTROL | blocks)
    if "ControlNetXSAdapter" in annotation:
        return diffusers.ControlNetXSAdapter.from_unet(
            parts["unet"], size_ratio=1.0, conditioning_embedding_out_channels=(16, 32)
        )
    return diffusers.ControlNetModel(**_CONTROL)


def _qformer(cls: type[DiffusionPipeline], parts: Parts) -> torch.nn.Module:
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = vision | {"vocab_size": 100, "cross_attention_frequency": 1, "encoder_hidden_size": 32}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat"]))
        return Blip2QFormerModel(
            transformers.Blip2Config(
                vision_config=vision | {"image_size": 32, "patch_size": 8}, qformer_config=text, num_query_tokens=16,
                tokenizer=folder,
            )
        )  # fmt: skip


COMPONENTS: dict[str, Callable[[type[DiffusionPipeline], Parts], Any]] = {
    "unet": _unet,
    "vae": _vae,
    "scheduler": _scheduler,
    "text_encoder": _text_encoder,
    "tokenizer": _tokenizer,
    "clip_tokenizer": _tokenizer,
    "prior_tokenizer": _tokenizer,
    "prior_text_encoder": _prior_text_encoder,
    "image_encoder": _image_encoder,
    "feature_extractor": _image_processor,
    "image_processor": _image_processor,
    "clip_image_processor": _image_processor,
    "controlnet": _controlnet,
    "qformer": _qformer,
    "processor": lambda cls, parts: transformers.CLIPProcessor(_image_processor(cls, parts), _tokenizer(cls, parts)),
    "image_project": lambda cls, parts: CLIPImageProjection(hidden_size=32),
    "image_normalizer": lambda cls, parts: StableUnCLIPImageNormalizer(embedding_dim=32),
    "image_noising_scheduler": lambda cls, parts: diffusers.DDPMScheduler(),
    "low_res_scheduler": lambda cls, parts: diffusers.DDPMScheduler(),
    "inverse_scheduler": lambda cls, parts: diffusers.DDIMInverseScheduler(),
    "prior": lambda cls, parts: diffusers.PriorTransformer(2, 16, num_layers=1, embedding_dim=32),
    "prior_scheduler": lambda cls, parts: diffusers.UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample"
    ),
    "motion_adapter": lambda cls, parts: diffusers.MotionAdapter(
        block_out_channels=(32, 64), motion_layers_per_block=1, motion_norm_num_groups=8, motion_num_attention_heads=2
    ),
    "adapter": lambda cls, parts: diffusers.T2IAdapter(channels=[32, 64], num_res_blocks=1, downscale_factor=2),
    "depth_estimator": lambda cls, parts: transformers.DPTForDepthEstimation(transformers.DPTConfig(**_DEPTH)),
    "text_decoder": lambda cls, parts: UniDiffuserTextDecoder(
        prefix_length=77, prefix_inner_dim=WIDTH, vocab_size=514, n_embd=32, n_layer=1, n_head=2
    ),
    "text_tokenizer": _tokenizer,
    "target_properties": lambda cls, parts: {"target_names": ["albedo", "shading"]},
}
# Parameters that stay None.
_NONE = {"safety_checker", "caption_generator", "caption_processor"}


def build(cls: type[DiffusionPipeline]) -> DiffusionPipeline:
    """A small stock pipeline of this class, with CLIP's text encoder. Raises KeyError for components unknown here."""
    torch.manual_seed(0)
    parameters = dict(inspect.signature(cls.__init__).parameters)
    parts: Parts = {name: None for name in parameters if name in _NONE}
    for name in sorted(set(parameters) - _NONE - {"self"}, key=lambda name: (name == "controlnet", name)):
        if name in COMPONENTS:  # a ControlNet comes last, it may be made from the UNet
            parts[name] = COMPONENTS[name](cls, parts)
        elif parameters[name].default is inspect.Parameter.empty:
            raise KeyError(f"{cls.__name__} wants {name!r}, which pipeline_zoo.COMPONENTS does not make")
    if "requires_safety_checker" in parameters:
        parts["requires_safety_checker"] = False
    pipe = cls(**parts)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


# --- arguments: made by the name of the parameter of `__call__` ------------------------------------------------------

_PICTURE = Image.fromarray((np.indices((SIZE, SIZE, 3)).sum(0) * 5).astype("uint8"))
_MASK = Image.fromarray((np.indices((SIZE, SIZE))[0] * 16).astype("uint8"))

ARGUMENTS: dict[str, Any] = {
    "prompt": PROMPT,
    "image": _PICTURE,
    "mask_image": _MASK,
    "control_image": _PICTURE,
    "reference_image": _PICTURE,
    "condtioning_image": _PICTURE,  # sic
    "source_subject_category": "cat",
    "target_subject_category": "cat",
    "video": [_PICTURE] * 2,
    "conditioning_frames": [_PICTURE] * 2,
    "source_prompt": OTHER,
    "editing_prompt": OTHER,
    "height": SIZE,
    "width": SIZE,
    "num_frames": 2,
    "video_length": 2,
    "num_inference_steps": 2,
    "prior_num_inference_steps": 2,
    "processing_resolution": 0,
    "output_type": "np",
    # GLIGEN
    "gligen_phrases": [OTHER],
    "gligen_images": [_PICTURE],
    "gligen_boxes": [[0.1, 0.2, 0.6, 0.8]],
    # attend and excite
    "token_indices": [2],
    "attn_res": (SIZE // 2, SIZE // 2),
    "max_iter_to_alter": 1,
    "thresholds": {0: 0.5},
}


def arguments(pipe: DiffusionPipeline) -> dict[str, Any]:
    """What to call this pipeline with, prepared with the pipeline itself where its class wants that."""
    names = inspect.signature(pipe.__call__).parameters
    given = {name: ARGUMENTS[name] for name in names if name in ARGUMENTS}
    match type(pipe).__name__:
        case "StableDiffusionPix2PixZeroPipeline":
            given |= {"source_embeds": pipe.get_embeds([OTHER]), "target_embeds": pipe.get_embeds([PROMPT])}
        case "StableDiffusionDiffEditPipeline":
            few = {"num_inference_steps": 2, "generator": torch.manual_seed(0)}
            given["mask_image"] = pipe.generate_mask(
                _PICTURE, source_prompt=OTHER, target_prompt=PROMPT, num_maps_per_mask=1, **few
            )
            given["image_latents"] = pipe.invert(OTHER, _PICTURE, **few).latents
        case "TextToVideoZeroPipeline":
            given |= {"num_inference_steps": 4, "t0": 1, "t1": 2}
    return given


# --- the README's table ------------------------------------------------------------------------------------------------

# Every class of `pipeline_classes` is in WORKS or in CANNOT.
WORKS: dict[str, list[str]] = {
    "text to image": [
        "StableDiffusionPipeline",
        "StableDiffusionPAGPipeline",
        "StableDiffusionSAGPipeline",
        "StableDiffusionPanoramaPipeline",
        "StableDiffusionParadigmsPipeline",
        "StableDiffusionAttendAndExcitePipeline",
        "StableDiffusionGLIGENPipeline",
        "StableDiffusionGLIGENTextImagePipeline",
        "StableDiffusionLDM3DPipeline",
        "StableDiffusionModelEditingPipeline",
        "SemanticStableDiffusionPipeline",
        "LatentConsistencyModelPipeline",
        "StableUnCLIPPipeline",
    ],
    "image to image": [
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionPAGImg2ImgPipeline",
        "StableDiffusionDepth2ImgPipeline",
        "StableDiffusionInstructPix2PixPipeline",
        "StableDiffusionPix2PixZeroPipeline",
        "StableDiffusionDiffEditPipeline",
        "StableDiffusionUpscalePipeline",
        "CycleDiffusionPipeline",
        "LatentConsistencyModelImg2ImgPipeline",
        "StableUnCLIPImg2ImgPipeline",
    ],
    "inpainting": ["StableDiffusionInpaintPipeline", "StableDiffusionPAGInpaintPipeline"],
    "ControlNets, adapters": [
        "StableDiffusionControlNetPipeline",
        "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetInpaintPipeline",
        "StableDiffusionControlNetPAGPipeline",
        "StableDiffusionControlNetPAGInpaintPipeline",
        "StableDiffusionControlNetXSPipeline",
        "StableDiffusionAdapterPipeline",
    ],
    "video": [
        "AnimateDiffPipeline",
        "AnimateDiffPAGPipeline",
        "AnimateDiffControlNetPipeline",
        "AnimateDiffSparseControlNetPipeline",
        "AnimateDiffVideoToVideoPipeline",
        "AnimateDiffVideoToVideoControlNetPipeline",
        "PIAPipeline",
        "I2VGenXLPipeline",
        "TextToVideoSDPipeline",
        "TextToVideoZeroPipeline",
        "VideoToVideoSDPipeline",
    ],
    "depth, normals, materials": [
        "MarigoldDepthPipeline",
        "MarigoldNormalsPipeline",
        "MarigoldIntrinsicsPipeline",
    ],
}
NOTES = {
    "StableDiffusionModelEditingPipeline": (
        "in `StableDiffusionModelEditingPipeline`, `edit_model` changes nothing in diffusers 0.42.1, nor does it with CLIP"
    ),
    "StableUnCLIPPipeline": "the prior of `StableUnCLIPPipeline` goes on reading the prompt with a CLIP of its own",
    "MarigoldDepthPipeline": "they read only the empty prompt",
}
_BLIP = (
    "broken in diffusers 0.42.1 itself: the Q-Former calls `invert_attention_mask`, which transformers 5 no longer has; "
    "besides, the text encoder is a special CLIP that takes the subject's picture as tokens, so `swap_text_encoder` "
    "refuses it"
)
CANNOT = {
    "BlipDiffusionPipeline": _BLIP,
    "BlipDiffusionControlNetPipeline": _BLIP,
    "StableDiffusionLatentUpscalePipeline": (
        "it takes the encoder's raw `hidden_states[-1]`, which in AltCLIP are XLM-R's, not yet projected to the UNet's "
        "width"
    ),
    "UniDiffuserPipeline": (
        "its transformer does not attend to text states, it denoises CLIP's together with the picture: "
        "`swap_text_encoder` refuses it"
    ),
}


def table() -> str:
    """Markdown: in which pipelines AltCLIP's encoder works, and in which it can't and why."""
    lines = ["| pipeline | with AltCLIP's encoder |", "|---|---|"]
    for family, names in WORKS.items():
        notes = [NOTES[name] for name in names if name in NOTES]
        lines.append(f"| {family}: {_list(names)} | {'; '.join(['works', *notes])} |")
    for reason in dict.fromkeys(CANNOT.values()):
        names = [name for name in CANNOT if CANNOT[name] == reason]
        lines.append(f"| {_list(names)} | can't: {reason} |")
    return "\n".join(lines)


def _list(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    print(table())
