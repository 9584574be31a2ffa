"""A diffusers pipeline's `__call__` that reads prompts as people write them: `pipe("(一只猫:1.2)", prompt_syntax="webui")`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from altdiffusion.errors import InputError
from altdiffusion.pipeline_calls.more_arguments import with_arguments
from altdiffusion.prompt_syntax import LoraTag, PromptSyntax, lora_names, lora_tags
from altdiffusion.prompts.loras import lora_weights
from altdiffusion.prompts.states import ScheduledStates, encode_schedule


def with_prompt_syntax(call: Callable[..., Any]) -> Callable[..., Any]:
    """A pipeline's `__call__` with three more arguments, `prompt_syntax`, `weighting` and `long_prompts`."""
    added = {"prompt_syntax": None, "weighting": None, "long_prompts": "chunks"}
    return with_arguments(call, added, _DOCUMENTATION, _call_with_states)


_DOCUMENTATION = """
prompt_syntax: "webui" reads weights, BREAK and prompt editing as the web UIs do, "lenient" also what is malformed,
    "none" reads brackets as text; all three read prompts of up to 510 tokens. None is diffusers' own way: brackets are
    text, and what comes after 77 tokens is cut. <lora:NAME:0.8> is the weight, in this call, of the LoRA that is loaded
    with adapter_name=NAME. Raises InputError. See docs/prompts.md.
weighting, long_prompts: see `encode_prompts`.
"""


def _call_with_states(
    pipe: Any,
    call: Callable[..., Any],
    arguments: dict[str, Any],
    prompt_syntax: Any,
    weighting: Any,
    long_prompts: Any,
) -> Any:
    if prompt_syntax is None:
        raise InputError("weighting and long_prompts need a prompt_syntax: pass prompt_syntax='webui'")
    prompts = arguments.pop("prompt", None)
    if prompts is None:
        raise InputError("prompt_syntax reads prompts: pass prompt, not prompt_embeds")
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)

    def value(name: str) -> Any:
        default = inspect.signature(call).parameters.get(name)
        return arguments.get(name, None if default is None else default.default)

    negatives = arguments.pop("negative_prompt", None) or ""
    loras = _loras(prompts, [negatives] if isinstance(negatives, str) else negatives, prompt_syntax)
    with lora_weights(pipe, loras):
        scheduled = encode_schedule(
            pipe,
            prompts,
            negatives,
            steps=max(1, int(value("num_inference_steps") * min(1.0, value("strength") or 1.0))),
            prompt_syntax=prompt_syntax,
            weighting=weighting,
            long_prompts=long_prompts,
            clip_skip=value("clip_skip"),
            lora_scale=(value("cross_attention_kwargs") or {}).get("scale"),
        )
        arguments |= scheduled.first.arguments()
        if len(scheduled.states) > 1:
            copies = value("num_images_per_prompt") or 1
            rows = [row for row in range(len(prompts)) for _ in range(copies)]
            callback = arguments.get("callback_on_step_end")
            inputs = getattr(callback, "tensor_inputs", value("callback_on_step_end_tensor_inputs"))
            changing = [name for name in scheduled.first.step_tensors(False, rows) if name not in inputs]
            arguments["callback_on_step_end"] = _editing(scheduled, rows, callback)
            arguments["callback_on_step_end_tensor_inputs"] = [*inputs, *changing]
        return call(pipe, **arguments)


def _loras(prompts: Sequence[str], negatives: Sequence[str], syntax: PromptSyntax) -> tuple[LoraTag, ...]:
    """Those that all prompts of a call name. Raises InputError where they differ, and for one in a negative prompt."""
    if names := list(lora_names(negatives, syntax)):
        raise InputError(
            f"the negative prompt names the LoRA {names[0]}, which acts on the whole image: put it into the prompt"
        )
    loras = [lora_tags(prompt, syntax) for prompt in prompts]
    if any(set(others) != set(loras[0]) for others in loras):
        raise InputError("the prompts of one call name different LoRAs, or other weights: call the pipeline for each")
    return loras[0] if loras else ()


def _editing(
    scheduled: ScheduledStates, rows: list[int], then: Callable[..., dict[str, Any]] | None
) -> Callable[..., dict[str, Any]]:
    """A `callback_on_step_end` that changes the states where the prompt changes, after the user's own callback."""

    def after_step(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        tensors = tensors if then is None else then(pipe, index, timestep, tensors)
        return scheduled.after_step(pipe, index, tensors, rows)

    return after_step
