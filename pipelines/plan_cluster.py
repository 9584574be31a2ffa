"""The published schedule on a cluster: throughput, communication, hours and cost of each phase, before anything is rented.

    python pipelines/plan_cluster.py --gpus 64 --bandwidth-gbit 400 --hour-price 2.5
    python pipelines/plan_cluster.py --gpus 64 --samples-per-second distill=900 align-2-quality=11

Counted here, on models of the published sizes without weights: parameters, and operations of a step forward and back.
Read from pipelines/settings/*.toml, which name the papers: batch, steps, what is trained, accumulation, gradient checkpointing.
Assumed, unless you measured it (`altdiffusion train STAGE ... --plan` on one GPU prints samples a second): seconds of the
computation, from a GPU's data sheet and the part of it that is used. All assumptions are printed below the table.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AltCLIPTextConfig, AltCLIPTextModel, AltCLIPVisionConfig, AltCLIPVisionModel

from altdiffusion.files import parse_toml
from altdiffusion.training.models.unet import select_trainable
from altdiffusion.training.stand_ins import STABLE_DIFFUSIONS, TEXT_ENCODERS, build

SETTINGS = Path(__file__).parent / "settings"
PHASES = ("distill", "contrast", "align-1-concepts", "align-2-quality", "align-3-guidance")
SD = STABLE_DIFFUSIONS["stable-diffusion-v1-5/stable-diffusion-v1-5"]
PROMPT = 77  # tokens of a prompt for a UNet, padded
GRADIENT = 4  # bytes: weights that are trained stay in float32, and so do their gradients


@dataclass(frozen=True)
class Work:
    """trained: parameters that get gradients. operations: of a sample in one step, forward and back."""

    trained: int
    operations: float


def operations(run: Any) -> float:
    """Floating-point operations; a multiplication with its addition counts two."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def step_of(model: nn.Module, output: Any, checkpointing: bool, frozen: float) -> Work:
    """output: runs the model on one sample. frozen: operations of what is run without gradients."""
    forward = operations(lambda: output())
    both = operations(lambda: output().sum().backward())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Work(trained, both + checkpointing * forward + frozen)


def ids(tokens: int) -> torch.Tensor:
    return torch.zeros((1, tokens), dtype=torch.long, device="meta")


def text_tower() -> nn.Module:
    with torch.device("meta"):
        return AltCLIPTextModel(AltCLIPTextConfig(**TEXT_ENCODERS["BAAI/AltCLIP-m9"]))


def work(phase: dict[str, Any], stage: str, tokens: int) -> Work:
    """tokens: of a text that isn't padded to 77."""
    checkpointing = phase.get("gradient_checkpointing", False)
    tower = text_tower()
    if stage == "distill":
        teacher = build("text_encoder", SD["text_encoder"]).requires_grad_(False)
        frozen = operations(lambda: teacher(ids(tokens)))
        return step_of(tower, lambda: tower(ids(tokens)).pooler_output, checkpointing, frozen)
    if stage == "contrast":
        sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
        with torch.device("meta"):
            images = AltCLIPVisionModel(AltCLIPVisionConfig(**sizes, patch_size=14)).requires_grad_(False)
        frozen = operations(lambda: images(torch.zeros(1, 3, 224, 224, device="meta")))
        return step_of(tower, lambda: tower(ids(tokens)).pooler_output, checkpointing, frozen)
    side, unet = phase["resolution"], build("unet", SD["unet"])
    select_trainable(unet, phase["trainable"])
    levels = 4
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2,
        ).requires_grad_(False)  # fmt: skip
        latents, states = torch.zeros(1, 4, side // 8, side // 8), torch.zeros(1, PROMPT, 768)
    tower.requires_grad_(False)
    frozen = operations(lambda: (vae.encode(torch.zeros(1, 3, side, side, device="meta")), tower(ids(PROMPT))))
    timestep = torch.zeros(1, device="meta")
    return step_of(unet, lambda: unet(latents, timestep, states).sample, checkpointing, frozen)


def seconds_of_all_reduce(trained: int, gpus: int, bandwidth_gbit: float) -> float:
    """A ring: over the slowest link go 2 (n - 1) / n times the gradients' bytes."""
    return 2 * (gpus - 1) / gpus * trained * GRADIENT / (bandwidth_gbit * 1e9 / 8)


def row(name: str, given: argparse.Namespace, measured: dict[str, float]) -> tuple[list[str], float, float]:
    """Of a phase: its line of the table, its hours and its cost."""
    phase = parse_toml((SETTINGS / f"{name}.toml").read_text(encoding="utf-8"))
    batch, steps, gpus = phase["batch_size"], phase["max_train_steps"], given.gpus
    parts = gpus * phase.get("gradient_accumulation_steps", 1)
    if batch % parts:
        raise SystemExit(
            f"{name}: batches of {batch} can't be shared by {gpus} GPUs: expected a number that divides it"
        )
    needs = work(phase, name.partition("-")[0], given.tokens)
    if name in measured:
        compute = batch / gpus / measured[name]
    else:
        compute = needs.operations * batch / gpus / (given.peak_tflops * 1e12 * given.utilisation)
    sending = seconds_of_all_reduce(needs.trained, gpus, given.bandwidth_gbit)
    hours = (compute + sending) * steps / 3600
    cost = hours * gpus * given.hour_price
    cells = [
        name, f"{steps:,}", f"{batch:,}", f"{batch // parts}", f"{needs.trained / 1e6:,.0f}", f"{needs.operations / 1e12:.2g}",
        f"{compute:.2g}" + ("" if name in measured else " *"), f"{sending:.2g}", f"{sending / (compute + sending):.0%}",
        f"{batch / (compute + sending):,.0f}", f"{hours:,.1f}", f"{cost:,.0f}",
    ]  # fmt: skip
    return cells, hours, cost


HEAD = (
    "phase", "steps", "batch", "micro-batch", "trained, millions", "TFLOP a sample", "computing, s", "all-reduce, s",
    "share", "samples a second", "hours", "cost",
)  # fmt: skip

parser = argparse.ArgumentParser(description="The published schedule on a cluster.")
parser.add_argument("--gpus", type=int, default=64)
parser.add_argument("--bandwidth-gbit", type=float, default=400, help="of a host's link to the others, Gbit/s")
parser.add_argument("--hour-price", type=float, default=2.5, help="of one GPU")
parser.add_argument(
    "--peak-tflops", type=float, default=989, help="of one GPU; H100 SXM, bf16, dense, says NVIDIA's data sheet"
)
parser.add_argument("--utilisation", type=float, default=0.3, help="what part of the peak is reached")
parser.add_argument("--tokens", type=int, default=22, help="of a text in distill and contrast")
parser.add_argument(
    "--samples-per-second", nargs="+", default=[], metavar="PHASE=F", help="measured on one GPU by --plan"
)


def main() -> None:
    given = parser.parse_args()
    measured = {name: float(value) for name, _, value in (each.partition("=") for each in given.samples_per_second)}
    if unknown := measured.keys() - set(PHASES):
        raise SystemExit(f"there is no phase {sorted(unknown)[0]!r}: expected some of {', '.join(PHASES)}")
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    total_hours = total_cost = 0.0
    for name in PHASES:
        cells, hours, cost = row(name, given, measured)
        total_hours, total_cost = total_hours + hours, total_cost + cost
        print("| " + " | ".join(cells) + " |", flush=True)
    print(f"| all | {'| ' * (len(HEAD) - 3)}| {total_hours:,.1f} | {total_cost:,.0f} |\n")
    if len(measured) < len(PHASES):
        print(
            f"* ASSUMED, not measured: a GPU computes at {given.utilisation:.0%} of {given.peak_tflops:g} TFLOPS; "
            "--samples-per-second replaces it"
        )
    print(
        f"- Assumed: a ring all-reduce of float32 gradients once a step, over links of {given.bandwidth_gbit:g} Gbit/s between "
        "hosts at full rate, not overlapped with the computation (in DDP most of it is: an upper limit).\n"
        f"- Assumed: texts of {given.tokens} tokens in distill and contrast, {PROMPT} for the UNet; frozen parts run at every "
        "step, without caches.\n"
        f"- Assumed: {given.hour_price:g} for an hour of a GPU; nothing for storage, traffic, idle time and failures.\n"
        "- Left out: AdamW and the moving average, reading the data, validation, checkpoints, the start."
    )


if __name__ == "__main__":
    main()
