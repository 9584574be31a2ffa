"""AltCLIP's text encoder in the place of a pipeline's own."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from diffusers import DiffusionPipeline
from transformers import AltCLIPTextModel, CLIPTextModel, CLIPTextModelWithProjection

from altdiffusion.errors import InputError
from altdiffusion.pipelines import adapters
from altdiffusion.pipelines.alt_diffusion import AltDiffusionMixin
from altdiffusion.pipelines.soft_swap import read_by_own_clip
from altdiffusion.prompt_syntax.route import Route, check_route
from altdiffusion.text_encoder.bridge import AnyBridge, Bridge, load_bridge
from altdiffusion.text_encoder.encoder import check_encoder_options, load_text_encoder
from altdiffusion.text_encoder.exit_bridge import BridgedTextEncoder, check_exit_bridge
from altdiffusion.text_encoder.load_options import read_dtype

P = TypeVar("P", bound=DiffusionPipeline)


def swap_text_encoder(
    pipe: P,
    model: str | Path | None = None,
    *,
    bridge: str | Path | AnyBridge | None = None,
    route: Route | None = None,
    literal: Collection[str] = (),
    **kwargs: Any,
) -> P:
    """Let AltCLIP read the prompts of a Stable Diffusion pipeline, in place.

    With a bridge, any Stable Diffusion 1.x, 2.x or XL that was trained with CLIP will do. The pipeline keeps its own text
    encoder and tokenizer: what is not English becomes soft tokens that its own CLIP reads, an English prompt stays as it is,
    and so do LoRAs, textual inversions, trigger words and clip_skip.
    Without one, AltCLIP's text encoder and tokenizer replace the pipeline's own, and the UNet should be one that was trained
    for them, as AltDiffusion's are: others generate nothing sensible.
    pipe: any diffusers pipeline with CLIP's text encoder and a UNet. AltCLIP takes that encoder's device and the UNet's dtype.
    bridge: a folder, an id on the hub, "mini" (from mini's AltCLIP to "sd-mini"), or a bridge, of which the pipeline
        gets a copy. One that stands at CLIP's exit (before 0.5) replaces the encoder, too: XL's two become one,
        `text_encoder_2`, which reads `prompt`; `prompt_2` is not read.
    route: which parts of a prompt go through the bridge: "auto" (by default), those that are not English; "all"; "none".
        What stands in `backquotes` never does.
    literal: words that never do, such as a LoRA's triggers.
    model, kwargs: as in `load_text_encoder`; without a model the AltCLIP that the bridge names.
    Returns the same pipeline. Raises InputError where the widths don't fit, or where a bridge would lead to a UNet that
    has AltCLIP as its encoder already, before anything is changed.
    """
    own = ("dtype", "tokenizer", "allow_pickle", "variant", "use_safetensors")
    passed_on = {name: value for name, value in kwargs.items() if name not in own}
    read = check_encoder_options("swap_text_encoder", passed_on, named=["bridge"])
    unet: Any = getattr(pipe, "unet", None)
    wanted = getattr(getattr(unet, "config", None), "cross_attention_dim", None)
    has_first, has_second = hasattr(pipe, "text_encoder"), hasattr(pipe, "text_encoder_2")
    xl = has_first and has_second and "text_encoder" in pipe._optional_components
    old: Any = getattr(pipe, "text_encoder_2" if xl else "text_encoder", None)
    clip = CLIPTextModelWithProjection if xl else CLIPTextModel
    fits = xl or (has_first and not has_second)
    if wanted is None or not fits or not isinstance(old, clip | AltCLIPTextModel | BridgedTextEncoder | None):
        raise InputError(
            f"{type(pipe).__name__} is not a Stable Diffusion 1.x, 2.x or XL pipeline: expected one CLIP text encoder, "
            "or XL's two, and a UNet that attends to its states"
        )
    if xl and bridge is None:
        raise InputError(
            f"{type(pipe).__name__} has a UNet trained with two CLIPs: AltCLIP fits it by a bridge, bridge="
        )
    if bridge is not None and isinstance(old, AltCLIPTextModel):
        raise InputError(
            "this pipeline reads prompts with AltCLIP already, and a bridge gives CLIP's states, which its UNet doesn't "
            "know: leave out bridge= (--bridge), or take a Stable Diffusion with CLIP's encoder, such as sd-mini"
        )
    if any(hasattr(getattr(pipe, name, None), "_hf_hook") for name in ("text_encoder", "text_encoder_2")):
        raise InputError(
            "this pipeline offloads its parts already: swap the text encoder first, then enable the offload"
        )
    if "dtype" not in kwargs and "torch_dtype" not in kwargs:
        kwargs["dtype"] = unet.dtype
    if bridge is not None:
        bridge = load_bridge(bridge, read_dtype(kwargs.get("dtype"), kwargs) or unet.dtype, **read.elsewhere)
    if isinstance(bridge, Bridge):
        check_route(route or "auto")
        tower, tokenizer = load_text_encoder(model or bridge.config.text_encoder, **kwargs)
        read_by_own_clip(pipe, tower, tokenizer, bridge, route or "auto", literal)
        return pipe
    if route is not None or literal:
        raise InputError("route= and literal= are for a bridge at CLIP's entrance: leave them out")
    if bridge is not None:
        check_exit_bridge(bridge, unet, aesthetics=bool(pipe.config.get("requires_aesthetics_score")))
    encoder: Any
    encoder, tokenizer = load_text_encoder(model, **kwargs)
    if bridge is not None:
        encoder = BridgedTextEncoder.of(encoder, bridge.to(encoder.device))
    elif wanted != encoder.config.project_dim:
        raise InputError(
            f"the UNet attends to text states of width {wanted}, this encoder gives {encoder.config.project_dim}: "
            "768 belongs to Stable Diffusion 1.x (AltDiffusion, -m9, AltCLIP), 1024 to 2.x (AltDiffusion-m18); "
            "between a UNet trained with CLIP and any AltCLIP stands a bridge, bridge="
        )
    if kwargs.get("device_map") is None:
        encoder.to((unet if old is None else old).device)
    if xl:
        pipe.register_modules(text_encoder=None, tokenizer=None, text_encoder_2=encoder, tokenizer_2=tokenizer)
    else:
        pipe.register_modules(text_encoder=encoder, tokenizer=tokenizer)
    if hasattr(pipe, "empty_text_embedding"):  # Marigold keeps the states of "", which were the old encoder's
        pipe.empty_text_embedding = None
    if not isinstance(pipe, AltDiffusionMixin):  # on this instance alone: its class stays stock
        pipe.load_lora_into_text_encoder = adapters.load_lora_into_text_encoder
        if hasattr(type(pipe), "load_textual_inversion"):
            pipe.load_textual_inversion = partial(_load_textual_inversion, pipe, encoder)
    return pipe


def _load_textual_inversion(
    pipe: Any, encoder: Any, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any
) -> None:
    """A pipeline's own `load_textual_inversion`, behind a check that the embeddings fit the encoder."""
    adapters.check_textual_inversion(pretrained_model_name_or_path, encoder, **kwargs)
    type(pipe).load_textual_inversion(pipe, pretrained_model_name_or_path, *args, **kwargs)
