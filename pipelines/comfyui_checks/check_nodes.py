"""Nodes that `comfyui_check.py` puts beside ours: SD-mini as ComfyUI's MODEL, CLIP and VAE, and a conditioning as a file.

SD-mini is smaller than what ComfyUI's loaders know. Its CLIP is ComfyUI's own class with SD-mini's sizes; its UNet and VAE are
diffusers' classes inside ComfyUI's model and its sampler.
"""

from __future__ import annotations

import os
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management as management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import folder_paths
import safetensors.torch
import torch
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from altdiffusion.checkpoints import hub

VOCABULARY = 49408  # ComfyUI's CLIP has no other


class MiniTokenizer(SD1Tokenizer):
    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        def tokenizer(**options: Any) -> SDTokenizer:
            path = str(hub.sd_mini_folder() / "tokenizer")
            return SDTokenizer(tokenizer_path=path, embedding_size=192, embedding_directory=embedding_directory)

        super().__init__(embedding_directory=embedding_directory, tokenizer=tokenizer)


class MiniCLIP(SDClipModel):
    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        config = CLIPTextModel.config_class.from_pretrained(hub.sd_mini_folder() / "text_encoder").to_dict()
        special = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": config["pad_token_id"]}
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=config,
            special_tokens=special,
            return_projected_pooled=False,
        )


class MiniClipModel(SD1ClipModel):
    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        super().__init__(device=device, dtype=dtype, clip_model=MiniCLIP)


class MiniUNet(nn.Module):
    dtype = torch.float32

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel.from_pretrained(hub.sd_mini_folder() / "unet")

    def forward(self, latents: Tensor, timesteps: Tensor, context: Any = None, **others: Any) -> Tensor:
        return self.unet(latents, timesteps, context).sample


class MiniVAE:
    def __init__(self) -> None:
        self.vae = AutoencoderKL.from_pretrained(hub.mini_folder() / "vae").eval()

    def decode(self, latents: Tensor) -> Tensor:
        """(batch, 4, height, width) -> (batch, height, width, 3), 0 to 1."""
        return (self.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)


def load_clip() -> Any:
    target = comfy.supported_models_base.ClipTarget(MiniTokenizer, MiniClipModel)
    clip = comfy.sd.CLIP(target, embedding_directory=folder_paths.get_folder_paths("embeddings"))
    state = safetensors.torch.load_file(hub.sd_mini_folder() / "text_encoder" / "model.safetensors")
    table = "text_model.embeddings.token_embedding.weight"
    state = {name if name.startswith("text_model.") else f"text_model.{name}": value for name, value in state.items()}
    state[table] = nn.functional.pad(state[table], (0, 0, 0, VOCABULARY - len(state[table])))
    missing, unexpected = clip.load_sd(state)
    assert (missing, unexpected) == (["text_projection.weight"], [])
    return clip


def load_model(scale: float) -> Any:
    config = comfy.supported_models.SD15({"in_channels": 4, "context_dim": 192})
    config.latent_format = comfy.latent_formats.SD15(scale)
    model = comfy.model_base.BaseModel(config, comfy.model_base.ModelType.V_PREDICTION, unet_model=MiniUNet)
    return comfy.model_patcher.ModelPatcher(
        model, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
    )


class CheckSDMini:
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "load"
    CATEGORY = "check"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def load(self) -> tuple[Any, Any, Any]:
        vae = MiniVAE()
        return load_model(vae.vae.config.scaling_factor), load_clip(), vae


class CheckSaveConditioning:
    RETURN_TYPES = ()
    FUNCTION = "save"
    CATEGORY = "check"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"conditioning": ("CONDITIONING",), "name": ("STRING", {"default": ""})}}

    def save(self, conditioning: Any, name: str) -> dict[str, Any]:
        """`states`, and `pooled` where there is one, into NAME.safetensors among the outputs."""
        [[states, more]] = conditioning
        tensors = {"states": states.contiguous()}
        if more.get("pooled_output") is not None:
            tensors["pooled"] = more["pooled_output"].contiguous()
        safetensors.torch.save_file(tensors, os.path.join(folder_paths.get_output_directory(), f"{name}.safetensors"))
        return {}


NODE_CLASS_MAPPINGS = {"CheckSDMini": CheckSDMini, "CheckSaveConditioning": CheckSaveConditioning}
