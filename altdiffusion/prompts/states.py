"""Hidden states of prompts as people write them: with weights, longer than 77 tokens, and changing over the steps.

    states = encode_prompts(pipe, "(黑暗精灵公主:1.2), 月光", "模糊")
    image = pipe(**states, num_inference_steps=25).images[0]

This works with every diffusers pipeline whose text encoder is AltCLIP's, alone or with a bridge behind it, and with those of
Stable Diffusion 1.x, 2.x and XL with their own CLIPs.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers
from torch import Tensor
from transformers import AltCLIPTextModel, CLIPTextModel, CLIPTextModelWithProjection

from altdiffusion.errors import InputError
from altdiffusion.prompt_syntax import (
    PromptSyntax,
    ScheduledPrompt,
    Span,
    WeightedPrompt,
    expand_choices,
    parse_weights,
    schedule,
    take_loras,
)
from altdiffusion.prompt_syntax.route import Route
from altdiffusion.prompts.tokens import MAX_PROMPT_TOKENS, Token, in_chunks, prompt_tokens
from altdiffusion.prompts.weighting import Row, Weighting, beside, weighted
from altdiffusion.text_encoder.exit_bridge import BridgedTextEncoder
from altdiffusion.text_encoder.soft_tokenizer import routed
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS, pad

LongPrompts = Literal["chunks", "whole"]
MAX_CHANGES = 200  # texts over the steps of an image: each is encoded, and its states are kept


@dataclass(frozen=True)
class PromptStates:
    """What a pipeline is given in the place of prompts.

    embeds, negative_embeds: (batch, 77 * chunks, width) each. pooled, negative_pooled: (batch, width) for XL, else None.
    """

    embeds: Tensor
    negative_embeds: Tensor
    pooled: Tensor | None = None
    negative_pooled: Tensor | None = None

    def arguments(self) -> dict[str, Tensor]:
        """As a pipeline's `__call__` names them."""
        named = {
            "prompt_embeds": self.embeds,
            "negative_prompt_embeds": self.negative_embeds,
            "pooled_prompt_embeds": self.pooled,
            "negative_pooled_prompt_embeds": self.negative_pooled,
        }
        return {name: states for name, states in named.items() if states is not None}

    def step_tensors(self, guided: bool, rows: Sequence[int]) -> dict[str, Tensor]:
        """As a pipeline's `callback_on_step_end` names them: with guidance the negative states come before the others.

        rows: of the batch, in order; one may come several times.
        """
        named = {
            "prompt_embeds": (self.negative_embeds, self.embeds),
            "add_text_embeds": (self.negative_pooled, self.pooled),
        }
        return {
            name: torch.cat([part[list(rows)] for part in (negative, positive)[not guided :]])
            for name, (negative, positive) in named.items()
            if negative is not None and positive is not None
        }


@dataclass(frozen=True)
class ScheduledStates:
    """The states of a batch over the steps of an image.

    starts: the first of `steps` steps at which each state holds, increasing, the first is 0.
    """

    starts: tuple[int, ...]
    states: tuple[PromptStates, ...]
    steps: int

    @property
    def first(self) -> PromptStates:
        return self.states[0]

    def change_at(self, timestep: int, timesteps: int) -> PromptStates | None:
        """The states that begin at this timestep of a run, counted from 0; None where those before it go on.

        timesteps: of the run; some schedulers have more of them than steps.
        """
        now, before = (self._at(index * self.steps // timesteps) for index in (timestep, timestep - 1))
        return None if now is before else now

    def after_step(self, pipe: Any, index: int, tensors: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        """What a `callback_on_step_end` gives back, with other states where the prompt changes. rows: of the batch."""
        change = self.change_at(index + 1, pipe.num_timesteps)
        return tensors if change is None else tensors | change.step_tensors(pipe.do_classifier_free_guidance, rows)

    def _at(self, step: int) -> PromptStates:
        return self.states[bisect.bisect_right(self.starts, max(step, 0)) - 1]


def encode_prompts(
    pipe: Any,
    prompts: str | Sequence[str],
    negative_prompts: str | Sequence[str] | None = None,
    *,
    prompt_syntax: PromptSyntax = "webui",
    weighting: Weighting | None = None,
    long_prompts: LongPrompts = "chunks",
    clip_skip: int | None = None,
    route: Route | None = None,
    literal: Collection[str] = (),
) -> dict[str, Tensor]:
    """Prompts as people write them (docs/prompts.md), as keyword arguments of `pipe`: prompt_embeds and the like.

    pipe: a diffusers pipeline whose text encoder is AltCLIP's, alone or with a bridge, or Stable Diffusion's own.
    negative_prompts: one for all, or one for each; None is none, for which XL's pipelines may take zeros.
    prompt_syntax: "webui" refuses what is malformed, "lenient" reads it as A1111 does, "none" reads brackets as text.
    weighting: what a weight does to hidden states: "masked" moves all of them away from those of the prompt without the
        word; of the word's tokens "a1111" multiplies them and restores the mean of all, "no-norm" multiplies them alone,
        "comfyui" moves them away from the states of "". None is "masked", and "a1111" for a Stable Diffusion's own CLIP.
    long_prompts: "chunks" encodes 75 tokens at a time and puts the states one after the other; "whole" encodes all at
        once, which XLM-R can up to 510 tokens, and no CLIP and no bridge.
    clip_skip: as in diffusers, and of negative prompts too.
    route, literal: as in `swap_text_encoder`, for these prompts alone; literal words come beside the pipeline's own.
    Raises InputError for what is malformed or too long, and for what one set of states can't say: prompt editing
    ([from:to:0.5], which a pipeline's `prompt_syntax=` reads), LoRAs (`take_loras`) and choices (`expand_choices`).
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if prompt_syntax != "none":
        negatives = [negative_prompts] if isinstance(negative_prompts, str) else negative_prompts
        for prompt in (*prompts, *(negatives or ())):
            if take_loras(prompt, prompt_syntax == "lenient")[1]:
                raise InputError(f"{prompt!r} names a LoRA: load it into the pipeline, and take it out by take_loras()")
    options: dict[str, Any] = {"weighting": weighting, "long_prompts": long_prompts, "clip_skip": clip_skip}
    options |= {"route": route, "literal": literal}
    scheduled = encode_schedule(
        pipe, prompts, negative_prompts or "", steps=1000, prompt_syntax=prompt_syntax, **options
    )
    if len(scheduled.states) > 1:
        raise InputError(
            "a prompt that changes over the steps has no single states: pass it with prompt_syntax='webui'"
        )
    arguments = scheduled.first.arguments()
    if negative_prompts is None and pipe.config.get("force_zeros_for_empty_prompt"):
        arguments |= {name: torch.zeros_like(arguments[name]) for name in arguments if name.startswith("negative")}
    return arguments


def encode_schedule(
    pipe: Any,
    prompts: Sequence[str],
    negative_prompts: str | Sequence[str],
    *,
    steps: int,
    prompt_syntax: PromptSyntax = "webui",
    weighting: Weighting | None = None,
    long_prompts: LongPrompts = "chunks",
    clip_skip: int | None = None,
    lora_scale: float | None = None,
    route: Route | None = None,
    literal: Collection[str] = (),
) -> ScheduledStates:
    """The states of prompts and negative prompts for each of `steps` steps, all encoded in one pass, equal chunks once.

    LoRAs that prompts name are the caller's to apply, by `lora_weights`. lora_scale: of those in the text encoder.
    The rest: see `encode_prompts`.
    """
    negatives = [negative_prompts] * len(prompts) if isinstance(negative_prompts, str) else list(negative_prompts)
    if len(negatives) != len(prompts):
        raise InputError(f"{len(negatives)} negative prompts for {len(prompts)} prompts: expected one, or one for each")
    for value, known, name in (
        (prompt_syntax, PromptSyntax, "prompt_syntax"),
        (weighting, Weighting, "weighting"),
        (long_prompts, LongPrompts, "long_prompts"),
    ):
        if value is not None and value not in get_args(known):
            raise InputError(f"{name}={value!r}: expected {', '.join(get_args(known))}")
    encoders = _encoders_of(pipe)
    tokenizer = routed(encoders[0][1], route, literal)
    weighting = _weighting_for(_class_of(encoders[0][0]), weighting)
    schedules = [schedule_of(prompt, steps, prompt_syntax) for prompt in [*prompts, *negatives]]
    starts = sorted({0, *(part.until for parts in schedules for part in parts if part.until < steps)})
    texts_at = [tuple(next(p.prompt for p in parts if start < p.until) for parts in schedules) for start in starts]
    distinct = list(dict.fromkeys(texts_at))  # an alternation comes back to its first text
    if len(distinct) > MAX_CHANGES:
        raise InputError(f"the prompts change to {len(distinct)} texts over the steps: expected at most {MAX_CHANGES}")
    read = [chunks_of(tokenizer, text, prompt_syntax, long_prompts)[1] for texts in distinct for text in texts]
    if long_prompts == "whole":
        _check_context(encoders[0][0], max(len(row[0]) for row in read))
    count = max(map(len, read))
    chunks = [chunk for row in read for chunk in [*row, *[[]] * (count - len(row))]]
    with torch.no_grad(), _lora_scaled([encoder for encoder, _ in encoders], lora_scale):
        states, pooled = _encode(
            encoders, chunks, pipe._execution_device, weighting, clip_skip, hasattr(pipe, "text_encoder_2")
        )
    shape = (len(distinct), 2, len(prompts))
    states = states.reshape(*shape, count * states.shape[1], states.shape[2])
    if pooled is not None:  # of a prompt's first chunk
        pooled = pooled.reshape(*shape, count, -1)[:, :, :, 0]
    by_texts = {
        texts: PromptStates(*states[index], *(() if pooled is None else pooled[index]))
        for index, texts in enumerate(distinct)
    }
    return ScheduledStates(tuple(starts), tuple(by_texts[texts] for texts in texts_at), steps)


def schedule_of(prompt: str, steps: int, syntax: PromptSyntax) -> list[ScheduledPrompt]:
    """A prompt's texts over the steps, its LoRAs taken out. Raises InputError for choices that are open."""
    if syntax == "none":
        return [ScheduledPrompt(steps, prompt)]
    lenient = syntax == "lenient"
    if len(expand_choices(prompt, lenient=lenient)) > 1:
        raise InputError(f"{prompt!r} has choices: take one by choose(), or all by expand_choices()")
    text, _ = take_loras(prompt, lenient)
    return schedule(text, steps, lenient)


def chunks_of(
    tokenizer: Any,
    text: str,
    syntax: PromptSyntax,
    long_prompts: LongPrompts = "chunks",
    limit: int | None = MAX_PROMPT_TOKENS,
) -> tuple[str, list[list[Token]]]:
    """A prompt at one step: (its text without weights and breaks, its tokens in chunks). limit: of its tokens."""
    if syntax == "none":
        prompt = WeightedPrompt(text, (Span(0, len(text), 1.0),), ())
    else:
        prompt = parse_weights(text, syntax == "lenient")
    tokens = prompt_tokens(tokenizer, prompt, limit)
    return prompt.text, [tokens] if long_prompts == "whole" else in_chunks(tokens, prompt)


def _encoders_of(pipe: Any) -> list[tuple[Any, Any]]:
    """(text encoder, tokenizer): one, or XL's two. Raises InputError where they are of another kind."""
    numbers = ("", "_2") if hasattr(pipe, "text_encoder_2") else ("",)
    pairs = [(getattr(pipe, f"text_encoder{number}", None), getattr(pipe, f"tokenizer{number}")) for number in numbers]
    pairs = [pair for pair in pairs if pair[0] is not None]
    known = (AltCLIPTextModel, BridgedTextEncoder, CLIPTextModel, CLIPTextModelWithProjection)
    if not pairs or not all(isinstance(_class_of(encoder), known) for encoder, _ in pairs):
        kinds = " and ".join(type(encoder).__name__ for encoder, _ in pairs) or "no text encoder"
        raise InputError(
            f"{type(pipe).__name__} reads prompts by {kinds}: expected AltCLIP's text encoder (swap_text_encoder), or the "
            "CLIPs of Stable Diffusion 1.x, 2.x or XL"
        )
    return pairs


def _class_of(encoder: Any) -> Any:
    """The encoder itself where it is compiled."""
    return getattr(encoder, "_orig_mod", encoder)


def _weighting_for(encoder: Any, weighting: Weighting | None) -> Weighting:
    """What was asked for, or what the encoder is made for. Raises InputError for what means nothing behind an exit bridge."""
    if isinstance(encoder, BridgedTextEncoder) and weighting not in (None, "masked"):
        raise InputError(
            f"weighting={weighting!r}: the states of a bridge at CLIP's exit don't stand at the places of the prompt's tokens: "
            "expected 'masked'"
        )
    own_clip = isinstance(encoder, CLIPTextModel | CLIPTextModelWithProjection)
    return weighting or ("a1111" if own_clip else "masked")


def _check_context(encoder: Any, tokens: int) -> None:
    """Raise InputError where a prompt is too long to be encoded at once."""
    if not isinstance(_class_of(encoder), AltCLIPTextModel):
        raise InputError('long_prompts="whole": a bridge or a CLIP has learnt 77 tokens at most, expected "chunks"')
    config = encoder.config
    limit = config.max_position_embeddings - config.pad_token_id - 3  # positions begin after padding's; begin and end
    if tokens > limit:
        raise InputError(
            f'long_prompts="whole": this text encoder has positions for {limit} tokens, the prompt has {tokens}: '
            'expected "chunks"'
        )


@contextmanager
def _lora_scaled(encoders: Sequence[Any], scale: float | None) -> Iterator[None]:
    """As diffusers' `encode_prompt` does it."""
    if scale is None:
        yield
        return
    for encoder in encoders:
        scale_lora_layers(encoder, scale)
    try:
        yield
    finally:
        for encoder in encoders:
            unscale_lora_layers(encoder, scale)


def _encode(
    encoders: Sequence[tuple[Any, Any]],
    chunks: Sequence[list[Token]],
    device: Any,
    weighting: Weighting,
    clip_skip: int | None,
    of_xl: bool,
) -> tuple[Tensor, Tensor | None]:
    """States (chunks, tokens, width) with their weights, and the pooled vectors (chunks, width) that XL takes, or None.

    encoders: XL's two have the same vocabulary; their states lie side by side.
    """
    tokenizer = encoders[0][1]
    rows = [Row((tokenizer.bos_token_id, *(token.id for token in chunk), tokenizer.eos_token_id)) for chunk in chunks]
    others = [beside(row, chunk, weighting) for row, chunk in zip(rows, chunks, strict=True)]
    unique = list(dict.fromkeys([*rows, *(other for some in others for other in some)]))
    place = {row: index for index, row in enumerate(unique)}
    encoded = [_states(*pair, unique, device, clip_skip, of_xl) for pair in encoders]
    states, pooled = torch.cat([part for part, _ in encoded], -1), encoded[-1][1]
    of_chunks = [
        weighted(states[place[row]], chunk, weighting, [states[place[other]] for other in some])
        for row, chunk, some in zip(rows, chunks, others, strict=True)
    ]
    return torch.stack(of_chunks), None if pooled is None else pooled[[place[row] for row in rows]]


def _states(
    encoder: Any, tokenizer: Any, rows: Sequence[Row], device: Any, clip_skip: int | None, of_xl: bool
) -> tuple[Tensor, Tensor | None]:
    """What one encoder gives, from the layer that diffusers' pipelines take; the pooled vectors of an XL's second one."""
    ids, mask = pad([row.ids for row in rows], tokenizer.pad_token_id, max(MAX_TOKENS, *(len(row.ids) for row in rows)))
    kind = _class_of(encoder)
    if isinstance(kind, CLIPTextModel | CLIPTextModelWithProjection):  # has learnt to read its padding
        mask = torch.ones_like(mask)
    for index, row in enumerate(rows):
        mask[index, list(row.hidden)] = 0
    layers = getattr(kind.config, "num_hidden_layers", None)
    if clip_skip is not None and layers is not None and not 0 <= clip_skip < layers - of_xl:
        raise InputError(
            f"clip_skip {clip_skip} (--clip-skip {clip_skip + 1}): this text encoder has {layers} layers, of which at most "
            f"{layers - of_xl - 1} can be skipped"
        )
    is_bridge = isinstance(kind, BridgedTextEncoder)
    has_pooled = isinstance(kind, CLIPTextModelWithProjection) or (is_bridge and bool(kind.config.projection_dim))
    output = encoder(
        ids.to(device), attention_mask=mask.to(device), output_hidden_states=of_xl or clip_skip is not None
    )
    if of_xl:
        states = output.hidden_states[-((clip_skip or 0) + 2)]
    elif clip_skip is not None:
        states = getattr(encoder, "text_model", encoder).final_layer_norm(output.hidden_states[-(clip_skip + 1)])
    else:
        states = output[0]
    return states, output[0] if has_pooled else None
