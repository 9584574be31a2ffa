"""Hidden states of prompts as people write them: with weights, longer than 77 tokens, and changing over the steps.

    states = encode_prompts(pipe, "(黑暗精灵公主:1.2), 月光", "模糊")
    image = pipe(**states, num_inference_steps=25).images[0]

This works with every diffusers pipeline whose text encoder is AltCLIP's, alone or with a bridge behind it, and with those of
Stable Diffusion 1.x and 2.x with their own CLIP.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers
from torch import Tensor
from transformers import AltCLIPTextModel, CLIPTextModel

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
from altdiffusion.prompts.tokens import Token, in_chunks, prompt_tokens
from altdiffusion.text_encoder.bridge import BridgedTextEncoder
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS, pad

Weighting = Literal["a1111", "no-norm", "comfyui"]
LongPrompts = Literal["chunks", "whole"]


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

    def _at(self, step: int) -> PromptStates:
        return self.states[bisect.bisect_right(self.starts, max(step, 0)) - 1]


def encode_prompts(
    pipe: Any,
    prompts: str | Sequence[str],
    negative_prompts: str | Sequence[str] = "",
    *,
    prompt_syntax: PromptSyntax = "webui",
    weighting: Weighting = "a1111",
    long_prompts: LongPrompts = "chunks",
    clip_skip: int | None = None,
) -> dict[str, Tensor]:
    """Prompts as people write them (docs/prompts.md), as keyword arguments of `pipe`: prompt_embeds and the like.

    pipe: a diffusers pipeline whose text encoder is AltCLIP's, alone or with a bridge, or Stable Diffusion 1.x's or 2.x's.
    negative_prompts: one for all, or one for each.
    prompt_syntax: "webui" refuses what is malformed, "lenient" reads it as A1111 does, "none" reads brackets as text.
    weighting: what a weight does to the hidden states of its tokens: "a1111" multiplies them and restores the mean of all,
        "no-norm" multiplies them alone, "comfyui" moves them away from the states of "".
    long_prompts: "chunks" encodes 75 tokens at a time and puts the states one after the other; "whole" encodes all at
        once, which XLM-R can up to 510 tokens, and no CLIP and no bridge.
    clip_skip: as in diffusers.
    Raises InputError for what is malformed or too long, and for what one set of states can't say: prompt editing
    ([from:to:0.5], which a pipeline's `prompt_syntax=` reads), LoRAs (`take_loras`) and choices (`expand_choices`).
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if prompt_syntax != "none":
        negatives = [negative_prompts] if isinstance(negative_prompts, str) else negative_prompts
        for prompt in (*prompts, *negatives):
            if take_loras(prompt, prompt_syntax == "lenient")[1]:
                raise InputError(f"{prompt!r} names a LoRA: load it into the pipeline, and take it out by take_loras()")
    options: dict[str, Any] = {"weighting": weighting, "long_prompts": long_prompts, "clip_skip": clip_skip}
    scheduled = encode_schedule(pipe, prompts, negative_prompts, steps=1000, prompt_syntax=prompt_syntax, **options)
    if len(scheduled.states) > 1:
        raise InputError(
            "a prompt that changes over the steps has no single states: pass it with prompt_syntax='webui'"
        )
    return scheduled.first.arguments()


def encode_schedule(
    pipe: Any,
    prompts: Sequence[str],
    negative_prompts: str | Sequence[str],
    *,
    steps: int,
    prompt_syntax: PromptSyntax = "webui",
    weighting: Weighting = "a1111",
    long_prompts: LongPrompts = "chunks",
    clip_skip: int | None = None,
    lora_scale: float | None = None,
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
        if value not in get_args(known):
            raise InputError(f"{name}={value!r}: expected {', '.join(get_args(known))}")
    encoder, tokenizer = _reader_of(pipe)
    schedules = [schedule_of(prompt, steps, prompt_syntax) for prompt in [*prompts, *negatives]]
    starts = sorted({0, *(part.until for parts in schedules for part in parts if part.until < steps)})
    texts_at = [tuple(next(p.prompt for p in parts if start < p.until) for parts in schedules) for start in starts]
    distinct = list(dict.fromkeys(texts_at))  # an alternation comes back to its first text
    read = [chunks_of(tokenizer, text, prompt_syntax, long_prompts)[1] for texts in distinct for text in texts]
    if long_prompts == "whole":
        _check_context(encoder, max(len(row[0]) for row in read))
    count = max(map(len, read))
    chunks = [chunk for row in read for chunk in [*row, *[[]] * (count - len(row))]]
    with torch.no_grad(), _lora_scaled(encoder, lora_scale):
        states, pooled = _encode(encoder, tokenizer, chunks, pipe._execution_device, weighting, clip_skip)
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
    tokenizer: Any, text: str, syntax: PromptSyntax, long_prompts: LongPrompts = "chunks"
) -> tuple[str, list[list[Token]]]:
    """A prompt at one step: (its text without weights and breaks, its tokens in chunks)."""
    if syntax == "none":
        prompt = WeightedPrompt(text, (Span(0, len(text), 1.0),), ())
    else:
        prompt = parse_weights(text, syntax == "lenient")
    tokens = prompt_tokens(tokenizer, prompt)
    return prompt.text, [tokens] if long_prompts == "whole" else in_chunks(tokens, prompt)


def _reader_of(pipe: Any) -> tuple[Any, Any]:
    """A pipeline's text encoder and its tokenizer. Raises InputError where it is one of another kind."""
    for number in ("", "_2"):
        encoder = getattr(pipe, f"text_encoder{number}", None)
        if isinstance(getattr(encoder, "_orig_mod", encoder), AltCLIPTextModel | BridgedTextEncoder):
            return encoder, getattr(pipe, f"tokenizer{number}")
    encoder = getattr(pipe, "text_encoder", None)
    if isinstance(encoder, CLIPTextModel) and not hasattr(pipe, "text_encoder_2"):
        return encoder, pipe.tokenizer
    raise InputError(
        f"{type(pipe).__name__} reads prompts by {type(encoder).__name__}: expected AltCLIP's text encoder "
        "(swap_text_encoder), or the CLIP of Stable Diffusion 1.x or 2.x"
    )


def _check_context(encoder: Any, tokens: int) -> None:
    """Raise InputError where a prompt is too long to be encoded at once."""
    if not isinstance(getattr(encoder, "_orig_mod", encoder), AltCLIPTextModel):
        raise InputError('long_prompts="whole": a bridge or a CLIP has learnt 77 tokens at most, expected "chunks"')
    config = encoder.config
    limit = config.max_position_embeddings - config.pad_token_id - 3  # positions begin after padding's; begin and end
    if tokens > limit:
        raise InputError(
            f'long_prompts="whole": this text encoder has positions for {limit} tokens, the prompt has {tokens}: '
            'expected "chunks"'
        )


@contextmanager
def _lora_scaled(encoder: Any, scale: float | None) -> Iterator[None]:
    """As diffusers' `encode_prompt` does it."""
    if scale is None:
        yield
        return
    scale_lora_layers(encoder, scale)
    try:
        yield
    finally:
        unscale_lora_layers(encoder, scale)


def _encode(
    encoder: Any, tokenizer: Any, chunks: Sequence[list[Token]], device: Any, weighting: str, clip_skip: int | None
) -> tuple[Tensor, Tensor | None]:
    """States (chunks, tokens, width) with their weights, and the pooled vectors (chunks, width) that XL takes, or None."""
    begin, end, padding = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    length = max(MAX_TOKENS, *(len(chunk) + 2 for chunk in chunks))
    rows = [(begin, *(token.id for token in chunk), end) for chunk in chunks]
    weights = torch.ones(len(chunks), length)
    for index, chunk in enumerate(chunks):
        weights[index, 1 : len(chunk) + 1] = torch.tensor([token.weight for token in chunk])
    needs_empty = weighting == "comfyui" and bool((weights != 1).any())
    unique = list(dict.fromkeys([*rows, *[(begin, end)] * needs_empty]))
    ids, mask = pad(unique, padding, length)
    is_xl = bool(isinstance(encoder, BridgedTextEncoder) and encoder.config.projection_dim)
    is_clip = isinstance(encoder, CLIPTextModel)  # which has learnt to read its padding
    layers = getattr(encoder.config, "num_hidden_layers", None)
    if clip_skip is not None and layers is not None and not 0 <= clip_skip < layers:
        raise InputError(f"clip_skip {clip_skip}: this text encoder has {layers} layers, expected 0 to {layers - 1}")
    output = encoder(
        ids.to(device),
        attention_mask=None if is_clip else mask.to(device),
        output_hidden_states=is_xl or clip_skip is not None,
    )
    if is_xl:
        states, pooled = output.hidden_states[-2], output[0]
    elif clip_skip is not None:
        states, pooled = encoder.text_model.final_layer_norm(output.hidden_states[-(clip_skip + 1)]), None
    else:
        states, pooled = output[0], None
    empty = states[unique.index((begin, end))] if needs_empty else None
    places = torch.tensor([unique.index(row) for row in rows], device=states.device)
    states = _weighted(states[places], weights.to(states), weighting, empty)
    return states, None if pooled is None else pooled[places]


def _weighted(states: Tensor, weights: Tensor, weighting: str, empty: Tensor | None) -> Tensor:
    """The states (rows, tokens, width) with weights (rows, tokens); rows whose weights are all 1 stay as they are.

    empty: (tokens, width), the states of "".
    """
    weights = weights[..., None]
    changed = (weights != 1).flatten(1).any(1)
    if not changed.any():
        return states
    if empty is not None:
        return torch.where(weights == 1, states, empty + (states - empty) * weights)
    weighted = states * weights
    if weighting == "no-norm":
        return weighted
    before, after = (part.float().mean((1, 2), keepdim=True) for part in (states, weighted))
    restored = torch.where(changed[:, None, None], before / after, 1.0)
    if not ((restored > 0.1) & (restored < 10)).all():
        raise InputError(
            "these weights leave no mean that could be restored: take smaller ones, or weighting 'no-norm' or 'comfyui'"
        )
    return weighted * restored.to(states.dtype)
